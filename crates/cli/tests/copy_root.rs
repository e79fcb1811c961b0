//! `cp` beside the kernel: a tree that the kernel wrote comes out as the kernel shows it, and what is copied in
//! passes `btrfs check` and is what the kernel then shows.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::tree_compare::{Times, Tree, hash_file};
use common::{MIB, kernel, setup, subject};
use rustix::fs::XattrFlags;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const PLAN: Plan = Plan { seed: 31, files: 300, huge: 1, devices: true };

/// Without what a copy does not keep: times of change, sizes and link counts of directories (which are those of
/// the filesystem that it is on).
fn comparable(mut tree: Tree) -> Tree {
    for entry in tree.entries.values_mut() {
        entry.ctime = (0, 0);
        if entry.kind == 'd' {
            (entry.size, entry.links) = (0, 0);
        }
    }
    tree
}

#[test]
fn what_the_kernel_wrote_comes_out() {
    let Some(work) = setup("copy_out_of_kernel") else { return };
    let (image, mnt, out) = (work.file("image"), work.file("mnt"), work.file("out"));
    kernel().mkfs(&image, 512 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime,compress-force=zstd");
    populate::tree(&mnt, PLAN);
    kernel().create_subvolume(&mnt.join("sub"));
    std::fs::write(mnt.join("sub/file"), "in a subvolume").expect("write");
    std::fs::write(mnt.join("text"), "butter and cream ".repeat(50_000)).expect("write");
    run_program("setfacl", &["-m", "u:1234:rw", &mnt.join("text").display().to_string()]);
    mounted.sync();
    let expected = comparable(Tree::read(&mnt));
    mounted.unmount();
    let before = hash_file(&image).expect("hash");
    let from = format!("{}:/", image.display());
    let copied = subject().command(&["cp", "-a", &from, &out.display().to_string()]).ok();
    assert_eq!(copied.stderr, "");
    comparable(Tree::read(&out)).assert_same(&expected, Times::Exact, "the kernel's mount, and the copy");
    let text = subject().command(&["cat", &format!("{}:text", image.display())]).ok();
    assert_eq!(text.stdout, "butter and cream ".repeat(50_000));
    let mounted = kernel().mount(&image, &mnt, "ro");
    let busy = subject().command(&["ls", &image.display().to_string()]);
    assert!(busy.status.code() == Some(1) && busy.stderr.contains("unmount it first"), "{busy}");
    mounted.unmount();
    assert_eq!(hash_file(&image).expect("hash"), before, "not a byte was changed");
}

#[test]
fn what_is_copied_in_the_kernel_takes_over() {
    let Some(work) = setup("copy_in_for_kernel") else { return };
    let (image, mnt, source) = (work.file("image"), work.file("mnt"), work.dir("source"));
    populate::tree(&source, PLAN);
    let expected = comparable(Tree::read(&source));
    kernel().mkfs(&image, 512 * MIB, &[]);
    let (from, to) = (format!("{}/.", source.display()), format!("{}:/", image.display()));
    let copied = subject().command(&["cp", "-a", &from, &to]).ok();
    assert_eq!(copied.stderr, "");
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    comparable(Tree::read(&mnt)).assert_same(&expected, Times::Exact, "the source, and what the kernel shows");
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "");
    let busy = subject().command(&["cp", "-a", &from, &to]);
    assert!(busy.status.code() == Some(1) && busy.stderr.contains("unmount it first"), "{busy}");
    mounted.unmount();
}

/// Who is not root gets what he may have: his own files, without set-ID bits and without root's attributes.
#[test]
fn a_plain_user_copies_out_and_in() {
    let Some(work) = setup("copy_plain_user") else { return };
    let (image, source, home) = (work.file("image"), work.dir("source"), work.dir("home"));
    std::fs::write(source.join("suid"), "run me").expect("write");
    chmod(&source.join("suid"), 0o4755);
    rustix::fs::lsetxattr(source.join("suid"), "trusted.t", b"1", XattrFlags::empty()).expect("setxattr");
    std::fs::create_dir(source.join("ro")).expect("mkdir");
    std::fs::write(source.join("ro/file"), "read me").expect("write");
    chmod(&source.join("ro"), 0o555);
    subject().mkfs(&image, 256 * MIB, &[]);
    let to = format!("{}:/", image.display());
    subject().command(&["cp", "-a", &format!("{}/.", source.display()), &to]).ok();
    for (path, mode) in [(&home, 0o777), (&image, 0o666), (&work.path().to_path_buf(), 0o755)] {
        chmod(path, mode);
    }
    let user = |arguments: &[&str]| {
        let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_butterfs")];
        run_program("setpriv", &[&ids, arguments].concat())
    };
    let out = home.join("out");
    let copied = user(&["cp", "-a", &to, &out.display().to_string()]).ok();
    assert!(copied.stderr.contains("1 extended attributes that only root"), "{copied}");
    let found = |name: &str| std::fs::metadata(out.join(name)).expect("it is there");
    assert_eq!((found("suid").mode() & 0o7777, found("suid").uid()), (0o755, 65534));
    assert_eq!((found("ro").mode() & 0o7777, found("ro/file").len()), (0o555, 7));
    // In an image everybody may preserve owners.
    user(&["cp", "-a", &source.join("suid").display().to_string(), &format!("{to}kept")]).ok();
    user(&["cp", &source.join("suid").display().to_string(), &format!("{to}own")]).ok();
    let listed = user(&["ls", "-l", &format!("{to}kept"), &format!("{to}own")]).ok().stdout;
    assert!(
        listed.contains("-rwsr-xr-x 1     0     0 6 ") && listed.contains("-rwxr-xr-x 1 65534 65534 6 "),
        "{listed}"
    );
    oracle::assert_clean(&image);
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

/// Several devices: named, looked for in a directory, and one of them missing.
#[test]
fn further_devices_are_named_or_found() {
    let Some(work) = setup("copy_devices") else { return };
    let dir = work.dir("disks");
    let [a, b] = ["a", "b"].map(|name| dir.join(name));
    for device in [&a, &b] {
        butterfs_testkit::mounter::create_sparse(device, 256 * MIB);
    }
    let [first, second] = [&a, &b].map(|path| path.display().to_string());
    run_program("mkfs.btrfs", &["-q", "-f", "-d", "raid1", "-m", "raid1", &first, &second]).ok();
    let ls = |arguments: &[&str]| subject().command(&[&["ls", "-la", &first], arguments].concat());
    let top = ls(&["--device", &second]).ok().stdout;
    assert!(top.contains(" .."), "{top}");
    assert_eq!(ls(&["--device", &dir.display().to_string()]).ok().stdout, top);
    let refused = ls(&[]);
    assert!(refused.status.code() == Some(1) && refused.stderr.contains("--degraded"), "{refused}");
    assert_eq!(ls(&["--degraded"]).ok().stdout, top);
    subject().command(&["cp", "/etc/hostname", &format!("{first}:/"), "--device", &second]).ok();
    let copied = subject().command(&["cat", &format!("{first}:/hostname"), "--device", &second]).ok().stdout;
    assert_eq!(copied, std::fs::read_to_string("/etc/hostname").expect("it reads"));
    let mounted = butterfs_testkit::devices::KernelMount::new(&[a, b], &work.dir("mnt"), "ro");
    assert_eq!(std::fs::read_to_string(mounted.join("hostname")).expect("the kernel reads it"), copied);
}

/// A filesystem that begins with a tree, for the kernel, and beside that which mkfs.btrfs makes of it.
#[test]
fn what_mkfs_began_with_the_kernel_takes_over() {
    let Some(work) = setup("mkfs_rootdir_for_kernel") else { return };
    let (image, mnt, source) = (work.file("image"), work.file("mnt"), work.dir("source"));
    populate::tree(&source, PLAN);
    let expected = comparable(Tree::read(&source));
    let (dir, path) = (source.display().to_string(), image.display().to_string());
    let below = std::fs::read_dir(&source).expect("the directory can be read").flatten();
    let below = below.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).min();
    let subvolume = format!("ro:{}", below.expect("there are directories").display());
    for options in [&[][..], &["--compress", "lzo", "--shrink"], &["-u", &subvolume], &["-M", "-b", "512M"]] {
        subject().command(&[&["mkfs", "-f", "-q", "-r", &dir], options, &[&path]].concat()).ok();
        oracle::assert_clean(&image);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        comparable(Tree::read(&mnt)).assert_same(&expected, Times::Exact, &options.join(" "));
        std::fs::write(mnt.join("written"), "by the kernel").expect("there is room");
        mounted.unmount();
        oracle::assert_clean(&image);
        std::fs::remove_file(&image).expect("remove");
    }
}
