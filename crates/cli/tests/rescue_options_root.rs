//! `-o rescue=` and `-o generation=` on damaged copies of an image, mounted by Butterfs: what each word makes
//! readable, that nothing else does, and that not a byte is written. The kernel never sees the damage.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::{MIB, kernel, setup, subject};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An image with an older commit and a newer one, and what is in both.
struct Scene {
    work: WorkDir,
    image: PathBuf,
    older: Tree,
    older_generation: u64,
    now: Tree,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let work = setup(name)?;
        if !subject().is_butterfs() {
            println!("the kernel must not see damage");
            return None;
        }
        let (image, mnt) = (work.file("image"), work.dir("mnt"));
        kernel().mkfs(&image, 512 * MIB, &[]);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        populate::tree(&mnt, Plan { seed: 31, files: 60, huge: 0, devices: false });
        std::fs::write(mnt.join("plain"), vec![b'p'; 100_000]).expect("write");
        let older = Tree::read(&mnt);
        mounted.unmount();
        let older_generation = generation(&image);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        std::fs::write(mnt.join("later"), "a later thought").expect("write");
        let now = Tree::read(&mnt);
        mounted.unmount();
        assert!(generation(&image) > older_generation);
        Some(Self { work, image, older, older_generation, now })
    }

    /// A copy of the image, to be damaged.
    fn copy(&self) -> PathBuf {
        let copy = self.work.file("damaged");
        copy_image(&self.image, &copy);
        copy
    }

    /// A copy in which bytes of all copies of a block are others.
    fn damaged(&self, logical: u64, bytes: &[u8]) -> PathBuf {
        let copy = self.copy();
        let file = std::fs::File::options().write(true).open(&copy).expect("open");
        for offset in oracle::copies_of(&self.image, logical) {
            file.write_all_at(bytes, offset).expect("write");
        }
        copy
    }

    /// Refused without help and with other words; with these it is mounted, and gives what there is.
    #[track_caller]
    fn rescued(&self, image: &Path, options: &str, useless: &[&str]) -> Tree {
        let before = oracle::file_hash(image);
        for options in ["ro"].iter().chain(useless) {
            assert!(subject().try_mount(image, &self.work.dir("mnt"), options).is_err(), "mounted with {options}");
        }
        let tree = self.read(image, options);
        assert_eq!(oracle::file_hash(image), before, "{options}: something was written");
        tree
    }

    #[track_caller]
    fn read(&self, image: &Path, options: &str) -> Tree {
        let mnt = self.work.dir("mnt");
        let mounted = subject().mount(image, &mnt, options);
        assert!(std::fs::write(mnt.join("new"), "no").is_err(), "{options}: it can be written");
        let tree = Tree::read(&mnt);
        mounted.unmount();
        tree
    }

    #[track_caller]
    fn assert_now(&self, tree: &Tree, what: &str) {
        tree.assert_same(&self.now, Times::ExactWithAccess, what);
    }
}

fn generation(image: &Path) -> u64 {
    oracle::superblock(image)["generation"].parse().expect("a number")
}

fn copy_image(from: &Path, to: &Path) {
    run_program("cp", &["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()]).ok();
}

const WIPED: [u8; 4096] = [0x5a; 4096];

#[test]
fn usebackuproot_mounts_an_older_commit() {
    let Some(scene) = Scene::new("use_backup_root") else { return };
    let root = oracle::superblock(&scene.image)["root"].parse().expect("a number");
    let image = scene.damaged(root, &WIPED);
    // As in the kernel, `all` leaves the backup roots out.
    let tree = scene.rescued(&image, "ro,rescue=usebackuproot", &["ro,rescue=nologreplay", "ro,rescue=all"]);
    let same = |want: &Tree| tree.differences(want, Times::ExactWithAccess).is_empty();
    assert!(same(&scene.older) || same(&scene.now), "neither the last commit nor the one before");
    scene.read(&image, "ro,usebackuproot");
}

#[test]
fn ignorebadroots_does_without_the_extent_tree() {
    let Some(scene) = Scene::new("ignore_bad_roots") else { return };
    let image = scene.damaged(oracle::root_of(&scene.image, "EXTENT_TREE"), &WIPED);
    for options in ["ro,rescue=ignorebadroots", "ro,rescue=ibadroots:nologreplay", "ro,rescue=all"] {
        let tree = scene.rescued(&image, options, &["ro,rescue=idatacsums:imetacsums:nologreplay", "rescue=all"]);
        scene.assert_now(&tree, options);
    }
}

#[test]
fn ignoredatacsums_gives_what_there_is() {
    let Some(scene) = Scene::new("ignore_data_csums") else { return };
    // Without the checksum tree no data is good, and all of it can be had.
    let image = scene.damaged(oracle::root_of(&scene.image, "CSUM_TREE"), &WIPED);
    let mnt = scene.work.dir("mnt");
    let mounted = subject().mount(&image, &mnt, "ro,rescue=ignorebadroots");
    let error = std::fs::read(mnt.join("plain")).expect_err("its checksum cannot be read");
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::IO));
    mounted.unmount();
    for options in ["ro,rescue=ignorebadroots:ignoredatacsums", "ro,rescue=all"] {
        scene.assert_now(&scene.read(&image, options), options);
    }
    // Data that is other: an error, or as it is.
    let image = scene.copy();
    let file = std::fs::File::options().read(true).write(true).open(&image).expect("open");
    let places: Vec<u64> = oracle::chunks(&image)
        .iter()
        .filter(|chunk| chunk.kind.starts_with("DATA"))
        .flat_map(|chunk| (chunk.physical[0]..chunk.physical[0] + chunk.length).step_by(4096))
        .filter(|offset| {
            let mut sector = [0; 4096];
            file.read_exact_at(&mut sector, *offset).expect("read");
            sector == [b'p'; 4096]
        })
        .collect();
    assert!(places.len() >= 24, "only {} sectors of the file were found", places.len());
    file.write_all_at(&[b'q'; 4096], places[1]).expect("write");
    let mounted = subject().mount(&image, &mnt, "ro");
    assert!(std::fs::read(mnt.join("plain")).is_err());
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "ro,rescue=idatacsums");
    let bytes = std::fs::read(mnt.join("plain")).expect("as it is");
    assert_eq!(bytes.iter().filter(|byte| **byte == b'q').count(), 4096);
    mounted.unmount();
}

#[test]
fn ignoremetacsums_uses_blocks_with_bad_checksums() {
    let Some(scene) = Scene::new("ignore_meta_csums") else { return };
    let image = scene.damaged(oracle::root_of(&scene.image, "FS_TREE"), &[0xaa; 4]);
    for options in ["ro,rescue=ignoremetacsums", "ro,rescue=imetacsums", "ro,rescue=all"] {
        let tree = scene.rescued(&image, options, &["ro,rescue=idatacsums", "ro,rescue=ibadroots:nologreplay"]);
        scene.assert_now(&tree, options);
    }
}

#[test]
fn nologreplay_shows_the_last_commit() {
    let Some(scene) = Scene::new("no_log_replay") else { return };
    let (mnt, copy) = (scene.work.dir("mnt"), scene.work.file("dirty"));
    let mounted = kernel().mount(&scene.image, &mnt, "noatime");
    let file = std::fs::File::create(mnt.join("logged")).expect("create");
    file.write_all_at(b"in the log", 0).expect("write");
    file.sync_all().expect("fsync");
    copy_image(&scene.image, &copy);
    drop(file);
    mounted.unmount();
    assert_ne!(oracle::superblock(&copy)["log_root"], "0", "there is no log");
    let before = oracle::file_hash(&copy);
    assert!(scene.read(&copy, "ro").entries.contains_key(Path::new("logged")));
    for options in ["ro,rescue=nologreplay", "ro,nologreplay", "ro,rescue=all"] {
        scene.assert_now(&scene.read(&copy, options), options);
    }
    assert_eq!(oracle::file_hash(&copy), before, "something was written");
    assert!(subject().try_mount(&copy, &mnt, "rescue=nologreplay").is_err(), "writable without its log");
}

#[test]
fn generation_mounts_an_older_commit() {
    let Some(scene) = Scene::new("generation") else { return };
    let before = oracle::file_hash(&scene.image);
    let at = |number: u64| format!("ro,generation={number}");
    let older = scene.read(&scene.image, &at(scene.older_generation));
    older.assert_same(&scene.older, Times::ExactWithAccess, "the older commit");
    let newest = scene.read(&scene.image, &at(generation(&scene.image)));
    scene.assert_now(&newest, "the last commit");
    let mnt = scene.work.dir("mnt");
    for options in [at(1_000_000), format!("generation={}", scene.older_generation)] {
        assert!(subject().try_mount(&scene.image, &mnt, &options).is_err(), "mounted with {options}");
    }
    // It is found by a search too, when neither superblock nor backup leads to it.
    let root = oracle::superblock(&scene.image)["root"].parse().expect("a number");
    let image = scene.damaged(root, &WIPED);
    let found = scene.read(&image, &at(scene.older_generation));
    found.assert_same(&scene.older, Times::ExactWithAccess, "the older commit of a damaged image");
    assert_eq!(oracle::file_hash(&scene.image), before, "something was written");
}
