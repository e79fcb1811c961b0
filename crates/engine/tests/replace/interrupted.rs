//! Cut, suspended and cancelled: by whom, and what is left.

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, ReplaceEnd, Replacement};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource, ReplaceState};
use butterfs_testkit::disks::{self, Disks};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::{SIZE, assert_whole, made, replace, target};

/// Where a replacement is cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// As by a kill or a power cut.
    Power,
    /// By the end of a mount.
    Suspended,
}

/// Begins to replace device 2, and stops somewhere; gives the devices with the target as the last one.
pub fn interrupted(devices: &Disks, size: u64, cut: Cut) -> Disks {
    // Now and then it comes to its end before.
    let mut tries = (0..50).filter_map(|_| try_to_interrupt(&devices.snapshot(), &target(size), cut));
    tries.next().expect("it is slower than this once")
}

fn try_to_interrupt(devices: &Disks, new: &Arc<MemDevice>, cut: Cut) -> Option<Disks> {
    let fs = devices.open(&[]).unwrap();
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    let all = Disks(devices.0.iter().cloned().chain([new.clone()]).collect());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fs.run_replacement(begun).unwrap());
        while fs.replace_status().thousandths < 2 && !running.is_finished() {
            std::thread::yield_now();
        }
        if let Cut::Suspended = cut {
            let _ = fs.suspend_replacement();
            if running.join().unwrap() != ReplaceEnd::Suspended {
                return None;
            }
            assert_eq!(fs.replace_status().state, ReplaceState::Suspended);
            assert!(matches!(fs.exclusive().begin(Exclusive::Balance), Err(Error::InProgress("device replace"))));
        }
        // Some of it is on disk; what is written until the end reaches the target, too.
        disks::write_noise(&fs, "in place", 0, 500);
        fs.sync().unwrap();
        let snapshot = all.snapshot();
        let was_under_way = fs.replace_status().is_under_way();
        was_under_way.then_some(snapshot)
    })
}

pub fn resume(fs: &Filesystem) -> ReplaceEnd {
    let status = fs.replace_status();
    assert_eq!((status.state, status.source), (ReplaceState::Suspended, Some(DevId(2))));
    let begun = fs.begin_resumed_replacement().unwrap();
    fs.run_replacement(begun).unwrap()
}

#[test]
fn what_was_cut_goes_on() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    for cut in [Cut::Power, Cut::Suspended] {
        let mut all = interrupted(&devices, SIZE + 7, cut);
        let fs = all.open(&[]).unwrap();
        disks::write_noise(&fs, "between", 0, 501);
        assert!(matches!(resume(&fs), ReplaceEnd::Done(progress) if progress.unreadable == 0), "{cut:?}");
        assert_eq!(fs.replace_status().state, ReplaceState::Finished);
        drop(fs);
        all.0.remove(1);
        all.judge();
        let fs = all.open(&[0]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "in place", 0, 500);
        disks::assert_noise(&fs, "between", 0, 501);
        assert_eq!(fs.replace_status().state, ReplaceState::Finished);
    }
}

/// A cut at its end leaves the source with its superblocks. It is left out and erased; but not if it went on by itself.
#[test]
fn what_was_replaced_is_left_out() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let all = interrupted(&devices, SIZE, Cut::Suspended);
    let fs = all.open(&[]).unwrap();
    let begun = fs.begin_resumed_replacement().unwrap();
    let source = Arc::new(all.0[1].snapshot());
    assert!(matches!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Done(_)));
    drop(fs);
    let with_source =
        |source: &MemDevice| Disks(vec![all.0[0].clone(), Arc::new(source.snapshot()), all.0[2].clone()]).snapshot();
    let cut = with_source(&source);
    let fs = cut.open(&[]).unwrap();
    assert_eq!(fs.replace_status().state, ReplaceState::Finished);
    assert_whole(&fs);
    drop(fs);
    assert!(Volume::open(vec![cut.0[1].clone()], OpenMode::ReadOnly).is_err(), "it was not erased");
    for commits in [1, 12] {
        let alone = Disks(vec![Arc::new(source.snapshot())]);
        let fs = alone.open(&[]).unwrap();
        fs.cancel_replacement().unwrap();
        for round in 0..commits {
            disks::write_noise(&fs, "alone", 0, round);
            fs.sync().unwrap();
        }
        drop(fs);
        let refused = with_source(&alone.0[0]).open(&[]).map(drop).unwrap_err().to_string();
        assert!(refused.contains("are both device 2"), "{refused}");
    }
}

/// Somebody wants it to be suspended while it begins.
#[test]
fn suspended_before_it_runs() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let device: Arc<dyn BlockDevice> = target(SIZE);
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| fs.suspend_replacement().unwrap());
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Suspended);
    });
    // Nobody wants that any more.
    let begun = fs.begin_resumed_replacement().unwrap();
    cancel_while_it_runs(&fs, begun);
}

/// Cancels a replacement before its first window.
fn cancel_while_it_runs(fs: &Filesystem, begun: Replacement) {
    std::thread::scope(|scope| {
        let canceller = scope.spawn(|| fs.cancel_replacement());
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Cancelled);
        canceller.join().unwrap().unwrap();
    });
}

/// With its source lost after the cut, the others are enough.
#[test]
fn it_goes_on_without_its_source() {
    let devices = made(3, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let mut all = interrupted(&devices, SIZE, Cut::Power);
    let fs = all.open(&[1]).unwrap();
    disks::write_noise(&fs, "in place", 0, 700);
    assert!(matches!(resume(&fs), ReplaceEnd::Done(progress) if progress.unreadable == 0));
    // Its chunks are used again at once.
    let fixed = |fs: &Filesystem| {
        let chunks = fs.shared().gate.volume().chunks();
        fs.shared().gate.view(|tx| Ok(!chunks.iter().all(|(start, _)| tx.is_writable(*start)))).unwrap()
    };
    assert!(!fixed(&fs));
    disks::write_noise(&fs, "in place", 0, 701);
    fs.sync().unwrap();
    drop(fs);
    all.0.swap_remove(1);
    all.judge();
    for lost in 0..3 {
        let fs = all.open(&[lost]).unwrap();
        assert_whole(&fs);
        assert!(fixed(&fs));
        disks::assert_noise(&fs, "in place", 0, 701);
    }
}

#[test]
fn what_was_cut_can_be_cancelled() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    for cut in [Cut::Power, Cut::Suspended] {
        let mut all = interrupted(&devices, SIZE, cut);
        let before = all.snapshot();
        let fs = all.open(&[]).unwrap();
        fs.cancel_replacement().unwrap();
        assert_eq!(fs.replace_status().state, ReplaceState::Canceled);
        assert!(matches!(fs.cancel_replacement(), Err(Error::NotRunning)));
        drop(fs.exclusive().begin(Exclusive::Balance).unwrap());
        drop(fs);
        // A cut before the end of the target's superblock: it is left out, and erased.
        all.0[2] = before.0[2].clone();
        drop(all.open(&[]).unwrap());
        assert!(Volume::open(vec![all.0[2].clone()], OpenMode::ReadOnly).is_err());
        all.0.pop();
        all.judge();
        let fs = all.open(&[]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "in place", 0, 500);
        assert!(matches!(replace(&fs, 2, &target(SIZE)).unwrap(), ReplaceEnd::Done(_)));
    }
}

/// Cancelled, or cut at any moment, the filesystem is what it was, or the target is its device.
#[test]
fn cancelled_and_cut() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let new = target(SIZE);
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    cancel_while_it_runs(&fs, begun);
    assert_eq!(fs.replace_status().state, ReplaceState::Canceled);
    disks::write_noise(&fs, "after", 0, 400);
    fs.sync().unwrap();
    let cuts = std::thread::scope(|scope| {
        let running = scope.spawn(|| replace(&fs, 2, &new).unwrap());
        let mut cuts = Vec::new();
        while !running.is_finished() && cuts.len() < 12 {
            cuts.push(Disks(vec![devices.0[0].clone(), devices.0[1].clone(), new.clone()]).snapshot());
        }
        running.join().unwrap();
        cuts
    });
    drop(fs);
    for cut in cuts {
        let has_superblock = |at: &usize| {
            let mut magic = [0; 8];
            cut.0[*at].read_at(65536 + 64, &mut magic).unwrap();
            &magic == b"_BHRfS_M"
        };
        let there = (0..3).filter(has_superblock).map(|at| cut.0[at].clone()).collect();
        let cut = Disks(there).snapshot();
        let fs = cut.open(&[]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "after", 0, 400);
        if fs.replace_status().state == ReplaceState::Suspended && cut.0.len() == 3 {
            assert!(matches!(resume(&fs), ReplaceEnd::Done(_)));
        }
    }
    let done = Disks(vec![devices.0[0].clone(), new]);
    done.judge();
    assert_whole(&done.open(&[0]).unwrap());
}
