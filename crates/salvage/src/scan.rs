//! Every tree block that lies on the devices, found by its header and checksum. Through it trees can be read
//! without chunks: a pointer names a block by address and generation, and that pair is unique.
//!
//! # Invariants
//! * A block is here only if its checksum is right and it is well formed; its items may break their own rules.
//! * What cannot be read is passed over, and counted.
//!
//! # Locking
//! Threads take windows of the devices from one list; each keeps what it finds for itself until all are done.
//!
//! # Memory
//! About 130 bytes for each tree block of any age that is still there, 24 for each of its copies, and a window for each
//! thread.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};
use butterfs_volume::BlockDevice;

use crate::{Devices, threads};

/// How much is read at once, besides the block that begins in its last sector.
const WINDOW: u64 = 4 << 20;
/// Where a header has its UUID.
const FSID_AT: Range<usize> = 32..48;

/// A part of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list of devices.
    pub device: usize,
    /// In bytes.
    pub range: Range<u64>,
}

/// Where a block was found, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The device, by its place in the list.
    pub device: usize,
    /// Offset on the device.
    pub physical: u64,
    /// 0 for a leaf.
    pub level: u8,
    /// The tree that it was made for.
    pub owner: TreeId,
    /// The lowest key in it.
    pub first: Key,
    /// The highest key in it.
    pub last: Key,
}

/// A copy of a block of this address.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What the block says of itself.
    pub at: Logical,
    /// The device, by its place in the list.
    pub device: usize,
    /// Offset on the device.
    pub physical: u64,
}

/// A block's name: no other block of the filesystem ever has the same.
pub type Name = (Logical, Generation);

/// All blocks, and how to read them.
pub struct Blocks {
    devices: Devices,
    geometry: Geometry,
    found: HashMap<Name, Found>,
    copies: Vec<Seen>,
    /// The UUID of the chunk tree, which all blocks carry.
    pub chunk_tree_uuid: [u8; 16],
    /// Pieces of the devices that could not be read.
    pub unreadable: u64,
}

/// What one thread found.
#[derive(Default)]
struct Catch {
    found: Vec<(Name, Found)>,
    chunk_tree_uuid: Option<[u8; 16]>,
    unreadable: u64,
}

impl Blocks {
    /// Looks at all devices whole for blocks that are no younger than `newest`.
    pub fn scan(devices: &Devices, geometry: &Geometry, newest: Generation) -> Self {
        Self::scan_parts(devices, geometry, newest, &whole(devices))
    }

    /// Looks at parts of the devices.
    pub fn scan_parts(devices: &Devices, geometry: &Geometry, newest: Generation, parts: &[Part]) -> Self {
        let windows = Mutex::new(windows(devices, u64::from(geometry.sectorsize), parts));
        let scanner = Scanner { devices, geometry, newest };
        let catches = threads::gather(|| {
            let next = || windows.lock().unwrap_or_else(PoisonError::into_inner).next();
            scanner.run(std::iter::from_fn(next))
        });
        let mut blocks = Self {
            devices: devices.clone(),
            geometry: *geometry,
            found: HashMap::new(),
            copies: Vec::new(),
            chunk_tree_uuid: [0; 16],
            unreadable: 0,
        };
        catches.into_iter().for_each(|catch| blocks.enter(catch));
        blocks
    }

    fn enter(&mut self, catch: Catch) {
        for (name, found) in catch.found {
            self.copies.push(Seen { at: name.0, device: found.device, physical: found.physical });
            // The first copy on the first device, whichever thread was faster.
            let place = |found: &Found| (found.device, found.physical);
            let known = self.found.entry(name).or_insert(found);
            if place(&found) < place(known) {
                *known = found;
            }
        }
        self.chunk_tree_uuid = catch.chunk_tree_uuid.unwrap_or(self.chunk_tree_uuid);
        self.unreadable += catch.unreadable;
    }

    /// All blocks, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &Found)> {
        self.found.iter().map(|(name, found)| (*name, found))
    }

    /// All copies of all blocks, in no order.
    pub fn copies(&self) -> &[Seen] {
        &self.copies
    }

    /// The addresses of blocks of any age.
    pub fn addresses(&self) -> impl Iterator<Item = Logical> {
        self.found.keys().map(|(at, _)| *at)
    }

    /// A block's place, if it was found.
    pub fn get(&self, name: Name) -> Option<&Found> {
        self.found.get(&name)
    }

    /// What was known of blocks when they were looked for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Leaves of the chunk tree of any age, the newest first; what can no longer be read is left out.
    pub fn chunk_leaves(&self) -> Vec<TreeBlock> {
        let is_one = |found: &Found| found.owner == TreeId::CHUNK && found.level == 0;
        let mut names: Vec<_> = self.iter().filter(|(_, found)| is_one(found)).map(|(name, _)| name).collect();
        names.sort_by_key(|(at, generation)| (std::cmp::Reverse(*generation), *at));
        names.into_iter().filter_map(|name| self.read(name)).collect()
    }

    /// Reads a block again; `None` if it was not found, or cannot be read any more.
    pub fn read(&self, name: Name) -> Option<TreeBlock> {
        let found = self.found.get(&name)?;
        let mut bytes = vec![0; self.geometry.nodesize as usize];
        self.devices.get(found.device)?.read_at(found.physical, &mut bytes).ok()?;
        let block = TreeBlock::from_bytes(bytes);
        let expected = Expected { generation: Some(name.1), ..Expected::at(name.0) };
        check_structure(&block, &self.geometry, &expected, Checksum::Verify).is_ok().then_some(block)
    }

    /// Visits the leaves of a tree of its own blocks that were found; says whether they are all.
    pub fn walk(&self, id: TreeId, root: Name, level: u8, visit: &mut dyn FnMut(&TreeBlock)) -> bool {
        let Some(block) = self.read(root) else { return false };
        if block.level() != level || block.owner() != id {
            return false;
        }
        if block.is_leaf() {
            visit(&block);
            return true;
        }
        // Levels fall with each step and are checked, so a walk cannot go round in circles.
        let mut whole = true;
        for slot in 0..block.len() {
            let ptr = block.ptr(slot);
            let child = (Logical(ptr.blockptr.get()), Generation(ptr.generation.get()));
            whole &= self.walk(id, child, level - 1, visit);
        }
        whole
    }
}

/// All of all devices.
pub fn whole(devices: &Devices) -> Vec<Part> {
    devices.iter().enumerate().map(|(device, one)| Part { device, range: 0..one.len() }).collect()
}

/// Cuts what is stored of the parts into windows.
pub(crate) fn windows<'d>(devices: &'d Devices, sector: u64, parts: &[Part]) -> impl Iterator<Item = Part> + use<'d> {
    let mut parts = parts.to_vec();
    parts.reverse();
    let mut current: Option<Part> = None;
    std::iter::from_fn(move || {
        loop {
            let part = match current.take() {
                Some(part) => part,
                None => parts.pop()?,
            };
            let stored = devices[part.device].stored_from(part.range.start);
            let Some(stored) = stored.filter(|stored| stored.start < part.range.end) else { continue };
            let start = stored.start - stored.start % sector;
            let end = stored.end.min(part.range.end).min(start + WINDOW);
            current = (end < part.range.end).then_some(Part { device: part.device, range: end..part.range.end });
            return Some(Part { device: part.device, range: start..end });
        }
    })
}

struct Scanner<'a> {
    devices: &'a Devices,
    geometry: &'a Geometry,
    newest: Generation,
}

impl Scanner<'_> {
    fn run(&self, windows: impl Iterator<Item = Part>) -> Catch {
        let (mut catch, mut bytes) = (Catch::default(), Vec::new());
        for window in windows {
            let device = &*self.devices[window.device];
            let len = (window.range.end - window.range.start + u64::from(self.geometry.nodesize))
                .min(device.len().saturating_sub(window.range.start));
            bytes.resize(len as usize, 0);
            catch.unreadable += read(device, window.range.start, &mut bytes, self.geometry.sectorsize as usize);
            self.window(&window, &bytes, &mut catch);
        }
        catch
    }

    fn window(&self, window: &Part, bytes: &[u8], catch: &mut Catch) {
        let (nodesize, sector) = (self.geometry.nodesize as usize, self.geometry.sectorsize as usize);
        let starts = (window.range.end - window.range.start) as usize;
        for at in (0..starts).step_by(sector) {
            let Some(candidate) = bytes.get(at..at + nodesize) else { break };
            if !self.is_ours(&candidate[FSID_AT]) {
                continue;
            }
            let block = TreeBlock::from_bytes(candidate.to_vec());
            let expected = Expected::at(block.bytenr());
            let good = check_structure(&block, self.geometry, &expected, Checksum::Verify).is_ok();
            if good && block.generation() <= self.newest {
                let found = describe(&block, window.device, window.range.start + at as u64);
                catch.found.push(((block.bytenr(), block.generation()), found));
                catch.chunk_tree_uuid = Some(block.header().chunk_tree_uuid);
            }
        }
    }

    fn is_ours(&self, fsid: &[u8]) -> bool {
        fsid == self.geometry.fsid || self.geometry.seeds.iter().flatten().any(|seed| fsid == seed)
    }
}

fn describe(block: &TreeBlock, device: usize, physical: u64) -> Found {
    let (first, last) = match block.len() {
        0 => (Key::MIN, Key::MIN),
        len => (block.key(0), block.key(len - 1)),
    };
    Found { device, physical, level: block.level(), owner: block.owner(), first, last }
}

/// Reads what can be read, and gives how many sectors cannot; zeros stand for them.
fn read(device: &dyn BlockDevice, offset: u64, bytes: &mut [u8], sector: usize) -> u64 {
    if device.read_at(offset, bytes).is_ok() {
        return 0;
    }
    let mut unreadable = 0;
    for (number, part) in bytes.chunks_mut(sector).enumerate() {
        if device.read_at(offset + (number * sector) as u64, part).is_err() {
            part.fill(0);
            unreadable += 1;
        }
    }
    unreadable
}
