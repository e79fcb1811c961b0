//! Rows with parity: tree blocks, data and parity are damaged, repaired or told of.

use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::StoredPart;

use super::*;

/// All stretches of the devices.
fn parts(volume: &Volume) -> Vec<(u64, StoredPart)> {
    let devids: Vec<u64> = volume.dev_items().iter().map(|item| item.devid.get()).collect();
    let of_device = |devid: u64| {
        let extents = volume.device_extents(DevId(devid)).into_iter();
        extents.flat_map(move |extent| volume.stored_parts(&extent, 0..extent.length)).map(move |part| (devid, part))
    };
    devids.into_iter().flat_map(of_device).collect()
}

/// Where the parity of an address is stored; and its row's number.
fn parity_spots(parts: &[(u64, StoredPart)], logical: u64) -> (u64, Vec<Spot>) {
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
/// in the others all parity.
fn damage_rows(disks: &Disks, victim: u64) -> usize {
    let fs = disks.open(Access::ReadOnly, DataRule::Usual);
    let volume = fs.shared().gate.volume();
    let (data, blocks) = used(&fs);
    let (parts, places, mut hit) = (parts(volume), Places::of(volume), BTreeSet::new());
    for at in blocks.into_iter().chain(data.into_iter().step_by(5)) {
        let (row, mut parities) = parity_spots(&parts, at);
        let spot = places.spots(at)[0];
        if row % 2 == 0 {
            parities.pop();
            if spot.devid == victim {
                parities.push(spot);
            }
        }
        hit.extend(parities.into_iter().map(|spot| (spot.devid, spot.physical)));
    }
    drop(fs);
    hit.iter().for_each(|(devid, physical)| disks.damage(&Spot { devid: *devid, physical: *physical, logical: 0 }));
    hit.len()
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
        assert!(damage_rows(&disks, victim) > 100);
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
            assert!(findings.iter().all(|found| found.trouble == Trouble::Parity && found.remedy == Remedy::None));
        }
        disks.damage(&hit);
        let (_, findings) = scrub(&fs, ScrubMode::ReadOnly);
        assert!(findings.is_empty(), "what the data can be rebuilt from is still there: {findings:?}");
    }
}
