//! Pieces with their bytes, read from the device in long stretches.

use std::collections::BTreeSet;

use butterfs_format::DevId;
use butterfs_volume::Volume;

use super::gather::Piece;

/// Stretches that are so near to each other are read as one.
const GAP: u64 = 16 << 10;

/// A stretch that is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub physical: u64,
    pub len: u64,
}

/// What pieces take on the device, by address.
pub(super) fn stretches(pieces: &[Piece]) -> Vec<Stretch> {
    joined(pieces.iter().map(|piece| Stretch { physical: piece.physical, len: piece.len }))
}

/// Stretches in the order of their addresses; those that are near to each other as one.
pub(super) fn joined(parts: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for part in parts {
        match stretches.last_mut() {
            Some(last) if part.physical <= last.physical + last.len + GAP => {
                last.len = (part.physical + part.len).max(last.physical + last.len) - last.physical;
            }
            _ => stretches.push(part),
        }
    }
    stretches
}

/// Bytes of a device.
pub(super) struct Loaded {
    parts: Vec<(Stretch, Vec<u8>)>,
    /// Sectors that could not be read.
    unread: BTreeSet<u64>,
}

impl Loaded {
    /// Reads; what fails is read again by sectors.
    pub fn read(volume: &Volume, devid: DevId, stretches: &[Stretch]) -> Self {
        let sector = u64::from(volume.geometry().sectorsize);
        let mut unread = BTreeSet::new();
        let read = |stretch: &Stretch| {
            let mut bytes = vec![0; stretch.len as usize];
            if volume.read_device(devid, stretch.physical, &mut bytes).is_err() {
                for (at, bytes) in (stretch.physical..).step_by(sector as usize).zip(bytes.chunks_mut(sector as usize))
                {
                    if volume.read_device(devid, at, bytes).is_err() {
                        unread.insert(at);
                    }
                }
            }
            (*stretch, bytes)
        };
        let parts = stretches.iter().map(read).collect();
        Self { parts, unread }
    }

    /// The bytes of a piece, or a part of one.
    pub fn bytes(&self, physical: u64, len: u64) -> &[u8] {
        let after = self.parts.partition_point(|(stretch, _)| stretch.physical <= physical);
        let (stretch, bytes) = &self.parts[after - 1];
        let from = (physical - stretch.physical) as usize;
        &bytes[from..from + len as usize]
    }

    /// Whether a part could not be read.
    pub fn is_unread(&self, physical: u64, len: u64) -> bool {
        self.unread.range(physical..physical + len).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::Logical;

    use super::super::gather::What;
    use super::*;

    #[test]
    fn what_is_near_is_read_at_once() {
        let piece = |physical, len| {
            let what = What::Data { sums: Vec::new() };
            Piece { physical, at: Logical(physical), len, generation: 1, what }
        };
        let pieces = [piece(0, 4096), piece(4096, 8192), piece(20480, 4096), piece(1 << 20, 4096)];
        let wanted = [Stretch { physical: 0, len: 24576 }, Stretch { physical: 1 << 20, len: 4096 }];
        assert_eq!(stretches(&pieces), wanted);
    }
}
