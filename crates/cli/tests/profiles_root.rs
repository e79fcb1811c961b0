//! Every profile, filled by the kernel and read by the library: with devices missing, with bad sectors, and
//! with one fault more than is survived. Damage is in memory alone; the kernel never sees it.

mod common;

use butterfs_check::check;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_testkit::command::run;
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::library_tree;
use butterfs_testkit::overlay::{Overlay, SECTOR};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::unmount::patiently;
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{oracle, report};
use butterfs_volume::{BlockDevice, DeviceStats, FileDevice, Missing, OpenMode, Volume};
use common::{MIB, kernel, setup, subject};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a filesystem is made, and how many devices it survives the loss of.
struct Case {
    name: &'static str,
    mkfs: &'static [&'static str],
    sizes: &'static [u64],
    survives: usize,
}

const SIZE: u64 = 256 * MIB;

const CASES: [Case; 13] = [
    Case { name: "single", mkfs: &["-d", "single", "-m", "single"], sizes: &[SIZE; 3], survives: 0 },
    Case { name: "raid0", mkfs: &["-d", "raid0", "-m", "raid0"], sizes: &[SIZE; 3], survives: 0 },
    Case { name: "raid1", mkfs: &["-d", "raid1", "-m", "raid1"], sizes: &[SIZE; 3], survives: 1 },
    Case { name: "raid1c3", mkfs: &["-d", "raid1c3", "-m", "raid1c3"], sizes: &[SIZE; 4], survives: 2 },
    Case { name: "raid1c4", mkfs: &["-d", "raid1c4", "-m", "raid1c4"], sizes: &[SIZE; 4], survives: 3 },
    Case { name: "raid10", mkfs: &["-d", "raid10", "-m", "raid10"], sizes: &[SIZE; 5], survives: 1 },
    Case { name: "raid5-2", mkfs: &["-d", "raid5", "-m", "raid5"], sizes: &[SIZE; 2], survives: 1 },
    Case { name: "raid5-3", mkfs: &["-d", "raid5", "-m", "raid5", "--csum", "xxhash"], sizes: &[SIZE; 3], survives: 1 },
    Case { name: "raid5-5", mkfs: &["-d", "raid5", "-m", "raid5", "-n", "65536"], sizes: &[SIZE; 5], survives: 1 },
    Case { name: "raid6-3", mkfs: &["-d", "raid6", "-m", "raid6"], sizes: &[SIZE; 3], survives: 2 },
    Case { name: "raid6-4", mkfs: &["-d", "raid6", "-m", "raid6", "-n", "4096"], sizes: &[SIZE; 4], survives: 2 },
    Case {
        name: "uneven",
        mkfs: &["-d", "raid6", "-m", "raid1c3"],
        sizes: &[SIZE, 384 * MIB, 300 * MIB, 512 * MIB],
        survives: 2,
    },
    Case { name: "mixed", mkfs: &["-d", "raid1", "-m", "raid1"], sizes: &[SIZE; 3], survives: 1 },
];

/// A filesystem that the kernel filled, and what the kernel reads.
struct Filled {
    work: WorkDir,
    images: Vec<PathBuf>,
    tree: Tree,
}

/// Noise in whole sectors, so that each can be found on the devices.
const NOISE: [&str; 3] = ["noise0", "noise1", "noise2"];
const NOISE_BYTES: usize = 4 << 20;

impl Filled {
    fn new(case: &Case, options: &str) -> Option<Self> {
        let work = setup(case.name)?;
        let (images, mnt) = (devices::mkfs(work.path(), case.sizes, case.mkfs), work.dir("mnt"));
        {
            let mounted = KernelMount::new(&images, &mnt, options);
            let mut random = Random::new(7);
            for name in NOISE {
                let bytes: Vec<u8> = (0..NOISE_BYTES / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
                std::fs::write(mounted.join(name), bytes).expect("write");
                std::fs::File::open(mounted.join(name)).and_then(|file| file.sync_all()).expect("fsync");
            }
            populate::tree(&mnt, Plan { seed: 3, files: report::scaled(200), huge: 0, devices: true });
            std::fs::write(mounted.join("text"), "a line that can be compressed\n".repeat(40_000)).expect("write");
            if case.name == "mixed" {
                mounted.btrfs(&["filesystem", "sync"]);
                mounted.btrfs(&["balance", "start", "-dconvert=raid5,limit=1"]);
                std::fs::write(mounted.join("more"), random.bytes(1 << 20)).expect("write");
            }
        }
        let _mounted = KernelMount::new(&images, &mnt, "ro,noatime");
        let tree = Tree::read(&mnt);
        Some(Self { work, images, tree })
    }

    /// The devices, each over a layer that can be damaged.
    fn overlays(&self) -> Vec<Arc<Overlay>> {
        self.images.iter().map(|image| Arc::new(Overlay::new(device(image)))).collect()
    }

    #[track_caller]
    fn assert_reads(&self, devices: Devices, what: &str) {
        let tree = library_tree::read(&open(devices));
        tree.assert_same(&self.tree, Times::ExactWithAccess, what);
    }
}

type Devices = Vec<Arc<dyn BlockDevice>>;

fn device(image: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(FileDevice::open_read_only(image).expect("the image opens"))
}

fn open(devices: Devices) -> Filesystem {
    open_in(devices, OpenMode::ReadOnly)
}

/// The filesystem for reading; the volume may be repaired if `mode` says so.
fn open_in(devices: Devices, mode: OpenMode) -> Filesystem {
    let missing = if mode == OpenMode::ReadOnly { Missing::Accept } else { Missing::Refuse };
    let how = butterfs_volume::OpenOptions { missing, ..butterfs_volume::OpenOptions::new(mode) };
    let volume = Volume::open_with(devices, &how).expect("the volume opens");
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).expect("the filesystem opens")
}

/// All devices but those.
fn without(devices: &[Arc<Overlay>], missing: &[usize]) -> Devices {
    let there = devices.iter().enumerate().filter(|(index, _)| !missing.contains(index));
    there.map(|(_, device)| device.clone() as Arc<dyn BlockDevice>).collect()
}

/// Each set of one to `most` of `count` devices.
fn sets(count: usize, most: usize) -> Vec<Vec<usize>> {
    (1..1usize << count)
        .map(|bits| (0..count).filter(|index| bits >> index & 1 != 0).collect::<Vec<_>>())
        .filter(|set| set.len() <= most)
        .collect()
}

/// The numbers of the sectors of an image that are not zeros, superblocks left out.
fn used_sectors(image: &Path) -> Vec<(u64, u64)> {
    let file = std::fs::File::open(image).expect("the image opens");
    let len = file.metadata().expect("metadata").len();
    let mut found = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    for base in (0..len).step_by(bytes.len()) {
        let count = bytes.len().min((len - base) as usize);
        file.read_exact_at(&mut bytes[..count], base).expect("the image reads");
        for (number, sector) in bytes[..count].chunks(SECTOR as usize).enumerate() {
            let number = base / SECTOR + number as u64;
            let superblock = oracle::SUPERBLOCKS.contains(&(number * SECTOR));
            if !superblock && sector.iter().any(|byte| *byte != 0) {
                found.push((number, fingerprint(sector)));
            }
        }
    }
    found
}

fn fingerprint(sector: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    sector.hash(&mut hasher);
    hasher.finish()
}

fn damage_some(device: &Overlay, used: &[(u64, u64)], percent: u64, seed: u64) -> usize {
    let mut random = Random::new(seed);
    let bad: Vec<u64> = used.iter().filter(|_| random.percent(percent)).map(|(number, _)| *number).collect();
    bad.iter().for_each(|number| device.damage(*number));
    bad.len()
}

/// What is asked of every case: whole, without each set of devices that it survives the loss of, and with bad
/// sectors on as many.
fn survives(case: &Case) {
    let Some(filled) = Filled::new(case, "noatime,compress=zstd") else { return };
    let whole = filled.overlays();
    filled.assert_reads(without(&whole, &[]), case.name);
    judge(case, without(&whole, &[]), Verdict::Clean);
    if case.survives > 0 {
        judge(case, without(&whole, &[0]), Verdict::Clean);
    }
    let used: Vec<_> = filled.images.iter().map(|image| used_sectors(image)).collect();
    for set in sets(filled.images.len(), case.survives) {
        filled.assert_reads(without(&whole, &set), &format!("{} without {set:?}", case.name));
        let damaged = filled.overlays();
        for index in &set {
            // More than half, so that the same row is hit on both of two.
            let bad = damage_some(&damaged[*index], &used[*index], 60, *index as u64);
            assert!(bad > used[*index].len() / 3, "{}: only {bad} sectors are bad", case.name);
        }
        filled.assert_reads(without(&damaged, &[]), &format!("{} with bad sectors on {set:?}", case.name));
        if set == [0] {
            judge(case, without(&damaged, &[]), Verdict::Damaged);
        }
    }
    // One bad, another missing.
    if case.survives == 2 {
        let damaged = filled.overlays();
        damage_some(&damaged[0], &used[0], 60, 9);
        for missing in 1..damaged.len() {
            filled.assert_reads(without(&damaged, &[missing]), &format!("{}: 0 bad, {missing} missing", case.name));
        }
    }
    if case.survives > 0 {
        repairs(case, &filled, &used);
    }
}

/// What the checker is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Clean,
    Damaged,
}

/// Checks what the checker says; it compares all copies, and parity. That a device is missing is no error, and
/// mkfs.btrfs leaves things to warn of.
#[track_caller]
fn judge(case: &Case, devices: Devices, wanted: Verdict) {
    let how = butterfs_volume::OpenOptions {
        missing: Missing::Accept,
        ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
    };
    let volume = Volume::open_with(devices.clone(), &how).expect("the volume opens");
    let report = check(&volume, &butterfs_check::Options { data_csums: true, devices, ..Default::default() });
    let found = if report.is_clean() { Verdict::Clean } else { Verdict::Damaged };
    assert_eq!(found, wanted, "{}: {report}", case.name);
}

/// A volume that may be written is repaired by reading: the next reader meets no bad sector.
fn repairs(case: &Case, filled: &Filled, used: &[Vec<(u64, u64)>]) {
    let devices = filled.overlays();
    damage_some(&devices[0], &used[0], 20, 5);
    let before = devices[0].changed().len();
    let read = |what: &str| {
        let all = without(&devices, &[]);
        let fs = open_in(all, OpenMode::ReadWrite);
        library_tree::read(&fs).assert_same(&filled.tree, Times::ExactWithAccess, what);
        fs.shared().gate.volume().device_stats()
    };
    let first: Vec<u64> = read(case.name).iter().map(|(_, stats)| stats.corruption_errors).collect();
    assert!(first[0] > 0 && first[1..].iter().all(|count| *count == 0), "{}: {first:?}", case.name);
    assert!(devices[0].changed().len() < before, "{}: nothing was repaired", case.name);
    assert!(devices[1..].iter().all(|device| device.changed().is_empty()), "{}: others were written", case.name);
    let second = read("after repair");
    assert!(second.iter().all(|(_, stats)| *stats == DeviceStats::default()), "{}: {second:?}", case.name);
}

fn run_case(name: &str) {
    survives(CASES.iter().find(|case| case.name == name).expect("a case of this name"));
}

#[test]
fn single() {
    run_case("single");
}

#[test]
fn raid0() {
    run_case("raid0");
}

#[test]
fn raid1() {
    run_case("raid1");
}

#[test]
fn raid1c3() {
    run_case("raid1c3");
}

#[test]
fn raid1c4() {
    run_case("raid1c4");
}

#[test]
fn raid10() {
    run_case("raid10");
}

#[test]
fn raid5_on_two_devices() {
    run_case("raid5-2");
}

#[test]
fn raid5_on_three_devices() {
    run_case("raid5-3");
}

#[test]
fn raid5_on_five_devices() {
    run_case("raid5-5");
}

#[test]
fn raid6_on_three_devices() {
    run_case("raid6-3");
}

#[test]
fn raid6_on_four_devices() {
    run_case("raid6-4");
}

#[test]
fn uneven_devices_and_two_profiles() {
    run_case("uneven");
}

/// Data that is partly RAID1 and partly RAID5.
#[test]
fn half_converted_data() {
    run_case("mixed");
}

/// One copy of DUP is bad in places, of data and metadata: a mount that may write reads on, repairs, counts
/// and says so.
#[test]
fn dup_heals_itself() {
    let case = Case { name: "dup", mkfs: &["-d", "dup", "-m", "dup"], sizes: &[512 * MIB], survives: 0 };
    let Some(filled) = Filled::new(&case, "noatime") else { return };
    let image = &filled.images[0];
    let mut random = Random::new(11);
    let damaged = filled.overlays();
    let file = std::fs::OpenOptions::new().write(true).open(image).expect("the image opens");
    let used: BTreeSet<u64> = used_sectors(image).iter().map(|(number, _)| *number).collect();
    let mut bad = 0;
    for chunk in oracle::chunks(image) {
        // Of data the copy that is read first; of metadata either.
        let copy = chunk.physical[if chunk.kind.starts_with("DATA") { 0 } else { random.below(2) as usize }];
        for number in used.range(copy / SECTOR..(copy + chunk.length) / SECTOR) {
            if random.percent(30) {
                damaged[0].damage(*number);
                bad += 1;
            }
        }
    }
    assert!(bad > 500, "only {bad} sectors are bad");
    filled.assert_reads(without(&damaged, &[]), "dup with bad sectors");
    if !subject().is_butterfs() {
        return;
    }
    // Now on the disk, for a mount of ours.
    for number in damaged[0].changed() {
        let mut bytes = vec![0; SECTOR as usize];
        damaged[0].read_at(number * SECTOR, &mut bytes).expect("a sector reads");
        file.write_all_at(&bytes, number * SECTOR).expect("a sector writes");
    }
    drop((damaged, file));
    let mnt = filled.work.dir("mnt");
    let mounted = subject().mount(image, &mnt, "noatime");
    Tree::read(&mnt).assert_same(&filled.tree, Times::ExactWithAccess, "a mount with bad sectors");
    let log = mounted.log();
    mounted.unmount();
    assert!(log.contains("bad copy repaired") && log.contains("device 1 ("), "{log}");
    let stats = oracle::dump_tree(image, "dev");
    let counted = stats.lines().find(|line| line.contains("corruption_errs")).expect("there are statistics");
    assert!(counted.split_whitespace().any(|word| word.parse::<u64>().is_ok_and(|count| count > 100)), "{stats}");
    // A second reading finds everything repaired that is read first.
    let again = open_in(vec![device(image)], OpenMode::ReadOnly);
    library_tree::read(&again).assert_same(&filled.tree, Times::ExactWithAccess, "after repair");
    let errors = |fs: &Filesystem| fs.shared().gate.volume().device_stats()[0].1.corruption_errors;
    let before = errors(&again);
    let once_more = open_in(vec![device(image)], OpenMode::ReadOnly);
    library_tree::read(&once_more);
    assert_eq!(errors(&once_more), before, "the same errors are met again");
}

/// One device more is missing than the data survives, while the metadata is whole: what is lost is exactly
/// what lies on no device that is left.
#[test]
fn one_device_too_many() {
    for (name, profile, missing) in [
        ("lost-single", "single", 1),
        ("lost-raid0", "raid0", 1),
        ("lost-raid1", "raid1", 2),
        ("lost-raid1c3", "raid1c3", 3),
        ("lost-raid10", "raid10", 2),
        ("lost-raid5", "raid5", 2),
        ("lost-raid6", "raid6", 3),
    ] {
        let mkfs: &'static [&'static str] = Box::leak(Box::new(["-d", profile, "-m", "raid1c4"]));
        let case = Case { name, mkfs, sizes: &[SIZE; 4], survives: missing - 1 };
        let Some(filled) = Filled::new(&case, "noatime,compress=zstd") else { return };
        let on_devices: Vec<Vec<u64>> = filled
            .images
            .iter()
            .map(|image| used_sectors(image).into_iter().map(|(_, print)| print).collect())
            .collect();
        let mut times: HashMap<u64, usize> = HashMap::new();
        on_devices.iter().flatten().for_each(|print| *times.entry(*print).or_default() += 1);
        let on_devices: Vec<BTreeSet<u64>> =
            on_devices.into_iter().map(|prints| prints.into_iter().collect()).collect();
        // Parity beside unused space equals the data: where it lies cannot be told from the bytes then.
        let parity = matches!(profile, "raid5" | "raid6");
        let told = |print: &u64| !parity || times.get(print) == Some(&1);
        let devices = filled.overlays();
        let whole = open(without(&devices, &[]));
        let mut lost_somewhere = 0;
        for set in sets(4, missing).into_iter().filter(|set| set.len() == missing) {
            let losses = library_tree::losses(&whole, &open(without(&devices, &set)));
            assert!(losses.objects.is_empty(), "{name} without {set:?}: {:?}", losses.objects);
            let left: Vec<_> = (0..4).filter(|index| !set.contains(index)).map(|index| &on_devices[index]).collect();
            let is_left = |print: u64| left.iter().any(|device| device.contains(&print));
            let prints: Vec<_> = noise_sectors(&whole).into_iter().filter(|(_, print)| told(print)).collect();
            assert!(prints.len() > 2500, "{name}: only {} sectors can be told apart", prints.len());
            let known: BTreeSet<_> = prints.iter().map(|(place, _)| place.clone()).collect();
            let lost: BTreeSet<_> = losses.sectors.iter().filter(|place| known.contains(*place)).cloned().collect();
            let expected: BTreeSet<_> =
                prints.into_iter().filter(|(_, print)| !is_left(*print)).map(|(place, _)| place).collect();
            let (wrong, unneeded) = (expected.difference(&lost).count(), lost.difference(&expected).count());
            assert_eq!((wrong, unneeded), (0, 0), "{name} without {set:?}: {} are lost", lost.len());
            lost_somewhere += lost.len();
        }
        assert!(lost_somewhere > 500, "{name}: only {lost_somewhere} sectors were lost");
    }
}

/// Each sector of the noise, with its fingerprint.
fn noise_sectors(fs: &Filesystem) -> Vec<((PathBuf, u64), u64)> {
    let mut sectors = Vec::new();
    for name in NOISE {
        let place = butterfs_engine::dir::Place::new(fs.root(), name.as_bytes());
        let id = fs.lookup(place).expect("the file is there");
        let mut bytes = vec![0; NOISE_BYTES];
        assert_eq!(fs.read(id, 0, &mut bytes).expect("the file reads"), NOISE_BYTES);
        for (number, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            sectors.push(((PathBuf::from(name), number as u64 * SECTOR), fingerprint(sector)));
        }
    }
    sectors
}

/// All copies of some sectors are bad: those are lost, nothing else, and never are there wrong bytes.
#[test]
fn all_copies_bad() {
    for (name, profile) in
        [("bad-single", "single"), ("bad-raid0", "raid0"), ("bad-raid1", "raid1"), ("bad-raid10", "raid10")]
    {
        let mkfs: &'static [&'static str] = Box::leak(Box::new(["-d", profile, "-m", "raid1c3"]));
        let case = Case { name, mkfs, sizes: &[SIZE; 4], survives: 0 };
        let Some(filled) = Filled::new(&case, "noatime") else { return };
        let mut places: HashMap<u64, Vec<(usize, u64)>> = HashMap::new();
        for (index, image) in filled.images.iter().enumerate() {
            for (number, print) in used_sectors(image) {
                places.entry(print).or_default().push((index, number));
            }
        }
        let (whole, damaged) = (open(without(&filled.overlays(), &[])), filled.overlays());
        let mut random = Random::new(13);
        let mut expected = BTreeSet::new();
        for (place, print) in noise_sectors(&whole) {
            if random.percent(3) {
                places[&print].iter().for_each(|(index, number)| damaged[*index].damage(*number));
                expected.insert(place);
            }
        }
        let losses = library_tree::losses(&whole, &open(without(&damaged, &[])));
        assert!(losses.objects.is_empty() && expected.len() > 20);
        assert_eq!(losses.sectors.into_iter().collect::<BTreeSet<_>>(), expected, "{name}");
    }
}

/// Through the mount: several paths, a directory to look in, one device missing, and writing refused by name.
#[test]
fn a_mount_of_several_devices() {
    let case = Case { name: "mount", mkfs: &["-d", "raid5", "-m", "raid1"], sizes: &[SIZE; 3], survives: 1 };
    let Some(filled) = Filled::new(&case, "noatime") else { return };
    let Some(binary) = butterfs() else { return };
    let work = &filled.work;
    let mnt = work.dir("mnt");
    let [a, b, c] = [0, 1, 2].map(|index| filled.images[index].display().to_string());
    let mount = |words: &[&str]| {
        let log = work.file("log").display().to_string();
        run(std::process::Command::new(&binary).args(["mount", "--log", &log]).args(words).arg(&mnt))
    };
    let dir = format!("ro,device={}", work.path().display());
    let two = format!("ro,device={b},device={c}");
    for words in [&["-o", "ro", &a, &b, &c][..], &["-o", &two, &a], &["-o", &dir, &b], &["-o", "ro,degraded", &c, &a]] {
        mount(words).ok();
        let found = Tree::read(&mnt);
        patiently(|| run(std::process::Command::new(&binary).arg("umount").arg(&mnt))).ok();
        found.assert_same(&filled.tree, Times::ExactWithAccess, &format!("{words:?}"));
    }
    let refused = |words: &[&str], wanted: &[&str]| {
        let finished = mount(words);
        assert_eq!(finished.status.code(), Some(32), "{finished}");
        assert!(wanted.iter().all(|word| finished.stderr.contains(word)), "{finished}");
    };
    refused(&["-o", "ro", &a], &["devices 2 (uuid", "3 (uuid", "degraded"]);
    refused(&["-o", "ro,degraded", &a, "-v", &work.file("log").display().to_string()], &["no Btrfs filesystem"]);
    let clean = run(std::process::Command::new(&binary).args(["check", "--check-data-csum", &a, &b, &c]));
    assert!(clean.status.success(), "{clean}");
}

fn butterfs() -> Option<PathBuf> {
    match subject() {
        butterfs_testkit::mounter::Mounter::Butterfs { binary } => Some(binary),
        butterfs_testkit::mounter::Mounter::Kernel => {
            println!("only Butterfs has this command line");
            let _ = kernel();
            None
        }
    }
}
