//! Every tree block that lies on the devices, found by its header and checksum. Through it trees can be read
//! without chunks: a pointer names a block by address and generation, and that pair is unique.
//!
//! # Memory
//! About 50 bytes for each tree block of any age that is still there.

use std::collections::HashMap;

use butterfs_check::Devices;
use butterfs_engine::tree::{ChildPtr, TreeRoot};
use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Generation, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::BlockDevice;

use crate::error::Result;

/// How much is read at once, besides the block that begins in its last sector.
const WINDOW: u64 = 4 << 20;
/// Where a header has its UUID and address.
const FSID_AT: std::ops::Range<usize> = 32..48;

/// Where a block was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    device: usize,
    physical: u64,
}

/// All blocks, and how to read them.
pub struct Blocks<'d> {
    devices: &'d Devices,
    geometry: Geometry,
    found: HashMap<(Logical, Generation), Found>,
    /// Leaves of the chunk tree, of any age.
    chunk_leaves: Vec<(Logical, Generation)>,
    /// The UUID of the chunk tree, which all blocks carry.
    pub chunk_tree_uuid: [u8; 16],
}

impl<'d> Blocks<'d> {
    /// Looks for blocks that are no younger than the superblock.
    ///
    /// # Errors
    /// If a device fails.
    pub fn scan(devices: &'d Devices, sb: &Superblock) -> Result<Self> {
        let geometry = Geometry::of(sb);
        let (found, chunk_leaves) = (HashMap::new(), Vec::new());
        let mut blocks = Self { devices, geometry, found, chunk_leaves, chunk_tree_uuid: [0; 16] };
        for number in 0..devices.len() {
            blocks.scan_device(number, sb.generation())?;
        }
        Ok(blocks)
    }

    fn scan_device(&mut self, number: usize, newest: Generation) -> Result<()> {
        let device = &*self.devices[number];
        let nodesize = u64::from(self.geometry.nodesize);
        let mut bytes = Vec::new();
        for start in (0..device.len()).step_by(WINDOW as usize) {
            let len = (WINDOW + nodesize).min(device.len() - start);
            bytes.resize(len as usize, 0);
            read(device, start, &mut bytes)?;
            self.scan_window(number, start, &bytes, newest);
        }
        Ok(())
    }

    fn scan_window(&mut self, device: usize, start: u64, bytes: &[u8], newest: Generation) {
        let (nodesize, sector) = (self.geometry.nodesize as usize, self.geometry.sectorsize as usize);
        for at in (0..bytes.len().min(WINDOW as usize)).step_by(sector) {
            let Some(candidate) = bytes.get(at..at + nodesize) else { break };
            if candidate[FSID_AT] != self.geometry.fsid {
                continue;
            }
            let block = TreeBlock::from_bytes(candidate.to_vec());
            let expected = Expected::at(block.bytenr());
            let good = check_structure(&block, &self.geometry, &expected, Checksum::Verify).is_ok();
            if good && block.generation() <= newest {
                self.enter(&block, Found { device, physical: start + at as u64 });
            }
        }
    }

    fn enter(&mut self, block: &TreeBlock, found: Found) {
        let name = (block.bytenr(), block.generation());
        let is_new = self.found.insert(name, found).is_none();
        if is_new && block.owner() == TreeId::CHUNK && block.is_leaf() {
            self.chunk_leaves.push(name);
        }
        self.chunk_tree_uuid = block.header().chunk_tree_uuid;
    }

    /// Whether a block of any age has this address.
    pub fn addresses(&self) -> impl Iterator<Item = Logical> {
        self.found.keys().map(|(at, _)| *at)
    }

    /// Leaves of the chunk tree, the newest first.
    ///
    /// # Errors
    /// If a device fails.
    pub fn chunk_leaves(&self) -> Result<Vec<TreeBlock>> {
        let mut names = self.chunk_leaves.clone();
        names.sort_by_key(|(at, generation)| (std::cmp::Reverse(*generation), *at));
        let leaves = names.iter().map(|(at, generation)| self.read(*at, *generation));
        Ok(leaves.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn read(&self, at: Logical, generation: Generation) -> Result<Option<TreeBlock>> {
        let Some(found) = self.found.get(&(at, generation)) else { return Ok(None) };
        let mut bytes = vec![0; self.geometry.nodesize as usize];
        read(&*self.devices[found.device], found.physical, &mut bytes)?;
        Ok(Some(TreeBlock::from_bytes(bytes)))
    }

    /// Visits the leaves of a tree of its own blocks that were found; says whether they are all.
    ///
    /// # Errors
    /// If a device fails.
    pub fn walk(&self, id: TreeId, root: TreeRoot, visit: &mut dyn FnMut(&TreeBlock)) -> Result<bool> {
        self.visit(id, &root.into(), visit)
    }

    /// Levels fall with each step and are checked, so a walk cannot go round in circles.
    fn visit(&self, id: TreeId, ptr: &ChildPtr, visit: &mut dyn FnMut(&TreeBlock)) -> Result<bool> {
        let Some(block) = self.read(ptr.bytenr, ptr.generation)? else { return Ok(false) };
        if block.level() != ptr.level || block.owner() != id {
            return Ok(false);
        }
        if block.is_leaf() {
            visit(&block);
            return Ok(true);
        }
        let mut whole = true;
        for slot in 0..block.len() {
            whole &= self.visit(id, &ChildPtr::of(&block, slot), visit)?;
        }
        Ok(whole)
    }
}

fn read(device: &dyn BlockDevice, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let failed = |source| butterfs_volume::Error::Device { name: device.name(), devid: None, source };
    Ok(device.read_at(offset, bytes).map_err(failed)?)
}
