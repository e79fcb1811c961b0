//! Files that are overwritten in place: those of the kernel, those that we make, and what neither may overwrite.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::oracle;
use common::{MIB, kernel, setup, subject};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const LEN: usize = 1 << 20;

/// Where the kernel says that a file's bytes are.
fn places(file: &Path) -> Vec<String> {
    let listed = run_program("filefrag", &["-v".as_ref(), file.as_os_str()]).ok().stdout;
    let extents = listed.lines().filter(|line| line.split(':').count() >= 5 && !line.contains("logical_offset"));
    extents.map(|line| line.split(':').nth(2).unwrap_or_default().trim().to_owned()).collect()
}

fn overwrite(file: &Path, offset: usize, len: usize, byte: u8) {
    let file = fs::File::options().write(true).open(file).expect("open");
    file.write_all_at(&vec![byte; len], offset as u64).expect("write");
    file.sync_all().expect("fsync");
}

fn letters(file: &Path) -> String {
    let listed = run_program("lsattr", &["-d".as_ref(), file.as_os_str()]).ok().stdout;
    listed.split_whitespace().next().unwrap_or_default().replace('-', "")
}

/// What one side made, the other overwrites in place, until a snapshot or a clone shares it.
fn hand_over(test: &str, maker: &Mounter, writer: &Mounter) {
    let Some(work) = setup(test) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = maker.mount(&image, &mnt, "nodatacow");
    let file = mnt.join("file");
    fs::write(&file, vec![1; LEN]).expect("write");
    fs::write(mnt.join("small"), b"small").expect("write");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "ro");
    let before = (places(&file), places(&mnt.join("small")));
    assert_eq!(letters(&file), "C");
    mounted.unmount();

    let mounted = writer.mount(&image, &mnt, "");
    overwrite(&file, 4096, 100_000, 2);
    overwrite(&mnt.join("small"), 0, 3, b'x');
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "ro");
    assert_eq!((places(&file), places(&mnt.join("small"))), before, "overwritten in place");
    let bytes = fs::read(&file).expect("read");
    assert_eq!((bytes[4095], bytes[4096], bytes[104_095], bytes[104_096]), (1, 2, 2, 1));
    assert_eq!(fs::read(mnt.join("small")).expect("read"), b"xxxll");
    mounted.unmount();

    let mounted = writer.mount(&image, &mnt, "");
    writer.snapshot(&mnt, &mnt.join("snapshot"));
    overwrite(&file, 0, 8192, 3);
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "");
    assert!(fs::read(mnt.join("snapshot/file")).expect("read") == bytes, "the snapshot was overwritten");
    let shared = places(&file);
    assert_ne!(shared, before.0, "what a snapshot shares is copied");
    run_program("btrfs", &["subvolume".as_ref(), "delete".as_ref(), mnt.join("snapshot").as_os_str()]).ok();
    mounted.unmount();

    // What was copied is the file's alone again.
    let mounted = writer.mount(&image, &mnt, "");
    overwrite(&file, 0, 8192, 4);
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "ro");
    assert_eq!(places(&file), shared);
    mounted.unmount();
}

#[test]
fn the_kernels_files_are_overwritten_in_place() {
    hand_over("nocow_theirs", &kernel(), &subject());
}

#[test]
fn the_kernel_overwrites_ours_in_place() {
    hand_over("nocow_ours", &subject(), &kernel());
}

/// The flags that files get from mount options and directories, and whether data gets checksums.
#[test]
fn new_files_have_the_kernels_flags() {
    let Some(work) = setup("nocow_flags") else { return };
    let mut found = Vec::new();
    for mounter in [kernel(), subject()] {
        let (image, mnt) = (work.file("image"), work.dir("mnt"));
        let mut lines = Vec::new();
        kernel().mkfs(&image, 256 * MIB, &[]);
        for (number, options) in
            ["nodatacow", "nodatasum", "nodatacow,compress=zstd", "compress=zstd,nodatasum", "nodatacow,datacow"]
                .iter()
                .enumerate()
        {
            let mounted = mounter.mount(&image, &mnt, options);
            let dir = mnt.join(number.to_string());
            fs::create_dir(&dir).expect("mkdir");
            let file = dir.join("file");
            fs::write(&file, vec![7; 300_000]).expect("write");
            fs::File::open(&file).and_then(|file| file.sync_all()).expect("fsync");
            run_program("chattr", &["+C".as_ref(), dir.as_os_str()]).ok();
            fs::write(dir.join("inherits"), b"").expect("write");
            fs::create_dir(dir.join("below")).expect("mkdir");
            for name in ["", "file", "inherits", "below"] {
                lines.push(format!("{options}: {name} {}", letters(&dir.join(name))));
            }
            mounted.unmount();
        }
        oracle::assert_clean(&image);
        lines.push(flags_and_extents(&image));
        found.push(lines);
    }
    assert_eq!(found[0], found[1]);
}

/// Flags of all inodes, and the compression of all extents, in the order of the tree.
fn flags_and_extents(image: &Path) -> String {
    let image = image.to_str().expect("UTF-8");
    let text = run_program("btrfs", &["inspect-internal", "dump-tree", "-t", "5", image]).ok().stdout;
    let wanted = |line: &&str| line.contains("sequence ") || line.contains("extent compression");
    let of = |line: &str| line.split("flags ").last().unwrap_or_default().trim().to_owned();
    text.lines().filter(wanted).map(of).collect::<Vec<_>>().join("\n")
}
