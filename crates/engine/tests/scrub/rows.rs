//! Rows with parity: tree blocks, data and parity are damaged, repaired or told of.

use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::StoredPart;

use super::cost::scrub_together;
use super::*;

/// All stretches of the devices.
pub(super) fn parts(volume: &Volume) -> Vec<(u64, StoredPart)> {
    let devids: Vec<u64> = volume.dev_items().iter().map(|item| item.devid.get()).collect();
    let of_device = |devid: u64| {
        let extents = volume.device_extents(DevId(devid)).into_iter();
        extents.flat_map(move |extent| volume.stored_parts(&extent, 0..extent.length)).map(move |part| (devid, part))
    };
    devids.into_iter().flat_map(of_device).collect()
}

/// Where the parity of an address is stored; and its row's number.
pub(super) fn parity_spots(parts: &[(u64, StoredPart)], logical: u64) -> (u64, Vec<Spot>) {
    let (mut number, mut spots) = (0, Vec::new());
    for (devid, part) in parts {
        let Held::Parity(parity) = part.held else { continue };
        let (row, len) = (parity.row.0, parity.columns * STRIPE_LEN);
        if (row..row + len).contains(&logical) {
            number = row / len;
            spots.push(Spot { devid: *devid, physical: part.physical + (logical - row) % STRIPE_LEN, logical });
        }
    }
    (number, spots)
}

/// Damages as much as the profile can bear: in every other row what a device holds, and with two parities one of them;
/// in the others all parity. Gives the sectors that are bad then; all of a tree block is.
fn damage_rows(disks: &Disks, victim: u64) -> BTreeSet<(u64, u64)> {
    let fs = disks.open(Access::ReadOnly, DataRule::Usual);
    let volume = fs.shared().gate.volume();
    let nodesize = u64::from(volume.geometry().nodesize);
    let (data, blocks) = used(&fs);
    let (parts, places, mut hit, mut bad) = (parts(volume), Places::of(volume), BTreeSet::new(), BTreeSet::new());
    let blocks = blocks.into_iter().map(|at| (at, nodesize));
    for (at, len) in blocks.chain(data.into_iter().step_by(5).map(|at| (at, SECTOR))) {
        let (row, mut parities) = parity_spots(&parts, at);
        let spot = places.spots(at)[0];
        if row % 2 == 0 {
            parities.pop();
            if spot.devid == victim {
                hit.insert((spot.devid, spot.physical));
                bad.extend((0..len).step_by(SECTOR as usize).map(|offset| (spot.devid, spot.physical + offset)));
            }
        }
        hit.extend(parities.iter().map(|spot| (spot.devid, spot.physical)));
        bad.extend(parities.iter().map(|spot| (spot.devid, spot.physical)));
    }
    drop(fs);
    hit.iter().for_each(|(devid, physical)| disks.damage(&Spot { devid: *devid, physical: *physical, logical: 0 }));
    bad
}

fn orders(left: &[u64]) -> Vec<Vec<u64>> {
    if left.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: &u64| {
        let others: Vec<u64> = left.iter().filter(|other| *other != first).copied().collect();
        orders(&others).into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    };
    left.iter().flat_map(with_first).collect()
}

/// Tree blocks, data and parity are bad at once: whichever device is scrubbed first, nothing is lost.
fn rows_are_repaired_in_any_order(profile: BlockGroupFlags, count: u64) {
    let disks = Disks::make(count, profile, profile);
    disks.fill(DataRule::Usual);
    let devids: Vec<u64> = (1..=count).collect();
    for (number, order) in orders(&devids).into_iter().enumerate() {
        let victim = devids[(number + number / devids.len()) % devids.len()];
        assert!(damage_rows(&disks, victim).len() > 100);
        let fs = disks.open(Access::ReadWrite, DataRule::Usual);
        for devid in &order {
            let monitor = Arc::new(ScrubMonitor::default());
            fs.scrub(DevId(*devid), &ScrubOptions::whole(ScrubMode::Repair), &monitor).unwrap();
            let lost: Vec<_> =
                monitor.take_findings().into_iter().filter(|finding| finding.remedy != Remedy::Repaired).collect();
            assert!(lost.is_empty(), "{order:?}, device {victim} is bad: {lost:?}");
        }
        let (_, findings) = scrub(&fs, ScrubMode::ReadOnly);
        assert!(findings.is_empty(), "{order:?}, device {victim} was bad: {findings:?}");
        for number in 0..file_count() {
            let id = fs.lookup(Place::new(fs.root(), format!("file {number}").as_bytes())).unwrap();
            let mut bytes = vec![0; FILE_LEN];
            fs.read(id, 0, &mut bytes).unwrap();
            assert!(bytes == content(number), "{order:?}: file {number}");
        }
        drop(fs);
        disks.assert_clean();
    }
}

#[test]
fn rows_are_repaired_in_any_order_raid5() {
    rows_are_repaired_in_any_order(BlockGroupFlags::RAID5, 3);
}

#[test]
fn rows_are_repaired_in_any_order_raid6() {
    rows_are_repaired_in_any_order(BlockGroupFlags::RAID6, 4);
}

/// All that was met: what the device is charged with, and parity that does not fit free space.
fn met(progress: &ScrubProgress) -> u64 {
    progress.errors() + progress.unverified_errors
}

/// Holds what was counted of a device against what was told of it. So many findings are kept, so beyond them the numbers say it.
fn assert_told(progress: &ScrubProgress, findings: &[ScrubFinding]) {
    const MOST_FINDINGS: usize = 10_000;
    let told: u64 = findings.iter().map(|finding| finding.len / SECTOR).sum();
    assert_eq!(told, places(findings).len() as u64, "nothing is told twice");
    assert!(findings.len() <= MOST_FINDINGS);
    if findings.len() < MOST_FINDINGS {
        assert_eq!(met(progress), told, "all is told");
    } else {
        assert!(met(progress) >= told, "{} are counted, {told} told", met(progress));
    }
}

/// All devices at once, with errors: each is told once, and repaired.
fn rows_are_repaired_together(profile: BlockGroupFlags, count: u64) {
    let disks = Disks::make(count, profile, profile);
    disks.fill(DataRule::Usual);
    for victim in 1..=count {
        let bad = damage_rows(&disks, victim);
        let fs = disks.open(Access::ReadWrite, DataRule::Usual);
        let seen = scrub_together(&fs, ScrubMode::ReadOnly);
        for (progress, findings) in &seen {
            assert_told(progress, findings);
            assert!(findings.iter().all(|finding| finding.remedy != Remedy::Repaired));
            assert!(places(findings).is_subset(&bad), "device {victim} is bad: something else is told of");
        }
        let seen: u64 = seen.iter().map(|(progress, _)| met(progress)).sum();
        assert!((bad.len() as u64 / 2..=bad.len() as u64).contains(&seen), "{seen} of {}, {victim}", bad.len());
        let done = scrub_together(&fs, ScrubMode::Repair);
        for (progress, findings) in &done {
            assert_told(progress, findings);
            let lost: Vec<_> = findings.iter().filter(|finding| finding.remedy != Remedy::Repaired).collect();
            assert!(lost.is_empty(), "device {victim} was bad: {lost:?}");
            assert!(places(findings).is_subset(&bad), "device {victim} was bad: something else was repaired");
            assert_eq!((progress.corrected_errors, progress.uncorrectable_errors), (met(progress), 0));
        }
        let all: u64 = done.iter().map(|(progress, _)| met(progress)).sum();
        // Tree blocks that were met meanwhile were repaired by who read them.
        assert!((bad.len() as u64 / 2..=bad.len() as u64).contains(&all), "{all} of {}, {victim}", bad.len());
        println!("{profile:?}, device {victim} was bad: {} sectors, {seen} seen, {all} repaired", bad.len());
        for (progress, left) in scrub_together(&fs, ScrubMode::ReadOnly) {
            assert!(left.is_empty() && progress.is_clean(), "device {victim} was bad: {left:?}");
        }
        drop(fs);
        disks.assert_clean();
    }
}

#[test]
fn rows_are_repaired_together_raid5() {
    rows_are_repaired_together(BlockGroupFlags::RAID5, 3);
}

#[test]
fn rows_are_repaired_together_raid6() {
    rows_are_repaired_together(BlockGroupFlags::RAID6, 4);
}

/// Scrubs of all devices that are cancelled at the same time and resumed count everything once.
#[test]
fn scrubs_that_share_rows_are_resumed() {
    let disks = Disks::make(3, BlockGroupFlags::RAID5, BlockGroupFlags::RAID1);
    disks.fill(DataRule::Usual);
    let fs = disks.open(Access::ReadWrite, DataRule::Usual);
    let (whole, _) = scrub(&fs, ScrubMode::Repair);
    let (mut starts, mut bytes, mut rounds) = (vec![Some(0); 3], 0, 0);
    while starts.iter().any(Option::is_some) {
        rounds += 1;
        let walks: Vec<_> = starts.iter().enumerate().filter_map(|(number, start)| Some((number, (*start)?))).collect();
        let begun = walks.into_iter().map(|(number, start)| {
            let monitor = Arc::new(ScrubMonitor::default());
            let options = ScrubOptions { start, ..ScrubOptions::whole(ScrubMode::Repair) };
            fs.set_scrub_limit(DevId(number as u64 + 1), 4 << 20).unwrap();
            fs.begin_scrub(DevId(number as u64 + 1), &options, &monitor).unwrap();
            (number, options, monitor)
        });
        let begun: Vec<_> = begun.collect();
        std::thread::scope(|scope| {
            let run = |(number, options, monitor): &(usize, ScrubOptions, Arc<ScrubMonitor>)| {
                fs.run_scrub(DevId(*number as u64 + 1), options, monitor).unwrap()
            };
            let running: Vec<_> = begun.iter().map(|one| scope.spawn(move || run(one))).collect();
            std::thread::sleep(std::time::Duration::from_millis(150 * rounds));
            fs.cancel_scrubs();
            for (end, (number, options, monitor)) in running.into_iter().zip(&begun) {
                let progress = monitor.progress();
                starts[*number] = match end.join().unwrap() {
                    ScrubEnd::Finished => None,
                    ScrubEnd::Cancelled => Some(monitor.progress().last_physical.max(options.start)),
                };
                bytes += monitor.progress().data_bytes + monitor.progress().tree_bytes;
                assert_eq!(progress.errors(), 0);
            }
        });
    }
    assert!(rounds > 1, "they were never cancelled in time");
    assert_eq!(bytes, whole.data_bytes + whole.tree_bytes);
}

/// One of several scrubs is cancelled: the others do what it would have done for them.
#[test]
fn others_go_on_without_a_scrub_that_stops() {
    let disks = Disks::make(3, BlockGroupFlags::RAID5, BlockGroupFlags::RAID5);
    disks.fill(DataRule::Usual);
    let fs = disks.open(Access::ReadWrite, DataRule::Usual);
    let whole: Vec<_> = scrub_together(&fs, ScrubMode::Repair).into_iter().map(|(progress, _)| progress).collect();
    // So that it stops with windows in hand.
    fs.set_scrub_limit(DevId(1), 1 << 20).unwrap();
    let options = ScrubOptions::whole(ScrubMode::Repair);
    let begun: Vec<_> = (1..=3).map(|devid| (DevId(devid), Arc::new(ScrubMonitor::default()))).collect();
    begun.iter().for_each(|(devid, monitor)| fs.begin_scrub(*devid, &options, monitor).unwrap());
    let ends = std::thread::scope(|scope| {
        let run = |(devid, monitor): &(DevId, Arc<ScrubMonitor>)| fs.run_scrub(*devid, &options, monitor).unwrap();
        let running: Vec<_> = begun.iter().map(|one| scope.spawn(move || run(one))).collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        begun[0].1.cancel();
        running.into_iter().map(|running| running.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(ends, [ScrubEnd::Cancelled, ScrubEnd::Finished, ScrubEnd::Finished]);
    for number in 1..3 {
        assert_eq!(begun[number].1.progress(), whole[number], "device {}", number + 1);
    }
}

/// Data without checksums that does not fit its parity: nobody knows which is right, so it is told and nothing is
/// written.
#[test]
fn parity_of_data_without_checksums_is_told_and_left() {
    for (profile, count) in [(BlockGroupFlags::RAID5, 3), (BlockGroupFlags::RAID6, 4)] {
        let disks = Disks::make(count, profile, profile);
        disks.fill(DataRule::InPlace);
        let fs = disks.open(Access::ReadWrite, DataRule::InPlace);
        let volume = fs.shared().gate.volume();
        let (data, _) = used(&fs);
        let hit = spots(volume, data[70])[0];
        let (_, parities) = parity_spots(&parts(volume), data[70]);
        let wanted: BTreeSet<_> = parities.iter().map(|spot| (spot.devid, spot.physical)).collect();
        disks.damage(&hit);
        for mode in [ScrubMode::ReadOnly, ScrubMode::Repair, ScrubMode::Repair] {
            let (_, findings) = scrub(&fs, mode);
            assert_eq!(places(&findings), wanted, "{findings:?}");
            assert!(findings.iter().all(|found| found.trouble == Trouble::Unfit && found.remedy == Remedy::None));
        }
        disks.damage(&hit);
        let (_, findings) = scrub(&fs, ScrubMode::ReadOnly);
        assert!(findings.is_empty(), "what the data can be rebuilt from is still there: {findings:?}");
    }
}

/// A device is overwritten, its superblocks left out: it alone is charged. Parity beside what was free space there does not fit any
/// more, and nobody knows which of them changed; it is made to fit, for the others are rebuilt from it.
fn only_who_was_overwritten_is_charged(profile: BlockGroupFlags, count: u64) {
    const VICTIM: u64 = 2;
    for order in [&[][..], &[1, 2, 3, 4][..], &[4, 3, 2, 1][..]] {
        let disks = Disks::make(count, profile, profile);
        disks.fill(DataRule::Usual);
        let disk = &disks.0[VICTIM as usize - 1];
        for (number, (from, to)) in [(1 << 20, 64 << 20), (65 << 20, device_len())].into_iter().enumerate() {
            disk.write_at(from, &Random::new(number as u64).bytes((to - from) as usize)).unwrap();
        }
        let fs = disks.open(Access::ReadWrite, DataRule::Usual);
        let one = |devid: &u64| {
            let monitor = Arc::new(ScrubMonitor::default());
            fs.scrub(DevId(*devid), &ScrubOptions::whole(ScrubMode::Repair), &monitor).unwrap();
            (monitor.progress(), monitor.take_findings())
        };
        let done: Vec<_> = match order {
            [] => scrub_together(&fs, ScrubMode::Repair),
            order => order.iter().filter(|devid| **devid <= count).map(one).collect(),
        };
        let unfit: u64 = done.iter().map(|(progress, _)| progress.unverified_errors).sum();
        assert!(unfit > 0, "no parity was beside free space");
        for (progress, findings) in &done {
            assert!(findings.iter().all(|finding| finding.remedy == Remedy::Repaired), "{findings:?}");
            let charged =
                findings.iter().find(|finding| finding.devid.0 != VICTIM && finding.trouble != Trouble::Unfit);
            assert_eq!(charged, None, "{order:?}");
            assert!(progress.errors() == 0 || findings[0].devid.0 == VICTIM, "{order:?}: {progress:?}");
        }
        for (devid, stats) in fs.shared().gate.volume().device_stats() {
            assert_eq!(stats.corruption_errors > 0, devid.0 == VICTIM, "{order:?}, device {devid}: {stats:?}");
        }
        assert!(scrub(&fs, ScrubMode::ReadOnly).1.is_empty(), "{order:?}: all was repaired");
        drop(fs);
        // What was repaired is what the others are rebuilt from.
        for lost in (0..count as usize).filter(|lost| *lost as u64 + 1 != VICTIM) {
            let mut left = disks.all();
            left.remove(lost);
            let how = butterfs_volume::OpenOptions {
                missing: butterfs_volume::Missing::Accept,
                ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
            };
            let volume = Volume::open_with(left, &how).unwrap();
            let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
            let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
            for number in 0..file_count() {
                let id = fs.lookup(Place::new(fs.root(), format!("file {number}").as_bytes())).unwrap();
                let mut bytes = vec![0; FILE_LEN];
                fs.read(id, 0, &mut bytes).unwrap();
                assert!(bytes == content(number), "{order:?}, without device {}: file {number}", lost + 1);
            }
        }
    }
}

#[test]
fn only_who_was_overwritten_is_charged_raid5() {
    only_who_was_overwritten_is_charged(BlockGroupFlags::RAID5, 3);
}

#[test]
fn only_who_was_overwritten_is_charged_raid6() {
    only_who_was_overwritten_is_charged(BlockGroupFlags::RAID6, 4);
}
