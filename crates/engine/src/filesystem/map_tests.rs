//! Maps of files that have bytes in memory.

use std::ops::{ControlFlow, Range};

use super::InMemory;
use super::tests::{FILE, device, judge, open, top};
use crate::file::StretchKind::{Memory, Prealloc, Regular};
use crate::file::{SizeMode, Stretch};

const KIB: u64 = 1 << 10;

/// Written bytes have no place until they are written back; around them is what was there.
#[test]
fn a_map_shows_what_is_in_memory() {
    let device = device();
    let fs = open(&device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.write(id, 0, &[1; 64 << 10]).unwrap();
    fs.preallocate(id, 128 * KIB..192 * KIB, SizeMode::Extend).unwrap();
    fs.sync().unwrap();
    fs.write(id, 16 * KIB, &[2; 16 << 10]).unwrap();
    fs.write(id, 96 * KIB, &[3; 4 << 10]).unwrap();
    fs.write(id, 256 * KIB, &[4; 4 << 10]).unwrap();
    let map = |in_memory, range: Range<u64>| {
        let mut found = Vec::new();
        let visit = |stretch: Stretch| {
            found.push((stretch.offset / KIB, stretch.len / KIB, stretch.kind, stretch.at.0));
            ControlFlow::Continue(())
        };
        let end = fs.stretches(id, &range, in_memory, visit).unwrap();
        (found, end / KIB)
    };
    let (shown, end) = map(InMemory::Show, 0..u64::MAX);
    let at = shown[0].3;
    let places: Vec<_> = shown.iter().map(|(offset, len, kind, _)| (*offset, *len, *kind)).collect();
    let expected =
        [(0, 16, Regular), (16, 16, Memory), (32, 32, Regular), (96, 4, Memory), (128, 64, Prealloc), (256, 4, Memory)];
    assert_eq!((places.as_slice(), end), (expected.as_slice(), 260));
    assert_eq!((shown[1].3, shown[2].3), (0, at + 32 * KIB));
    assert_eq!(map(InMemory::Show, 20 * KIB..24 * KIB).0, [(20, 12, Memory, 0)]);
    let (shown, end) = map(InMemory::WriteBack, 0..u64::MAX);
    assert!(shown.iter().all(|(.., kind, at)| *kind != Memory && *at != 0), "{shown:?}");
    assert_eq!(end, 260);
    judge(&device, fs);
}
