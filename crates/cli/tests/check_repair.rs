//! `butterfs check --repair` and its relatives, on the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use butterfs_format::Superblock;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_testkit::workdir::WorkDir;
use serde_json::Value;

fn butterfs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_butterfs")).args(args).stdin(Stdio::null()).output().unwrap()
}

struct Image {
    work: WorkDir,
}

impl Image {
    /// A filesystem whose superblock counts wrongly.
    fn broken(name: &str) -> Self {
        let image = Self { work: WorkDir::new(name) };
        assert!(butterfs(&["mkfs", image.text(), "--size", "128M"]).status.success());
        let file = std::fs::File::options().read(true).write(true).open(image.path()).unwrap();
        for offset in SUPERBLOCK_OFFSETS.into_iter().take(2) {
            let mut bytes = vec![0; 4096];
            file.read_exact_at(&mut bytes, offset).unwrap();
            let mut sb = Superblock::parse(&bytes, offset).unwrap();
            sb.bytes_used = (sb.bytes_used.get() + 4096).into();
            file.write_all_at(&sb.to_bytes_at(offset), offset).unwrap();
        }
        image
    }

    fn path(&self) -> PathBuf {
        self.work.file("disk.img")
    }

    fn text(&self) -> &'static str {
        Box::leak(self.path().to_str().unwrap().to_owned().into_boxed_str())
    }

    fn undo_file(&self) -> PathBuf {
        self.work.file("disk.img.butterfs-undo")
    }

    fn superblock(&self) -> Superblock {
        let mut bytes = vec![0; 4096];
        let file = std::fs::File::open(self.path()).unwrap();
        file.read_exact_at(&mut bytes, SUPERBLOCK_OFFSETS[0]).unwrap();
        Superblock::parse(&bytes, SUPERBLOCK_OFFSETS[0]).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn check(&self, args: &[&str]) -> Output {
        butterfs(&[&["check"], args, &[self.text()]].concat())
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_plan_is_shown_carried_out_and_taken_back() {
    let image = Image::broken("repair-cli");
    let before = image.bytes();
    let dry = image.check(&["--dry-run"]);
    assert_eq!(code(&dry), 1, "{}", words(&dry));
    assert!(words(&dry).contains("1. superblock: superblock: bytes_used is"), "{}", words(&dry));
    let asked = image.check(&["--repair"]);
    assert_eq!(code(&asked), 1);
    assert!(words(&asked).contains("--force"), "{}", words(&asked));
    assert!(image.bytes() == before && !image.undo_file().exists(), "nothing was written");

    let done = image.check(&["--repair", "--force"]);
    assert_eq!(code(&done), 0, "{}", words(&done));
    assert!(words(&done).contains("to undo it: butterfs check --undo"), "{}", words(&done));
    assert_eq!(code(&image.check(&[])), 0);
    assert_eq!(code(&image.check(&["--repair"])), 0, "there is nothing to ask about");

    let again = image.check(&["--init-extent-tree", "--force"]);
    assert_eq!(code(&again), 8);
    assert!(words(&again).contains("exists already"), "{}", words(&again));
    let undone = image.check(&["--undo", image.undo_file().to_str().unwrap()]);
    assert_eq!(code(&undone), 0, "{}", words(&undone));
    assert!(image.bytes() == before, "undo gives back every byte");
}

#[test]
fn the_plan_is_data_for_programs() {
    let image = Image::broken("repair-json");
    let json = |args: &[&str]| -> Value {
        let output = image.check(&[&["--format", "json"], args].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&output)))
    };
    let plan = json(&["--dry-run"]);
    assert_eq!(plan["verdict"], "repaired");
    assert_eq!(plan["steps"][0]["name"], "superblock");
    assert_eq!(plan["written"], false);
    assert_eq!(plan["before"]["clean"], false);
    let file = image.work.file("my-undo");
    let done = json(&["--repair", "--force", "--undo-file", file.to_str().unwrap()]);
    assert_eq!((&done["written"], &done["undo_file"]), (&Value::from(true), &Value::from(file.to_str().unwrap())));
    assert!(file.exists() && !image.undo_file().exists());
    assert_eq!(json(&["--dry-run"])["verdict"], "nothing-to-do");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let image = Image::broken("repair-usage");
    let before = image.bytes();
    for args in [
        &["--readonly", "--repair"][..],
        &["--readonly", "--init-extent-tree"],
        &["--readonly", "--init-csum-tree"],
        &["--repair", "--undo", "x"],
        &["--dry-run", "--force"],
        &["--partial"],
        &["--undo-file", "x"],
        &["--undo", "x", "--force"],
        &["--undo", "x", "--undo-file", "y"],
        &["--undo", "x", "--init-csum-tree"],
    ] {
        assert_eq!(code(&image.check(args)), 16, "{args:?}");
    }
    let missing = image.check(&["--undo", "/nowhere/undo"]);
    assert_eq!(code(&missing), 8, "{}", words(&missing));
    let nowhere = image.check(&["--repair", "--force", "--undo-file", "/nowhere/undo"]);
    assert_eq!(code(&nowhere), 8);
    assert!(words(&nowhere).contains("nothing was repaired"), "{}", words(&nowhere));
    let text = image.work.file("text");
    std::fs::write(&text, "no filesystem".repeat(20_000)).unwrap();
    let foreign = butterfs(&["check", "--repair", "--force", text.to_str().unwrap()]);
    assert_eq!(code(&foreign), 8, "{}", words(&foreign));
    assert!(image.bytes() == before, "nothing was written");
}

/// Writes over a tree block in all its copies.
fn wipe(image: &Image, at: butterfs_format::Logical) {
    let device = std::sync::Arc::new(butterfs_volume::FileDevice::open_read_only(image.path()).unwrap());
    let volume = butterfs_volume::Volume::open(vec![device], butterfs_volume::OpenMode::ReadOnly).unwrap();
    let (start, chunk) = volume.chunk_containing(at).unwrap();
    let file = std::fs::File::options().write(true).open(image.path()).unwrap();
    for stripe in &chunk.stripes {
        file.write_all_at(&[0; 16384], stripe.offset.get() + (at.0 - start.0)).unwrap();
    }
}

/// Without a chunk tree nothing can be found: repair says who brings it back.
#[test]
fn a_lost_chunk_tree_is_a_matter_of_rescue() {
    let image = Image::broken("repair-chunks");
    assert_eq!(code(&image.check(&["--repair", "--force"])), 0);
    std::fs::remove_file(image.undo_file()).unwrap();
    wipe(&image, butterfs_format::Logical(image.superblock().chunk_root.get()));
    let before = image.bytes();
    for args in [&["--dry-run"][..], &["--repair", "--force"], &["--init-extent-tree", "--force"]] {
        let refused = image.check(args);
        assert_eq!(code(&refused), 1, "{args:?}: {}", words(&refused));
        assert!(words(&refused).contains("butterfs rescue chunk-recover"), "{}", words(&refused));
    }
    assert!(image.bytes() == before && !image.undo_file().exists(), "nothing was written");
    let rescued = butterfs(&["rescue", "chunk-recover", "-y", image.text()]);
    assert_eq!(code(&rescued), 0, "{}", words(&rescued));
    assert_eq!(code(&image.check(&[])), 0);
}

/// An image that somebody uses is refused before anything is looked at.
#[test]
fn an_image_in_use_is_refused() {
    let image = Image::broken("repair-busy");
    let file = std::fs::File::open(image.path()).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
    let busy = image.check(&["--repair", "--force"]);
    assert_eq!(code(&busy), 8, "{}", words(&busy));
    assert!(words(&busy).contains("in use"), "{}", words(&busy));
    assert!(!Path::new(&image.undo_file()).exists());
}

/// A wrong first superblock, and good copies: `-s 1` puts the copy in its place.
#[test]
fn another_superblock_takes_the_place_of_the_first() {
    let image = Image::broken("repair-super");
    assert_eq!(code(&image.check(&["--repair", "--force"])), 0);
    std::fs::remove_file(image.undo_file()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(image.path()).unwrap();
    let offset = SUPERBLOCK_OFFSETS[0];
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, offset).unwrap();
    let mut sb = Superblock::parse(&bytes, offset).unwrap();
    sb.root = (sb.root.get() + (1 << 20)).into();
    file.write_all_at(&sb.to_bytes_at(offset), offset).unwrap();
    assert_eq!(code(&image.check(&[])), 1);
    let done = image.check(&["--repair", "--force", "-s", "1"]);
    assert_eq!(code(&done), 0, "{}", words(&done));
    assert_eq!(code(&image.check(&[])), 0);
}

/// The root tree of the last commit is lost: `-b` begins from the commit before.
#[test]
fn an_older_commit_is_gone_back_to() {
    let image = Image::broken("repair-backup");
    for _ in 0..2 {
        assert_eq!(code(&image.check(&["--init-csum-tree", "--force"])), 0);
        std::fs::remove_file(image.undo_file()).unwrap();
    }
    wipe(&image, image.superblock().root());
    assert_eq!(code(&image.check(&[])), 1);
    let done = image.check(&["--repair", "--force", "-b"]);
    assert_eq!(code(&done), 0, "{}", words(&done));
    assert_eq!(code(&image.check(&[])), 0);
}
