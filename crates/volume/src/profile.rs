//! The profiles: how the stripes of a chunk share its bytes.
//!
//! Every profile is a grid. A row has `columns` data stripes of 64 KiB side by side, each kept `copies`
//! times, and with RAID5 and RAID6 one or two stripes of parity. Without parity stripe
//! `column * copies + copy` holds a column's copy in every row; with parity the stripes move on by one
//! from row to row.

use butterfs_format::items::{BlockGroupFlags, Chunk, STRIPE_LEN};
use butterfs_format::{Corruption, Logical};

use crate::error::{Error, Result};
use crate::parity::{Part, Recipe};

/// What a profile asks of its devices. Source: the table `btrfs_raid_array` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its bit; none for single.
    pub flags: BlockGroupFlags,
    /// How often each byte is stored as it is.
    pub copies: usize,
    /// How many stripes of a row are parity.
    pub parity: usize,
    /// How many stripes of a chunk lie on one device.
    pub stripes_per_device: usize,
    /// The fewest devices for a chunk.
    pub min_devices: usize,
    /// The most devices for a chunk; as many as there are, if `None`.
    pub max_devices: Option<usize>,
    /// The number of a chunk's devices is a multiple of this.
    pub device_multiple: usize,
}

const fn profile(flags: BlockGroupFlags, copies: usize, parity: usize, devices: [usize; 2]) -> Profile {
    let [min_devices, max] = devices;
    let max_devices = if max == 0 { None } else { Some(max) };
    Profile { flags, copies, parity, stripes_per_device: 1, min_devices, max_devices, device_multiple: 1 }
}

const PROFILES: [Profile; 9] = [
    profile(BlockGroupFlags::empty(), 1, 0, [1, 1]),
    profile(BlockGroupFlags::RAID0, 1, 0, [1, 0]),
    Profile { stripes_per_device: 2, ..profile(BlockGroupFlags::DUP, 2, 0, [1, 1]) },
    profile(BlockGroupFlags::RAID1, 2, 0, [2, 2]),
    Profile { device_multiple: 2, ..profile(BlockGroupFlags::RAID10, 2, 0, [2, 0]) },
    profile(BlockGroupFlags::RAID1C3, 3, 0, [3, 3]),
    profile(BlockGroupFlags::RAID1C4, 4, 0, [4, 4]),
    profile(BlockGroupFlags::RAID5, 1, 1, [2, 0]),
    profile(BlockGroupFlags::RAID6, 1, 2, [3, 0]),
];

impl Profile {
    /// The profile of a chunk with these flags; `None` if the bits make no profile that is known.
    pub fn of(flags: BlockGroupFlags) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.flags == flags.profile())
    }

    /// The most devices that a chunk in a filesystem of so many has.
    pub fn usable_devices(&self, devices: usize) -> usize {
        let most = self.max_devices.map_or(devices, |max| max.min(devices));
        most - most % self.device_multiple
    }

    /// How many stripes of a chunk on so many devices hold bytes that no other stripe holds.
    pub fn data_stripes(&self, devices: usize) -> usize {
        (devices * self.stripes_per_device).saturating_sub(self.parity) / self.copies
    }

    /// What a chunk item has as `sub_stripes`: the copies of a column, for RAID10.
    pub fn sub_stripes(&self) -> u16 {
        self.device_multiple as u16
    }
}

/// As many columns as there are different powers of the generator.
const MAX_PARITY_COLUMNS: u64 = 255;

/// How a chunk's stripes form a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Data stripes of a row.
    pub columns: u64,
    copies: usize,
    parity: u64,
}

/// One way to come to the bytes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A stripe that holds them, by copy.
    Stored(usize),
    /// From the other stripes of the row.
    Rebuilt(Recipe),
}

/// How many bytes each stripe of a chunk takes on its device.
///
/// # Errors
/// If the chunk's profile is not known, or does not fit its stripes.
pub fn stripe_length(start: Logical, chunk: &Chunk) -> Result<u64> {
    Ok(Grid::of(start, chunk)?.stripe_length(chunk.length()))
}

/// Where the byte at this address of a chunk is stored as it is: stripes by their place in the list, with the offset on
/// their device.
///
/// # Errors
/// If the chunk's profile is not known, or does not fit its stripes.
pub fn stored_places(start: Logical, chunk: &Chunk, at: Logical) -> Result<Vec<(usize, u64)>> {
    let grid = Grid::of(start, chunk)?;
    let offset = at.0.saturating_sub(start.0);
    let (number, within) = (offset / STRIPE_LEN, offset % STRIPE_LEN);
    let (row, column) = (number / grid.columns, number % grid.columns);
    let place = |copy| {
        let stripe = grid.stored(row, column, copy);
        (stripe, chunk.stripes[stripe].offset.get().saturating_add(row * STRIPE_LEN + within))
    };
    Ok((0..grid.copies()).map(place).collect())
}

impl Grid {
    pub fn of(start: Logical, chunk: &Chunk) -> Result<Self> {
        let (flags, stripes) = (chunk.flags(), chunk.stripes.len());
        let place = || format!("chunk {start}");
        let Some(Profile { copies, parity, .. }) = Profile::of(flags) else {
            return Err(Corruption::new(place(), format!("profile bits {:#x}", flags.profile().bits())).into());
        };
        if stripes <= parity || !(stripes - parity).is_multiple_of(copies) {
            let problem = format!("{stripes} stripes for profile {}", flags.profile_name());
            return Err(Corruption::new(place(), problem).into());
        }
        let grid = Self { columns: ((stripes - parity) / copies) as u64, copies, parity: parity as u64 };
        if grid.has_parity() && grid.columns > MAX_PARITY_COLUMNS {
            return Err(Error::Unsupported(format!("chunk {start} has parity over {stripes} devices")));
        }
        Ok(grid)
    }

    pub fn has_parity(&self) -> bool {
        self.parity > 0
    }

    /// How many stripes of a row are parity.
    pub fn parity(&self) -> usize {
        self.parity as usize
    }

    /// How often each byte is stored as it is.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// How many ways there are to a byte: its copies, then what can be rebuilt by leaving out one or,
    /// with two parities, any second stripe. As many as the kernel tries.
    pub fn ways(&self) -> usize {
        match self.parity {
            0 => self.copies,
            1 => 2,
            _ => 2 + self.columns as usize,
        }
    }

    /// The way number `way` to the bytes of a column.
    pub fn way(&self, way: usize, column: u64) -> Way {
        if way < self.copies {
            return Way::Stored(way);
        }
        let last = 1 + self.columns as usize;
        Way::Rebuilt(match way {
            1 => Recipe::WithP,
            way if way == last => Recipe::WithQ,
            // The other columns, one after the other.
            way => {
                let other = way as u64 - 2;
                Recipe::Without(if other < column { other } else { other + 1 })
            }
        })
    }

    /// The stripe of the chunk that holds a column's copy in a row.
    pub fn stored(&self, row: u64, column: u64, copy: usize) -> usize {
        if self.has_parity() { self.rotated(row, column) } else { column as usize * self.copies + copy }
    }

    /// The stripe of the chunk that holds a part of a row with parity.
    pub fn part(&self, row: u64, part: Part) -> usize {
        let place = match part {
            Part::Data(column) => column,
            Part::P => self.columns,
            Part::Q => self.columns + 1,
        };
        self.rotated(row, place)
    }

    /// What a stripe of the chunk holds in a row.
    pub fn part_of(&self, row: u64, stripe: usize) -> Part {
        if !self.has_parity() {
            return Part::Data((stripe / self.copies) as u64);
        }
        let stripes = self.columns + self.parity;
        match (stripe as u64 + stripes - row % stripes) % stripes {
            column if column < self.columns => Part::Data(column),
            place if place == self.columns => Part::P,
            _ => Part::Q,
        }
    }

    fn rotated(&self, row: u64, place: u64) -> usize {
        let stripes = self.columns + self.parity;
        ((row % stripes + place) % stripes) as usize
    }

    /// How many bytes each stripe of a chunk takes on its device.
    pub fn stripe_length(&self, length: u64) -> u64 {
        if self.columns == 1 {
            return length;
        }
        length.div_ceil(STRIPE_LEN).div_ceil(self.columns).saturating_mul(STRIPE_LEN)
    }

    /// Whether a stripe's bytes follow each other in the chunk too.
    pub fn is_straight(&self) -> bool {
        self.columns == 1 && !self.has_parity()
    }

    /// The columns that a stripe of the chunk stands for: its own, or with parity those of the whole row.
    pub fn columns_of(&self, stripe: usize) -> std::ops::Range<u64> {
        if self.has_parity() {
            return 0..self.columns;
        }
        let column = (stripe / self.copies) as u64;
        column..column + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: u64, parity: u64) -> Grid {
        Grid { columns, copies: 1, parity }
    }

    /// The rotation of the kernel: in row r data stripe c is on (c + r) mod n, P and Q follow the data.
    #[test]
    fn stripes_with_parity_rotate() {
        let raid5 = grid(2, 1);
        let row = |row| [Part::Data(0), Part::Data(1), Part::P].map(|part| raid5.part(row, part));
        assert_eq!([row(0), row(1), row(2), row(3)], [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        let raid6 = grid(2, 2);
        let row = |row| [Part::Data(0), Part::Data(1), Part::P, Part::Q].map(|part| raid6.part(row, part));
        assert_eq!([row(0), row(1), row(3), row(4)], [[0, 1, 2, 3], [1, 2, 3, 0], [3, 0, 1, 2], [0, 1, 2, 3]]);
    }

    #[test]
    fn a_stripe_holds_the_part_that_is_put_there() {
        for grid in [grid(1, 1), grid(2, 1), grid(2, 2), grid(5, 2)] {
            for row in 0..20 {
                let parts = (0..grid.columns).map(Part::Data).chain([Part::P, Part::Q]);
                for part in parts.take((grid.columns + grid.parity) as usize) {
                    assert_eq!(grid.part_of(row, grid.part(row, part)), part, "{grid:?} row {row}");
                }
            }
        }
    }

    /// Each pair of stripes of a row may be lost: some way does without both.
    #[test]
    fn some_way_does_without_any_two_stripes() {
        for columns in 1..6 {
            let grid = grid(columns, 2);
            for column in 0..columns {
                let ways: Vec<_> = (1..grid.ways()).map(|way| grid.way(way, column)).collect();
                assert!(ways.contains(&Way::Rebuilt(Recipe::WithP)) && ways.contains(&Way::Rebuilt(Recipe::WithQ)));
                for other in (0..columns).filter(|other| *other != column) {
                    assert!(ways.contains(&Way::Rebuilt(Recipe::Without(other))), "{columns} {column} {other}");
                }
                assert_eq!(ways.len() as u64, columns + 1);
            }
        }
    }
}
