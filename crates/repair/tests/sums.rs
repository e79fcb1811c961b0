//! What is lost of the extent tree and the checksum tree makes no bad data good, and gives no file another's data.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use std::cell::Cell;
use std::sync::Arc;

use butterfs_check::Kind;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};
use butterfs_repair::{Goal, Options, Plan, Renew, Verdict, plan};
use butterfs_testkit::damage::{SIZE, Subject};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};
use common::small::{put, small, take, with_leaf};
use common::{content, differing, make_plan, repaired, shared, trouble};

const NODESIZE: u32 = 4096;
const FILES: u64 = 130;
const LEN: usize = 64 << 10;
const CSUM_ROOT: Key = Key::new(TreeId::CSUM.0, ItemType::ROOT_ITEM, 0);
/// Where item headers begin in a leaf, and bits of a key.
const ITEMS: usize = 101;
const KEY_BITS: usize = 17 * 8;

/// Many files of one length, so that one bit of an address leads from one's data to another's.
fn many() -> Subject {
    made(NODESIZE)
}

fn made(nodesize: u32) -> Subject {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    let device = Arc::new(MemDevice::new(SIZE));
    let options = MakeOptions { nodesize, ..MakeOptions::new(SIZE, &SystemEnvironment) };
    mkfs::make(device.clone(), &options).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    for number in 0..FILES {
        let id = fs.create(Place::new(fs.root(), format!("f{number}").as_bytes()), &FILE).unwrap();
        let words = (0..LEN as u64 / 8).flat_map(|at| (at ^ number << 32).to_le_bytes());
        fs.write(id, 0, &words.collect::<Vec<u8>>()).unwrap();
    }
    fs.sync().unwrap();
    let device = device.snapshot();
    let volume = Volume::open(shared(&device), OpenMode::ReadOnly).unwrap();
    Subject { device, volume }
}

fn leaves(subject: &Subject, tree: TreeId) -> Vec<TreeBlock> {
    subject.blocks(subject.root_of(tree)).into_iter().filter(TreeBlock::is_leaf).collect()
}

fn wipe(subject: &Subject, device: &MemDevice, at: Logical) {
    let zeros = vec![0; subject.volume.geometry().nodesize as usize];
    subject.places(at).iter().for_each(|place| device.write_at(*place, &zeros).unwrap());
}

/// A plan with the checksum tree made anew.
fn init(device: &MemDevice) -> Plan {
    let renew = Renew { checksum_tree: true, ..Renew::default() };
    plan(&shared(device), &Options { renew, ..Options::default() }).unwrap()
}

fn is_computed(plan: &Plan) -> bool {
    plan.to_string().contains("computed from the data as it is")
}

#[test]
fn a_lost_root_item_of_checksums_makes_no_bad_data_good() {
    let subject = small();
    let good = content(&subject.device);
    let sums = leaves(&subject, TreeId::CSUM).remove(0);
    let broken = with_leaf(&subject, TreeId::ROOT, &|leaf| drop(take(leaf, CSUM_ROOT))).device;
    let lost_too = broken.snapshot();
    wipe(&subject, &lost_too, subject.root_of(TreeId::EXTENT));
    let folder = tempfile::tempdir().unwrap();
    for broken in [broken.snapshot(), lost_too] {
        let (device, plan) = repaired(&broken, &folder).unwrap();
        assert!(!is_computed(&plan), "{plan}");
        assert!(differing(&good, &content(&device)).is_empty());
        let at = Logical(sums.key(0).offset);
        subject.places(at).iter().for_each(|place| broken.write_at(*place + 100, b"rotten").unwrap());
        let refused = repaired(&broken, &folder).map(|(_, plan)| plan.to_string()).unwrap_err();
        assert!(refused.contains(&format!("data {at}")), "{refused}");
    }
    wipe(&subject, &broken, sums.bytenr());
    let volume = &subject.volume;
    for (start, chunk) in volume.chunks() {
        // What earlier transactions left, too.
        let end = start.0 + chunk.length().min(32 << 20);
        for at in (start.0..end).step_by(volume.geometry().nodesize as usize).map(Logical) {
            let mut bytes = vec![0; volume.geometry().nodesize as usize];
            volume.read(at, &mut bytes).unwrap();
            if TreeBlock::from_bytes(bytes).owner() == TreeId::CSUM {
                wipe(&subject, &broken, at);
            }
        }
    }
    let refused = make_plan(&broken).map(|plan| plan.to_string()).unwrap_err();
    assert!(refused.contains("--init-csum-tree"), "{refused}");
    let plan = init(&broken);
    assert!(plan.verdict == Verdict::Repaired && is_computed(&plan), "{plan}");
}

#[test]
fn no_file_gets_anothers_data_when_extents_and_sums_are_lost() {
    let subject = many();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (extents, sums) = (leaves(&subject, TreeId::EXTENT), leaves(&subject, TreeId::CSUM));
    assert!(extents.len() > 2 && sums.len() > 1, "{} and {} leaves", extents.len(), sums.len());
    let mut wrong = Vec::new();
    for (extent, sum) in extents.iter().flat_map(|extent| sums.iter().map(move |sum| (extent, sum))) {
        let broken = subject.device.snapshot();
        [extent, sum].iter().for_each(|leaf| wipe(&subject, &broken, leaf.bytenr()));
        let name = format!("{} and {}", extent.bytenr(), sum.bytenr());
        wrong.extend(trouble(&name, &broken, &good, 0, &folder));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_key_of_the_only_item_in_a_leaf_of_checksums_costs_no_checksum() {
    let subject = many();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for leaf in leaves(&subject, TreeId::CSUM).iter().filter(|leaf| leaf.len() == 1) {
        for bit in (0..KEY_BITS).step_by(5) {
            let mut broken = leaf.clone();
            broken.bytes_mut()[ITEMS + bit / 8] ^= 1 << (bit % 8);
            let broken = subject.with_block(leaf.bytenr(), &broken);
            tried += 1;
            let name = format!("bit {bit} of {}", leaf.bytenr());
            match repaired(&broken, &folder) {
                Ok((device, plan)) if !is_computed(&plan) => {
                    wrong.extend(differing(&good, &content(&device)).into_iter().map(|file| format!("{name}: {file}")));
                }
                Ok((_, plan)) => wrong.push(format!("{name}: {plan}")),
                Err(problem) => wrong.push(format!("{name}: {problem}")),
            }
            if init(&broken).verdict != Verdict::Repaired {
                wrong.push(format!("{name}: not made anew"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 20, "only {tried} were tried");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rotten {
    ItsData,
    OtherData,
}

/// A filesystem with a leaf of checksums that cannot be read, and sectors that do not have their checksum: of those in
/// this leaf or in another. Gives the sectors, too.
fn unreadable_sums_and_rotten_data(rotten: &[Rotten]) -> (MemDevice, Vec<Logical>) {
    let subject = many();
    let leaves = leaves(&subject, TreeId::CSUM);
    let [leaf, .., other] = &leaves[..] else { panic!("only {} leaves", leaves.len()) };
    let mut broken = leaf.clone();
    // An address that is no sector's.
    broken.bytes_mut()[ITEMS + 9] ^= 1;
    let device = subject.with_block(leaf.bytenr(), &broken);
    let place = |rotten: &Rotten| if *rotten == Rotten::ItsData { leaf } else { other }.key(0).offset;
    let sectors: Vec<Logical> = rotten.iter().map(place).map(Logical).collect();
    let places = sectors.iter().flat_map(|at| subject.places(*at));
    places.for_each(|place| device.write_at(place + 100, b"rotten").unwrap());
    (device, sectors)
}

/// Partial repairs, with data looked at before and only where checksums are touched.
fn partial_plans(device: &MemDevice) -> [Plan; 2] {
    [true, false].map(|data_csums| {
        plan(&shared(device), &Options { goal: Goal::Better, data_csums, ..Options::default() }).unwrap()
    })
}

/// Where data does not have its checksum once a plan is carried out.
fn blamed(plan: &Plan) -> Vec<Logical> {
    let bad = plan.after.findings.iter().filter(|finding| finding.kind == Kind::DataChecksum);
    bad.map(|finding| finding.place.bytenr.unwrap()).collect()
}

#[test]
fn a_partial_repair_of_checksums_is_made_beside_data_that_was_bad_before() {
    let (device, sectors) = unreadable_sums_and_rotten_data(&[Rotten::OtherData]);
    for plan in partial_plans(&device) {
        assert!(plan.verdict == Verdict::Better && blamed(&plan) == sectors, "{plan}\n{}", plan.after);
        assert!(plan.before.findings.iter().any(|finding| finding.kind == Kind::DataChecksum), "{}", plan.before);
    }
    let plan = make_plan(&device).unwrap();
    assert_eq!(plan.verdict, Verdict::Refused, "{plan}");
}

/// Also beside such data, and if errors get fewer.
#[test]
fn a_partial_repair_that_calls_other_data_bad_is_refused() {
    let (device, sectors) = unreadable_sums_and_rotten_data(&[Rotten::ItsData, Rotten::OtherData]);
    for plan in partial_plans(&device) {
        assert!(plan.verdict == Verdict::Refused && blamed(&plan) == sectors, "{plan}\n{}", plan.after);
    }
}

/// Its sums fit where it was; cut, they would be sums of other data.
#[test]
fn an_item_of_sums_that_lies_on_the_one_before_goes_back() {
    let subject = made(16384);
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let mut moved = 0;
    for (sums, bit) in [37, 75, 97].into_iter().flat_map(|sums| (13..18).map(move |bit| (sums, bit))) {
        let range = sums as u64 * 4096;
        let flipped = Cell::new(false);
        // Items that touch, of one length; the address of one of them is lower by a bit.
        let broken = with_leaf(&subject, TreeId::CSUM, &|leaf| {
            let keys: Vec<Key> = (0..leaf.len()).map(|slot| leaf.key(slot)).collect();
            for key in keys {
                for (number, part) in take(leaf, key).chunks(sums * 4).enumerate() {
                    let at = key.offset + number as u64 * range;
                    let wrong = at & !(1 << bit);
                    let is_wrong = number > 0 && part.len() == sums * 4 && wrong < at && at - wrong < range;
                    let offset = if is_wrong && !flipped.replace(true) { wrong } else { at };
                    put(leaf, Key { offset, ..key }, part);
                }
            }
        });
        if flipped.get() {
            let (device, plan) = repaired(&broken.device, &folder).unwrap();
            assert!(plan.to_string().contains("moved there") && !is_computed(&plan), "bit {bit} of {sums}: {plan}");
            assert!(differing(&good, &content(&device)).is_empty(), "bit {bit} of {sums}");
            moved += 1;
        }
    }
    assert!(moved > 8, "{moved}");
}
