//! Compressed files: those that the kernel made are read, changed and handed back; those that we made, too.

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod content;
mod count;
mod damage;

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use changes::{change_inlines, change_randomly, compare, unaligned_reads};
use common::{MIB, kernel, setup, subject};
use content::{CHANGES, INLINE, fill, shape};
use count::{Compressed, all_kinds};
use std::path::PathBuf;

#[test]
fn zlib_files_are_read_and_changed() {
    there_and_back("zlib");
}

#[test]
fn lzo_files_are_read_and_changed() {
    there_and_back("lzo");
}

#[test]
fn zstd_files_are_read_and_changed() {
    there_and_back("zstd");
}

fn there_and_back(kind: &str) {
    let Some((work, image, mnt)) = kernel_made(kind, kind, "single") else { return };
    let (dir, plain) = (mnt.join("dir"), work.dir("plain"));
    let mounted = kernel().mount(&image, &mnt, &options(kind));
    std::fs::create_dir(&dir).expect("mkdir");
    fill(&dir);
    mounted.sync();
    shape(&mounted, &dir);
    let expected = Tree::read(&dir);
    run_program("cp", &["-aT".as_ref(), dir.as_os_str(), plain.as_os_str()]).ok();
    mounted.unmount();
    oracle::assert_clean(&image);
    let before = all_kinds(&image, kind);

    let mounted = subject().mount(&image, &mnt, "noatime");
    Tree::read(&dir).assert_same(&expected, Times::Exact, "what the kernel wrote");
    unaligned_reads(&dir, &plain);
    change_inlines(&dir, &plain);
    compare(&dir, &plain, "after changes of inline files");
    mounted.unmount();
    oracle::assert_clean(&image);
    // Each that was changed is stored anew.
    let inline = Compressed::count(&image, kind).inline;
    assert_eq!(inline, before.inline - INLINE.len() * CHANGES, "{kind}: compressed inline extents");

    let mounted = subject().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "changes of inline files, after mounting again");
    change_randomly(&dir, &plain, 1);
    compare(&dir, &plain, "after random changes");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = subject().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "after mounting again");
    change_randomly(&dir, &plain, 2);
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "by the kernel");
    mounted.unmount();
    drop(work);
}

fn options(kind: &str) -> String {
    format!("noatime,compress-force={kind}")
}

/// A work directory with an empty filesystem of the kernel's.
fn kernel_made(test: &str, kind: &str, data: &str) -> Option<(WorkDir, PathBuf, PathBuf)> {
    let work = setup(&format!("compressed_{test}_{kind}"))?;
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 512 * MIB, &["-n", "16384", "-d", data]);
    Some((work, image, mnt))
}

// ---- what we compress ------------------------------------------------------------------------------------------

/// Ours is compressed, hardly larger than what the kernel makes of the same, and the kernel reads and changes it.
#[test]
fn what_we_compress_the_kernel_reads_and_changes() {
    for method in ["zlib:1", "zlib:9", "lzo", "zstd:-5", "zstd:1", "zstd:15"] {
        let kind = method.split(':').next().expect("a name");
        let Some((work, image, mnt)) = kernel_made("ours", &method.replace(':', "_"), "single") else { return };
        let reference = work.file("reference");
        kernel().mkfs(&reference, 512 * MIB, &["-n", "16384", "-d", "single"]);
        let (plain, mut sizes) = (work.dir("plain"), Vec::new());
        for (mounter, image) in [(kernel(), &reference), (subject(), &image)] {
            let mounted = mounter.mount(image, &mnt, &options(method));
            let dir = mnt.join("dir");
            std::fs::create_dir(&dir).expect("mkdir");
            fill(&dir);
            mounted.unmount();
            sizes.push(used(image));
            let mounted = mounter.mount(image, &mnt, &options(method));
            shape(&mounted, &dir);
            if !plain.join("sparse").exists() {
                run_program("cp", &["-aT".as_ref(), dir.as_os_str(), plain.as_os_str()]).ok();
            }
            compare(&dir, &plain, "as written");
            mounted.unmount();
            oracle::assert_clean(image);
            all_kinds(image, kind);
        }
        let [theirs, ours] = sizes[..] else { panic!("{sizes:?}") };
        println!("{method}: {ours} bytes of ours, {theirs} of the kernel's");
        assert!(ours < theirs + theirs / 20, "{method}: {ours} bytes of ours, {theirs} of the kernel's");

        let mounted = kernel().mount(&image, &mnt, &options(method));
        let dir = mnt.join("dir");
        compare(&dir, &plain, "by the kernel");
        change_randomly(&dir, &plain, 3);
        mounted.unmount();
        let mounted = subject().mount(&image, &mnt, &options(method));
        compare(&dir, &plain, "after the kernel's changes");
        change_randomly(&dir, &plain, 4);
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        compare(&dir, &plain, "by the kernel, after our changes");
        mounted.unmount();
        drop(work);
    }
}

fn used(image: &std::path::Path) -> u64 {
    oracle::superblock(image)["bytes_used"].parse().expect("a number")
}

/// A directory's property and chattr's flags, set through the mount, are what the kernel finds, and the reverse.
#[test]
fn properties_and_flags_are_the_kernels() {
    let Some((work, image, mnt)) = kernel_made("properties", "zstd", "single") else { return };
    let text = content::text(&mut butterfs_testkit::random::Random::new(5), 300_000);
    for (mounter, other, name) in [(subject(), kernel(), "ours"), (kernel(), subject(), "kernels")] {
        let mounted = mounter.mount(&image, &mnt, "noatime");
        let dir = mnt.join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        run_program("setfattr", &["-n", "btrfs.compression", "-v", "zstd", dir.to_str().expect("UTF-8")]).ok();
        std::fs::write(dir.join("property"), &text).expect("write");
        std::fs::write(dir.join("flag"), b"").expect("write");
        run_program("chattr", &["-c", dir.join("flag").to_str().expect("UTF-8")]).ok();
        run_program("chattr", &["+m", dir.join("flag").to_str().expect("UTF-8")]).ok();
        std::fs::write(dir.join("flag"), &text).expect("write");
        let found = attributes(&dir);
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = other.mount(&image, &mnt, "noatime");
        assert_eq!(attributes(&dir), found, "{name}");
        std::fs::write(dir.join("later"), &text).expect("write");
        assert_eq!(attribute(&dir.join("later")), "zstd", "{name}");
        mounted.unmount();
        oracle::assert_clean(&image);
    }
    assert_eq!(Compressed::count(&image, "zstd").from_start, 4 * 300_000_usize.div_ceil(131_072));
    drop(work);
}

/// The flags and the property of the directory and of its two files.
fn attributes(dir: &std::path::Path) -> Vec<(String, String)> {
    let flags = |path: &std::path::Path| {
        let output = run_program("lsattr", &["-d", path.to_str().expect("UTF-8")]).ok();
        output.stdout.split(' ').next().unwrap_or_default().to_owned()
    };
    let all = [dir.to_owned(), dir.join("property"), dir.join("flag")];
    all.iter().map(|path| (flags(path), attribute(path))).collect()
}

fn attribute(path: &std::path::Path) -> String {
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(path, "btrfs.compression", &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..len]).into_owned()
}
