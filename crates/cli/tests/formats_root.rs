//! What the kernel and btrfs-progs can make, read by the library: content and metadata are equal.

mod common;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, Rescue};
use butterfs_format::Generation;
use butterfs_format::hash::name_hash;
use butterfs_testkit::command::run;
use butterfs_testkit::devices::{KernelMount, Loop};
use butterfs_testkit::library_tree;
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::overlay::{Overlay, SECTOR};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree, hash_file};
use butterfs_testkit::unmount::unmount;
use butterfs_testkit::{oracle, report};
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};
use common::{MIB, kernel, setup, subject};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

type Devices = Vec<Arc<dyn BlockDevice>>;

fn device(image: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(FileDevice::open_read_only(image).expect("the image opens"))
}

fn try_open(devices: Devices, options: OpenOptions) -> Result<Filesystem, String> {
    let checksums = options.rescue.block_checksums();
    let how = butterfs_volume::OpenOptions {
        block_checksums: checksums,
        ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
    };
    let volume = Volume::open_with(devices, &how).map_err(|error| error.to_string())?;
    let options = OpenOptions { access: Access::ReadOnly, ..options };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(|error| error.to_string())
}

fn open(devices: Devices) -> Filesystem {
    try_open(devices, OpenOptions::default()).expect("the filesystem opens")
}

fn rescued(devices: Devices, rescue: Rescue) -> Result<Filesystem, String> {
    try_open(devices, OpenOptions { rescue, ..OpenOptions::default() })
}

fn plan(seed: u64) -> Plan {
    Plan { seed, files: report::scaled(150), huge: 0, devices: true }
}

/// What the kernel reads.
fn kernel_tree(image: &Path, mnt: &Path, options: &str) -> Tree {
    let mounted = kernel().mount(image, mnt, options);
    let tree = Tree::read(mnt);
    mounted.unmount();
    tree
}

#[test]
fn shapes_of_filesystems() {
    let shapes: [(&str, &[&str], &str); 12] = [
        ("mixed block groups", &["-M"], "noatime"),
        ("explicit holes", &["-O", "^no-holes"], "noatime"),
        ("non-skinny", &["-O", "^skinny-metadata"], "noatime,compress=zlib"),
        ("v1 space cache", &["-O", "^free-space-tree,^block-group-tree"], "noatime,space_cache=v1"),
        ("old style", &["-n", "4096", "-O", "^free-space-tree,^no-holes,^skinny-metadata"], "noatime,nospace_cache"),
        ("no checksums", &[], "noatime,nodatasum"),
        ("lzo everywhere", &["-O", "^no-holes"], "noatime,compress-force=lzo"),
        ("zstd everywhere", &["-n", "65536"], "noatime,compress-force=zstd:9"),
        ("zlib everywhere", &["--csum", "sha256"], "noatime,compress-force=zlib,max_inline=0"),
        ("simple quotas", &["-O", "squota"], "noatime"),
        ("quotas", &["-O", "quota"], "noatime"),
        ("no inline files", &["-d", "dup", "-O", "block-group-tree"], "noatime,max_inline=0"),
    ];
    let Some(work) = setup("shapes") else { return };
    let mnt = work.dir("mnt");
    for (name, mkfs, options) in shapes {
        println!("{name}");
        let image = work.file("image");
        kernel().mkfs(&image, 512 * MIB, mkfs);
        let mounted = kernel().mount(&image, &mnt, options);
        populate::tree(&mnt, plan(5));
        std::fs::write(mounted.join("text"), "a line that can be compressed\n".repeat(60_001)).expect("write");
        std::fs::write(mounted.join("small text"), "short ".repeat(300)).expect("write");
        mounted.unmount();
        let want = kernel_tree(&image, &mnt, "ro,noatime");
        library_tree::read(&open(vec![device(&image)])).assert_same(&want, Times::ExactWithAccess, name);
        std::fs::remove_file(&image).expect("remove");
    }
}

/// Names with one hash, a file of thousands of names, and a default subvolume that is not the top.
#[test]
fn names_links_and_a_default_subvolume() {
    let Some(work) = setup("names") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    let subvolume = mounted.join("chosen");
    kernel().create_subvolume(&subvolume);
    for (number, name) in colliding_names(6).iter().enumerate() {
        std::fs::write(subvolume.join(name), format!("{number}")).expect("write");
    }
    std::fs::write(subvolume.join("linked"), "many").expect("write");
    for number in 0..3000 {
        let dir = subvolume.join(format!("dir{}", number % 3));
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::hard_link(subvolume.join("linked"), dir.join(format!("link-{}-{number}", "l".repeat(60))))
            .expect("link");
    }
    std::fs::write(mounted.join("outside"), "not seen").expect("write");
    run(Command::new("btrfs").args(["subvolume", "set-default"]).arg(&subvolume)).ok();
    mounted.unmount();
    let want = kernel_tree(&image, &mnt, "ro,noatime");
    assert!(want.entries.contains_key(Path::new("linked")) && want.len() > 3000);
    library_tree::read(&open(vec![device(&image)])).assert_same(&want, Times::ExactWithAccess, "names");
}

/// Pairs of names whose hashes are equal.
fn colliding_names(count: usize) -> Vec<String> {
    let mut seen: HashMap<u64, String> = HashMap::new();
    let mut found = Vec::new();
    for number in 0u32.. {
        let name = format!("name{number}");
        if let Some(other) = seen.insert(name_hash(name.as_bytes()), name.clone()) {
            found.extend([other, name]);
        }
        if found.len() >= count {
            break;
        }
    }
    found
}

/// Sectors larger than a page, which this kernel may not mount: mkfs fills them, and its source is the judge.
#[test]
fn large_sectors() {
    let Some(work) = setup("sectors") else { return };
    let source = work.dir("source");
    let mut random = Random::new(17);
    for (number, size) in
        [0, 1, 100, 4095, 4096, 5000, 65_535, 65_536, 65_537, 300_001, 1 << 20].into_iter().enumerate()
    {
        let dir = source.join(format!("dir{}", number % 3));
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::write(dir.join(format!("noise{size}")), random.bytes(size)).expect("write");
        let text = "a line of text\n".repeat(size / 15 + 1);
        std::fs::write(dir.join(format!("text{size}")), &text[..size]).expect("write");
    }
    std::os::unix::fs::symlink("dir0/noise0", source.join("symlink")).expect("symlink");
    std::fs::hard_link(source.join("dir1/noise1"), source.join("hard link")).expect("link");
    let want = without_directories(Tree::read(&source));
    for (size, compress) in
        [("4096", "no"), ("8192", "lzo"), ("16384", "zstd"), ("32768", "lzo"), ("65536", "no"), ("65536", "lzo")]
    {
        let image = work.file("image");
        create_sparse(&image, 512 * MIB);
        let mut mkfs = Command::new("mkfs.btrfs");
        mkfs.args(["-q", "-f", "-s", size, "-n", "65536", "--compress", compress, "--rootdir"])
            .arg(&source)
            .arg(&image);
        run(&mut mkfs).ok();
        let fs = open(vec![device(&image)]);
        assert_eq!(fs.usage().sectorsize.to_string(), size);
        let found = without_directories(library_tree::read(&fs));
        found.assert_same(&want, Times::Ignored, &format!("sectors of {size}, {compress}"));
    }
}

/// Sizes and link counts of directories are not the same on every filesystem.
fn without_directories(mut tree: Tree) -> Tree {
    for entry in tree.entries.values_mut().filter(|entry| entry.kind == 'd') {
        (entry.size, entry.links) = (0, 1);
    }
    tree
}

/// A filesystem that was ext4 once: its files, and the image of what it was.
#[test]
fn converted_from_ext4() {
    let Some(work) = setup("converted") else { return };
    let (image, mnt, source) = (work.file("image"), work.dir("mnt"), work.dir("source"));
    populate::tree(&source, Plan { seed: 21, files: report::scaled(150), huge: 0, devices: false });
    // ext4 has no room for the largest attributes.
    run(Command::new("find").arg(&source).args(["-size", "+2M", "-delete"])).ok();
    create_sparse(&image, 512 * MIB);
    run(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-I", "512", "-O", "^has_journal"]).arg(&image)).ok();
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mnt)).ok();
    run(Command::new("sh").arg("-c").arg(format!("cp -a {}/. {}/ 2>/dev/null; true", source.display(), mnt.display())))
        .ok();
    unmount(&mnt).ok();
    let original = hash_file(&image).expect("the image reads");
    run(Command::new("btrfs-convert").arg(&image)).ok();
    let want = kernel_tree(&image, &mnt, "ro,noatime");
    let old = want.entries.get(Path::new("ext2_saved/image")).expect("the image of the old filesystem");
    assert_eq!(old.hash, Some(original), "the kernel reads another image than there was");
    library_tree::read(&open(vec![device(&image)])).assert_same(&want, Times::ExactWithAccess, "converted");
}

/// A new UUID for users, and the old one in the blocks.
#[test]
fn changed_uuids() {
    let Some(work) = setup("uuids") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    populate::tree(&mnt, plan(6));
    mounted.unmount();
    for option in ["-u", "-m"] {
        run(Command::new("btrfstune").args(["-f", option]).arg(&image)).ok();
        let want = kernel_tree(&image, &mnt, "ro,noatime");
        library_tree::read(&open(vec![device(&image)])).assert_same(&want, Times::ExactWithAccess, option);
    }
}

/// A seed, what grew from it, and what grew from that.
#[test]
fn a_chain_of_seeds() {
    let Some(work) = setup("seeds") else { return };
    let mnt = work.dir("mnt");
    let images: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| work.dir("devices").join(name)).collect();
    kernel().mkfs(&images[0], 256 * MIB, &[]);
    let mounted = kernel().mount(&images[0], &mnt, "noatime");
    populate::tree(&mounted.join(""), plan(8));
    mounted.unmount();
    for number in 1..3 {
        run(Command::new("btrfstune").args(["-f", "-S", "1"]).arg(&images[number - 1])).ok();
        create_sparse(&images[number], 256 * MIB);
        let below: Vec<PathBuf> = images[..number].iter().rev().cloned().collect();
        let new = Loop::over(&images[number]);
        let mounted = KernelMount::new(&below, &mnt, "noatime");
        run(Command::new("btrfs").args(["device", "add", "-f"]).arg(new.path()).arg(&mnt)).ok();
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(&mnt)).ok();
        std::fs::write(mounted.join(format!("grown{number}")), "new ".repeat(50_000)).expect("write");
        populate::huge_file(&mounted.join(format!("sparse{number}")), 1 << 20, &mut Random::new(number as u64));
        drop(mounted);
    }
    let above: Vec<PathBuf> = images.iter().rev().cloned().collect();
    let want = {
        let _mounted = KernelMount::new(&above, &mnt, "ro,noatime");
        Tree::read(&mnt)
    };
    for order in [vec![0, 1, 2], vec![2, 0, 1]] {
        let devices = order.iter().map(|index| device(&images[*index])).collect();
        library_tree::read(&open(devices)).assert_same(&want, Times::ExactWithAccess, "a chain of seeds");
    }
    // Each seed is still what it was.
    let lower = library_tree::read(&open(vec![device(&images[1]), device(&images[0])]));
    assert!(lower.entries.contains_key(Path::new("grown1")) && !lower.entries.contains_key(Path::new("grown2")));
    let candidates = butterfs_volume::paths_in(&work.dir("devices")).expect("the directory reads");
    let found = butterfs_volume::find_missing(&images[2..], candidates).expect("the others are found");
    assert_eq!(found, images[..2]);
    if let butterfs_testkit::mounter::Mounter::Butterfs { binary } = subject() {
        let clean = run(Command::new(binary).args(["check", "--check-data-csum"]).args(&above));
        assert!(clean.status.success(), "{clean}");
    }
}

/// Two images with the same UUIDs at once: nothing is shared between mounts.
#[test]
fn twins_are_mounted_at_once() {
    let Some(work) = setup("twins") else { return };
    if !subject().is_butterfs() {
        println!("the kernel tells twins apart only with an option of its own");
        return;
    }
    let images = [work.file("one"), work.file("two")];
    kernel().mkfs(&images[0], 256 * MIB, &[]);
    std::fs::copy(&images[0], &images[1]).expect("copy");
    let mounted = [subject().mount(&images[0], &work.dir("m1"), ""), subject().mount(&images[1], &work.dir("m2"), "")];
    for (number, mounted) in mounted.iter().enumerate() {
        std::fs::write(mounted.join("which"), format!("{number}")).expect("write");
    }
    for (number, mounted) in mounted.into_iter().enumerate() {
        mounted.unmount();
        let mounted = kernel().mount(&images[number], &work.dir("mnt"), "ro");
        assert_eq!(std::fs::read_to_string(mounted.join("which")).expect("read"), number.to_string());
        mounted.unmount();
        oracle::assert_clean(&images[number]);
    }
}

#[test]
fn unknown_mappings_are_refused_by_name() {
    let Some(work) = setup("mappings") else { return };
    for (bit, name) in [(14, "raid-stripe-tree"), (17, "remap-tree")] {
        let image = work.file(name);
        kernel().mkfs(&image, 256 * MIB, &[]);
        oracle::set_superblock_bits(&image, 0xbc, 1 << bit);
        let Err(error) = try_open(vec![device(&image)], OpenOptions::default()) else { panic!("{name} was opened") };
        assert!(error.contains(name), "{error}");
    }
}

/// An image with two versions of its content, and where its trees are.
struct Damaged {
    _work: butterfs_testkit::workdir::WorkDir,
    image: PathBuf,
    /// The content of the commit before the last ones, and its generation.
    before: (Tree, u64),
    now: Tree,
}

impl Damaged {
    fn new(name: &str) -> Option<Self> {
        let work = setup(name)?;
        let (image, mnt) = (work.file("image"), work.dir("mnt"));
        kernel().mkfs(&image, 512 * MIB, &[]);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        populate::tree(&mnt, plan(9));
        mounted.unmount();
        let generation = || oracle::superblock(&image)["generation"].parse().expect("a number");
        let before = (kernel_tree(&image, &mnt, "ro,noatime"), generation());
        let mounted = kernel().mount(&image, &mnt, "noatime");
        std::fs::write(mounted.join("later"), "a later thought").expect("write");
        mounted.unmount();
        assert!(generation() > before.1);
        let now = kernel_tree(&image, &mnt, "ro,noatime");
        Some(Self { _work: work, image, before, now })
    }

    fn overlay(&self) -> Arc<Overlay> {
        Arc::new(Overlay::new(device(&self.image)))
    }

    /// The sectors of all copies of the tree block or data at a logical address.
    fn sectors(&self, logical: u64) -> Vec<u64> {
        oracle::copies_of(&self.image, logical).iter().map(|offset| offset / SECTOR).collect()
    }

    /// Where the root of a tree is, as the root tree has it.
    fn root_of(&self, tree: &str) -> u64 {
        oracle::root_of(&self.image, tree)
    }

    fn with_damage_at(&self, logical: u64) -> Devices {
        let overlay = self.overlay();
        self.sectors(logical).iter().for_each(|number| overlay.damage(*number));
        vec![overlay]
    }

    #[track_caller]
    fn assert_now(&self, fs: &Filesystem, what: &str) {
        library_tree::read(fs).assert_same(&self.now, Times::ExactWithAccess, what);
    }
}

#[test]
fn an_older_commit_can_be_read() {
    let Some(damaged) = Damaged::new("older") else { return };
    let (tree, generation) = &damaged.before;
    let at = |generation| OpenOptions { generation: Some(Generation(generation)), ..OpenOptions::default() };
    let older = try_open(vec![device(&damaged.image)], at(*generation)).expect("the older commit opens");
    library_tree::read(&older).assert_same(tree, Times::ExactWithAccess, "the older commit");
    let Err(error) = try_open(vec![device(&damaged.image)], at(1_000_000)) else { panic!("a commit of the future") };
    assert!(error.contains("1000000"), "{error}");
    let root: u64 = oracle::superblock(&damaged.image)["root"].parse().expect("a number");
    assert!(rescued(damaged.with_damage_at(root), Rescue::all().difference(Rescue::USE_BACKUP_ROOT)).is_err());
    let fs = rescued(damaged.with_damage_at(root), Rescue::USE_BACKUP_ROOT).expect("a backup root is found");
    let found = library_tree::read(&fs);
    let same = [tree, &damaged.now].iter().any(|want| found.differences(want, Times::ExactWithAccess).is_empty());
    assert!(same || found.len() >= tree.len(), "the backup root shows {} objects", found.len());
}

#[test]
fn bad_trees_can_be_ignored() {
    let Some(damaged) = Damaged::new("bad_trees") else { return };
    let extents = || damaged.with_damage_at(damaged.root_of("EXTENT_TREE"));
    assert!(rescued(extents(), Rescue::empty()).is_err());
    damaged.assert_now(&rescued(extents(), Rescue::IGNORE_BAD_ROOTS).expect("opens"), "without extent tree");
    let sums = || damaged.with_damage_at(damaged.root_of("CSUM_TREE"));
    let strict = rescued(sums(), Rescue::IGNORE_BAD_ROOTS).expect("opens");
    let whole = open(vec![device(&damaged.image)]);
    let losses = library_tree::losses(&whole, &strict);
    assert!(losses.objects.is_empty() && losses.sectors.len() > 100, "{}", losses.sectors.len());
    damaged.assert_now(&rescued(sums(), Rescue::IGNORE_DATA_CSUMS).expect("opens"), "without checksums");
    damaged.assert_now(&rescued(sums(), Rescue::all()).expect("opens"), "with all");
}

/// Leaves of which no copy is good: what they hold is an I/O error, and all else is as it was.
#[test]
fn lost_leaves_lose_what_they_hold() {
    let Some(damaged) = Damaged::new("lost_leaves") else { return };
    let dump = oracle::dump_tree(&damaged.image, "fs");
    // Leaves that begin inodes: of one with names alone, which are elsewhere too, nobody misses anything. And not one that has the
    // top directory, without which there is no mount.
    let begins_inodes =
        |leaf: &&str| leaf.contains(" INODE_ITEM 0) itemoff") && !leaf.contains(" key (256 INODE_ITEM 0) itemoff");
    let address = |leaf: &str| leaf.split_whitespace().next().and_then(|address| address.parse::<u64>().ok());
    let leaves: Vec<u64> = dump.split("\nleaf ").skip(1).filter(begins_inodes).filter_map(address).collect();
    assert!(leaves.len() > 10, "only {} leaves", leaves.len());
    let whole = open(vec![device(&damaged.image)]);
    for lost in [0, leaves.len() / 2, leaves.len() - 1] {
        let losses = library_tree::losses(&whole, &open(damaged.with_damage_at(leaves[lost])));
        assert!(!losses.is_empty(), "nothing is lost with leaf {lost}");
        assert!(losses.objects.len() < damaged.now.len() / 2, "leaf {lost} loses {}", losses.objects.len());
    }
}

/// A tree block of which only the checksum is wrong.
#[test]
fn checksums_of_blocks_can_be_ignored() {
    let Some(damaged) = Damaged::new("bad_sums") else { return };
    let overlay = || {
        let overlay = damaged.overlay();
        for number in damaged.sectors(damaged.root_of("FS_TREE")) {
            overlay.write_at(number * SECTOR, &[0xaa; 4]).expect("the sector is there");
        }
        overlay
    };
    assert!(rescued(vec![overlay()], Rescue::IGNORE_DATA_CSUMS).is_err());
    damaged.assert_now(&rescued(vec![overlay()], Rescue::IGNORE_META_CSUMS).expect("opens"), "bad checksums");
}

/// Data that no copy has right is an error, or what there is.
#[test]
fn bad_data_can_be_read() {
    let Some(damaged) = Damaged::new("bad_data") else { return };
    let overlay = damaged.overlay();
    for chunk in oracle::chunks(&damaged.image).iter().filter(|chunk| chunk.kind.starts_with("DATA")) {
        overlay.damage(chunk.physical[0] / SECTOR + 3);
    }
    let whole = open(vec![device(&damaged.image)]);
    let lost = library_tree::losses(&whole, &open(vec![overlay.clone()]));
    assert!(!lost.sectors.is_empty() && lost.objects.is_empty(), "{lost:?}");
    let rescued = rescued(vec![overlay], Rescue::IGNORE_DATA_CSUMS).expect("opens");
    let differences = library_tree::read(&rescued).differences(&damaged.now, Times::ExactWithAccess);
    let mut paths: Vec<_> = lost.sectors.iter().map(|(path, _)| path.display().to_string()).collect();
    paths.sort();
    paths.dedup();
    let differ: Vec<_> =
        differences.iter().filter_map(|line| line.split_once(": content")).map(|(path, _)| path).collect();
    assert_eq!((differ.len(), differences.len()), (paths.len(), paths.len()), "{differences:?}");
    assert_eq!(differ, paths);
}
