//! The one way to the disk: a thin layer over [`Volume`] that turns errors into text for findings.

use butterfs_format::items::{Chunk, DevItem};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Corruption, Key, Logical, Superblock, TreeBlock};
use butterfs_volume::{BlockDevice, Volume};

use crate::Devices;
use crate::chunks::parse_system_chunks;
use crate::finding::Place;

/// Why bytes could not be had.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// In words.
    pub problem: String,
    /// Whether it is only that a device is missing.
    pub absence: bool,
}

impl Fault {
    /// Something is wrong with what is there.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), absence: false }
    }
}

impl From<butterfs_volume::Error> for Fault {
    fn from(error: butterfs_volume::Error) -> Self {
        Self { problem: error.to_string(), absence: error.is_absence() }
    }
}

impl From<Corruption> for Fault {
    fn from(corruption: Corruption) -> Self {
        Self::new(corruption.problem)
    }
}

/// The volume and its devices.
pub(crate) struct Access<'v> {
    volume: &'v Volume,
    devices: &'v Devices,
    superblock: Superblock,
}

impl<'v> Access<'v> {
    pub fn new(volume: &'v Volume, devices: &'v Devices) -> Self {
        Self { volume, devices, superblock: volume.superblock() }
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What is known of tree blocks and sectors.
    pub fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    /// Whether a device is that of a seed filesystem.
    pub fn is_seed(&self, devid: u64) -> bool {
        self.volume.is_seed(devid.into())
    }

    /// How many copies, or ways to rebuild it, there are of the byte at an address; none if it is not mapped.
    pub fn copies(&self, at: Logical) -> usize {
        self.volume.copies(at).unwrap_or(0)
    }

    /// The first good copy of a block.
    pub fn block(&self, expected: &Expected) -> Result<TreeBlock, String> {
        let mut problem = String::from("is in no chunk");
        for copy in 0..self.copies(expected.bytenr) {
            match self.block_copy(expected, copy) {
                Ok(block) => return Ok(block),
                Err(fault) => problem = fault.problem,
            }
        }
        Err(problem)
    }

    /// One copy of a block whose structure is right; its items may be wrong.
    pub fn block_copy(&self, expected: &Expected, copy: usize) -> Result<TreeBlock, Fault> {
        let geometry = self.geometry();
        let block = TreeBlock::from_bytes(self.read_copy(expected.bytenr, geometry.nodesize as usize, copy)?);
        check_structure(&block, &geometry, expected, Checksum::Verify)?;
        Ok(block)
    }

    /// Another copy of a block; `None` if it is byte for byte as the `good` one.
    pub fn other_copy(
        &self,
        expected: &Expected,
        copy: usize,
        good: Option<&TreeBlock>,
    ) -> Result<Option<TreeBlock>, Fault> {
        let geometry = self.geometry();
        let bytes = self.read_copy(expected.bytenr, geometry.nodesize as usize, copy)?;
        if good.is_some_and(|good| good.bytes() == bytes) {
            return Ok(None);
        }
        let block = TreeBlock::from_bytes(bytes);
        check_structure(&block, &geometry, expected, Checksum::Verify)?;
        Ok(Some(block))
    }

    /// Tells the devices that all copies of a range will be read soon.
    pub fn prefetch(&self, at: u64, len: u64) {
        (0..self.copies(Logical(at))).for_each(|copy| self.prefetch_copy(at, len, copy));
    }

    /// The same for one copy.
    pub fn prefetch_copy(&self, at: u64, len: u64, copy: usize) {
        self.volume.prefetch(Logical(at), usize::try_from(len).unwrap_or(usize::MAX), copy);
    }

    /// Reads one copy of a range.
    pub fn read_into(&self, at: Logical, buf: &mut [u8], copy: usize) -> Result<(), Fault> {
        Ok(self.volume.read_copy(at, buf, copy)?)
    }

    /// The UUID that the chunk tree's root gives the tree.
    pub fn chunk_tree_uuid(&self) -> [u8; 16] {
        self.volume.chunk_tree_uuid()
    }

    pub fn read_copy(&self, at: Logical, len: usize, copy: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.read_into(at, &mut bytes, copy)?;
        Ok(bytes)
    }

    /// The bytes from an address to the end of its chunk; zero if it is not mapped.
    pub fn contiguous(&self, at: Logical) -> u64 {
        self.volume.contiguous(at)
    }

    /// Where the chunk of an address begins.
    pub fn chunk_start(&self, at: Logical) -> Option<u64> {
        self.volume.chunk_containing(at).map(|(start, _)| start.0)
    }

    /// The chunks in the superblock's array.
    pub fn system_chunks(&self) -> Vec<(Key, Chunk)> {
        let size = self.superblock.sys_chunk_array_size.get() as usize;
        self.superblock.sys_chunk_array.get(..size).map(parse_system_chunks).unwrap_or_default()
    }

    /// Each superblock copy that a device has room for, with its offset there.
    pub fn superblock_copies(&self) -> Vec<(u64, Place, Result<Superblock, String>)> {
        let mut copies = Vec::new();
        for device in self.devices {
            for offset in SUPERBLOCK_OFFSETS {
                if offset + SUPERBLOCK_SIZE as u64 <= device.len() {
                    let place = Place::superblock_copy(device.name(), offset);
                    copies.push((offset, place, read_superblock(&**device, offset)));
                }
            }
        }
        copies
    }

    /// The device items in the devices' own first superblocks, but for those of older commits.
    pub fn device_items(&self) -> Vec<(u64, DevItem)> {
        let read = |device: &dyn BlockDevice| read_superblock(device, SUPERBLOCK_OFFSETS[0]).ok();
        let current = |sb: &Superblock| sb.generation == self.superblock.generation;
        let superblocks = self.devices.iter().filter_map(|device| read(&**device)).filter(current);
        let own: Vec<_> = superblocks.map(|sb| (sb.dev_item.devid.get(), sb.dev_item)).collect();
        if own.is_empty() { vec![(self.superblock.dev_item.devid.get(), self.superblock.dev_item)] } else { own }
    }
}

fn read_superblock(device: &dyn BlockDevice, offset: u64) -> Result<Superblock, String> {
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    device.read_at(offset, &mut bytes).map_err(|e| e.to_string())?;
    Superblock::parse(&bytes, offset).map_err(|e| e.problem)
}
