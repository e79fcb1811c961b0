//! References judged by sums: what the extent tree says is added, what the trees refer to is taken away.
//!
//! Each fact of an extent becomes a fingerprint: who refers to it, how long it is, how many references
//! there are, which block of which level and generation lies there. The facts are added in whatever order
//! they are met, from any thread, to the bucket of the extent's address. A bucket that ends at zero holds
//! no fault; only the extents of the others are looked at one by one ([`crate::references`]).
//!
//! Memory: 8 bytes for each bucket, however many extents there are.

use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_format::items::BackRef;

use crate::fingerprint::numbers;
use crate::references::{Event, Extent, Target};

/// Neighbours share a bucket: this many bytes of address space.
const GRANULE: u64 = 16 << 20;
const BUCKETS: usize = 1 << 16;

const REFERENCE: u64 = 1;
const COUNT: u64 = 2;
const LENGTH: u64 = 3;
const BLOCK: u64 = 4;

/// The sums.
pub(crate) struct Sums {
    buckets: Vec<AtomicU64>,
}

impl Sums {
    pub fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn bucket(&self, bytenr: u64) -> &AtomicU64 {
        &self.buckets[numbers(0, [bytenr / GRANULE]) as usize % BUCKETS]
    }

    fn add(&self, bytenr: u64, value: u64) {
        self.bucket(bytenr).fetch_add(value, Ordering::Relaxed);
    }

    /// An extent item, without its back references.
    pub fn extent(&self, extent: &Extent) {
        let (at, refs) = (extent.bytenr, extent.refs);
        let mut sum = numbers(LENGTH, [at, extent.len, u64::from(extent.is_data())]).wrapping_mul(refs);
        sum = sum.wrapping_add(numbers(COUNT, [at]).wrapping_mul(refs));
        if !extent.is_data() {
            sum = sum.wrapping_add(numbers(BLOCK, [at, u64::from(extent.level), extent.generation]));
        }
        self.add(at, sum);
    }

    /// A back reference of an extent.
    pub fn back_ref(&self, bytenr: u64, back_ref: &BackRef, count: u32) {
        let sum = reference(bytenr, back_ref).wrapping_sub(numbers(COUNT, [bytenr]));
        self.add(bytenr, sum.wrapping_mul(u64::from(count)));
    }

    /// Something that cannot be balanced: the extent is to be looked at.
    pub fn upset(&self, bytenr: u64) {
        self.add(bytenr, numbers(u64::MAX, [bytenr]));
    }

    /// What a tree refers to, or a block that was walked.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Reference { target: Target { bytenr, len, data, .. }, back_ref } => {
                let length = numbers(LENGTH, [*bytenr, *len, u64::from(*data)]);
                self.add(*bytenr, reference(*bytenr, back_ref).wrapping_add(length).wrapping_neg());
            }
            Event::Block { bytenr, level, generation, .. } => {
                let block = numbers(BLOCK, [*bytenr, u64::from(*level), *generation]);
                self.add(*bytenr, block.wrapping_neg());
            }
        }
    }

    /// Whether extents at an address may be at fault.
    pub fn is_upset(&self, bytenr: u64) -> bool {
        self.bucket(bytenr).load(Ordering::Relaxed) != 0
    }

    /// Whether nothing is at fault anywhere.
    pub fn balance(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.load(Ordering::Relaxed) == 0)
    }
}

fn reference(bytenr: u64, back_ref: &BackRef) -> u64 {
    match *back_ref {
        BackRef::TreeBlock { root } => numbers(REFERENCE, [bytenr, 0, root.0, 0, 0]),
        BackRef::SharedBlock { parent } => numbers(REFERENCE, [bytenr, 1, parent.0, 0, 0]),
        BackRef::Data { root, objectid, offset } => numbers(REFERENCE, [bytenr, 2, root.0, objectid.0, offset]),
        BackRef::SharedData { parent } => numbers(REFERENCE, [bytenr, 3, parent.0, 0, 0]),
    }
}
