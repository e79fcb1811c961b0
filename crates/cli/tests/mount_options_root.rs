//! Mount options beside the kernel's: what is taken, what is refused, and what they do.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use butterfs_testkit::command::{Finished, run, run_program};
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::oracle;
use common::{MIB, kernel, setup, subject};

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// What we do with an option that the kernel takes.
const TAKEN: &[&str] = &[
    "acl",
    "noacl",
    "noautodefrag",
    "barrier",
    "nobarrier",
    "commit=5",
    "commit=0",
    "compress",
    "compress=lzo",
    "compress=none",
    "compress-force=zstd:3",
    "datacow",
    "datasum",
    "nodiscard",
    "enospc_debug",
    "noenospc_debug",
    "fatal_errors=bug",
    "fatal_errors=panic",
    "flushoncommit",
    "noflushoncommit",
    "max_inline=1k",
    "rescan_uuid_tree",
    "skip_balance",
    "space_cache=v2",
    "ssd",
    "nossd",
    "ssd_spread",
    "nossd_spread",
    "subvol=/",
    "subvolid=5",
    "subvolid=0",
    "subvolid=0x5",
    "subvolid=05",
    "commit=0x1e",
    "thread_pool=4",
    "thread_pool=100000",
    "treelog",
    "notreelog",
    "user_subvol_rm_allowed",
    "lazytime",
    "sync",
    "async",
    "dirsync",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "noatime",
    "nodiratime",
    "diratime",
    "nosymfollow",
    "symfollow",
    "defaults",
    "nosuid",
    "nodev",
    "noexec",
    "ro,rescue=all",
    "x-name=1",
    "_netdev",
    "nofail",
];
/// What both refuse.
const REFUSED: &[&str] = &[
    "compress=gzip",
    "fatal_errors=x",
    "space_cache=v1",
    "space_cache=v3",
    "nospace_cache",
    "subvol=/nope",
    "subvolid=999",
    "subvolid=x",
    "subvolid=08",
    "subvolid=",
    "subvol=",
    "ssd=5",
    "barrier=x",
    "nobarrier=1",
    "flushoncommit=1",
    "thread_pool=0",
    "rescue=all",
    "ro,rescue=nonsense",
    "fragment=data",
    "ref_verify",
    "fancy",
    "commit",
];
/// What older kernels took: with a warning.
const WARNED: &[&str] = &[
    "inode_cache",
    "noinode_cache",
    "check_int",
    "check_int_data",
    "check_int_print_mask=1",
    "alloc_start=1",
    "subvolrootid=5",
    "mand",
];

#[test]
fn what_the_kernel_takes_is_taken() {
    let Some(work) = setup("options_taken") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let works = |mounter: &Mounter, options: &str| match mounter.try_mount(&image, &mnt, options) {
        Ok(mounted) => {
            mounted.unmount();
            Ok(())
        }
        Err(finished) => Err(finished),
    };
    for options in TAKEN {
        works(&subject(), options).unwrap_or_else(|finished| panic!("{options}: {finished}"));
    }
    // The kernel is asked once: only what is refused is in question.
    for options in REFUSED {
        assert!(works(&kernel(), options).is_err(), "{options}: the kernel takes it");
        let refused = works(&subject(), options).expect_err(options);
        let name = options.rsplit(',').next().and_then(|word| word.split('=').next()).expect("a name");
        assert!(
            refused.stderr.contains(name) && refused.stderr.trim_end().lines().count() == 1,
            "{options}: {refused}"
        );
    }
    if subject().is_butterfs() {
        for options in WARNED {
            let finished = run(Command::new(OURS).args(["mount", "-o", options]).arg(&image).arg(&mnt)).ok();
            assert!(finished.stderr.contains("warning: mount option"), "{options}: {finished}");
            run(Command::new(OURS).arg("umount").arg(&mnt)).ok();
        }
    }
    oracle::assert_clean(&image);
}

/// What findmnt shows of the flags that every filesystem has.
fn flags(mnt: &Path) -> Vec<String> {
    let shown = run_program("findmnt", &["-no".as_ref(), "VFS-OPTIONS,FS-OPTIONS".as_ref(), mnt.as_os_str()]).ok();
    let known =
        ["ro", "sync", "dirsync", "noatime", "relatime", "nodiratime", "nosuid", "nodev", "noexec", "nosymfollow"];
    let mut found: Vec<String> = shown.stdout.split([',', ' ', '\n']).map(str::to_owned).collect();
    found.retain(|word| known.contains(&word.as_str()));
    found.sort();
    found.dedup();
    found
}

#[test]
fn flags_are_shown_as_the_kernel_shows_them() {
    let Some(work) = setup("options_shown") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    for options in ["", "ro", "sync,dirsync", "noatime,nodiratime", "strictatime", "nosuid,nodev,noexec,nosymfollow"] {
        let shown = [kernel(), subject()].map(|mounter| {
            let mounted = mounter.mount(&image, &mnt, options);
            let shown = flags(&mnt);
            mounted.unmount();
            shown
        });
        assert_eq!(shown[1], shown[0], "{options}");
    }
}

fn as_user(script: &str) -> Finished {
    run(Command::new("setpriv").args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "sh", "-c", script]))
}

/// Without ACLs one that grants a user something grants nothing, and none can be seen or set.
#[test]
fn noacl_is_the_kernels() {
    let Some(work) = setup("options_noacl") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "");
    fs::create_dir(mnt.join("dir")).expect("mkdir");
    fs::set_permissions(&mnt, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(mnt.join("dir/file"), "x").expect("write");
    fs::set_permissions(mnt.join("dir/file"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let acl = |path: &str, entries: &str| {
        run_program("setfacl", &["-m".as_ref(), entries.as_ref(), mnt.join(path).as_os_str()])
    };
    acl("dir/file", "u:1000:r").ok();
    acl("dir", "d:u:1000:rwx").ok();
    mounted.unmount();
    let look = |mounter: Mounter, options: &str| {
        let mounted = mounter.mount(&image, &mnt, options);
        let file = mnt.join("dir/file");
        let mut seen = vec![
            format!("{}", as_user(&format!("cat {}", file.display())).status.success()),
            format!("{}", acl("dir/file", "u:1001:r").status.success()),
            run_program("getfattr", &["-d".as_ref(), "-m".as_ref(), "-".as_ref(), file.as_os_str()]).stdout,
            format!("{:o}", fs::metadata(&file).expect("stat").mode()),
        ];
        let script = format!("umask 027; cd {}/dir && touch new && stat -c %a new && rm new", mnt.display());
        seen.push(run(Command::new("sh").args(["-c", &script])).stdout);
        mounted.unmount();
        seen
    };
    for options in ["noacl", "acl"] {
        let (ours, theirs) = (look(subject(), options), look(kernel(), options));
        assert_eq!(ours[0], theirs[0], "{options}: a user reads");
        assert_eq!(ours[1..], theirs[1..], "{options}");
    }
    oracle::assert_clean(&image);
}

fn remount(mnt: &Path, options: &str) -> Finished {
    let options = format!("remount,{options}");
    run(Command::new(OURS).args(["mount", "-o", &options, "/dev/none"]).arg(mnt))
}

fn shows(mounted: &Mounted, words: &str) {
    let status = run(Command::new(OURS).arg("status").arg(mounted.path())).ok().stdout;
    assert!(status.contains(words), "{words}: {status}");
}

#[test]
fn a_mount_gets_other_options() {
    let Some(work) = setup("options_remount") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "commit=30");
    fs::write(mnt.join("before"), "b".repeat(200_000)).expect("write");
    // A file that is open for writing stands in the way.
    let open = fs::File::create(mnt.join("open")).expect("create");
    let busy = remount(&mnt, "ro");
    assert!(busy.stderr.contains("open for writing"), "{busy}");
    drop(open);
    // Closing is told later.
    butterfs_testkit::mounter::wait_until("it can be read-only", || remount(&mnt, "ro").status.success());
    assert!(flags(&mnt).contains(&"ro".into()));
    shows(&mounted, "read-only");
    assert!(fs::write(mnt.join("no"), "x").is_err());
    // All of it is on disk.
    oracle::assert_clean(&image);
    remount(&mnt, "rw,compress=zstd,noatime").ok();
    shows(&mounted, "compress=zstd");
    assert!(flags(&mnt).contains(&"noatime".into()) && !flags(&mnt).contains(&"ro".into()));
    fs::write(mnt.join("after"), "a".repeat(200_000)).expect("write");
    for (options, word) in
        [("subvol=/other", "subvol"), ("noacl", "acl"), ("compress=gzip", "gzip"), ("rescue=all", "ro")]
    {
        let refused = remount(&mnt, options);
        assert!(refused.status.code() != Some(0) && refused.stderr.contains(word), "{options}: {refused}");
    }
    mounted.unmount();
    oracle::assert_clean(&image);
    let extents = oracle::dump_tree(&image, "fs");
    assert_eq!(extents.matches("compression 3 (zstd)").count(), 2, "only what was written after it is compressed");
    let nothing = remount(&mnt, "ro");
    assert!(nothing.stderr.contains("not mounted by butterfs"), "{nothing}");
}

/// What was mounted to be read can be written after a remount, its log replayed and the work on it taken up.
#[test]
fn a_mount_that_only_reads_becomes_one_that_writes() {
    let Some(work) = setup("options_rw") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    fs::write(mnt.join("old"), "old").expect("write");
    run(Command::new("sync").arg("-f").arg(&mnt)).ok();
    let logged = fs::File::create(mnt.join("logged")).expect("create");
    (&logged).write_all(b"logged").expect("write");
    logged.sync_all().expect("fsync");
    drop(logged);
    mounted.kill();
    let has_log = || {
        let dump = run_program("btrfs", &["inspect-internal", "dump-super", &image.to_string_lossy()]).ok().stdout;
        let line = dump.lines().find(|line| line.starts_with("log_root\t")).map(str::to_owned);
        !line.expect("a line of the dump").ends_with("\t0")
    };
    assert!(has_log(), "there is a log to replay");
    let mounted = subject().mount(&image, &mnt, "ro");
    assert_eq!(fs::read_to_string(mnt.join("logged")).expect("read"), "logged");
    assert!(fs::write(mnt.join("no"), "x").is_err());
    // Who only reads the image keeps writers out.
    let reader = butterfs_volume::FileDevice::open_read_only(&image);
    let refused = remount(&mnt, "rw");
    assert_eq!(refused.status.success(), reader.is_err(), "{refused}");
    drop(reader);
    remount(&mnt, "rw,autodefrag,thread_pool=3").ok();
    assert!(!flags(&mnt).contains(&"ro".into()));
    shows(&mounted, "autodefrag");
    assert!(!has_log(), "the log was replayed for good");
    assert_eq!(fs::read_to_string(mnt.join("logged")).expect("read"), "logged");
    fs::write(mnt.join("new"), "n".repeat(100_000)).expect("write");
    fs::remove_file(mnt.join("old")).expect("remove");
    subject().create_subvolume(&mnt.join("sub"));
    run(Command::new(OURS).args(["subvolume", "delete"]).arg(mnt.join("sub"))).ok();
    remount(&mnt, "ro").ok();
    oracle::assert_clean(&image);
    remount(&mnt, "rw").ok();
    fs::write(mnt.join("again"), "x").expect("write");
    mounted.unmount();
    oracle::assert_clean(&image);
    let kernel_sees = kernel().mount(&image, &mnt, "ro");
    assert_eq!(fs::read(mnt.join("new")).expect("read").len(), 100_000);
    assert!(mnt.join("again").exists() && mnt.join("logged").exists() && !mnt.join("old").exists());
    kernel_sees.unmount();
    let mounted = subject().mount(&image, &mnt, "ro,rescue=ignoredatacsums");
    let refused = remount(&mnt, "rw");
    assert!(refused.stderr.contains("rescue"), "{refused}");
    mounted.unmount();
}

/// What is mounted for reading can be shown in further places, for reading.
#[test]
fn what_is_mounted_for_reading_is_mounted_again() {
    let Some(work) = setup("mo-ro-again") else { return };
    let (image, first, second) = (work.file("image"), work.dir("first"), work.dir("second"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &first, "ro");
    let (from, to) = (image.display().to_string(), second.display().to_string());
    subject().command(&["mount", "-o", "ro", &from, &to]).ok();
    assert!(std::fs::write(second.join("file"), "no").is_err());
    run_program("umount", &[second.as_os_str()]).ok();
    let refused = subject().try_mount(&image, &second, "rw").map(drop).expect_err("it is served for reading");
    assert!(refused.stderr.contains("for reading only"), "{refused}");
    mounted.unmount();
}

/// A second mount of an image shows a part of the first; what it cannot show it refuses.
#[test]
fn a_second_mount_shows_the_first() {
    let Some(work) = setup("options_again") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt, second) = (work.file("image"), work.dir("mnt"), work.dir("second"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let first = subject().mount(&image, &mnt, "");
    for path in ["a", "a/b", "c"] {
        subject().create_subvolume(&mnt.join(path));
    }
    fs::write(mnt.join("a/b/file"), "once").expect("write");
    run(Command::new(OURS).args(["mount", "-o", "subvol=/a/b,ro"]).arg(&image).arg(&second)).ok();
    assert_eq!(fs::read_to_string(second.join("file")).expect("read"), "once");
    assert!(fs::write(second.join("new"), "x").is_err());
    fs::write(mnt.join("a/b/file"), "twice").expect("write");
    assert_eq!(fs::read_to_string(second.join("file")).expect("read"), "twice");
    run(Command::new(OURS).arg("umount").arg(&second)).ok();
    assert!(fs::read(mnt.join("a/b/file")).is_ok(), "the daemon goes on");
    first.unmount();
    let first = subject().mount(&image, &mnt, "subvol=a");
    for (options, word) in
        [("subvol=c", "does not lie in it"), ("subvol=none", "no such subvolume"), ("subvolid=5", "/a")]
    {
        let refused = subject().try_mount(&image, &second, options).expect_err(options);
        assert!(refused.stderr.contains(word), "{options}: {refused}");
    }
    first.unmount();
    let first = subject().mount(&image, &mnt, "ro");
    let refused = subject().try_mount(&image, &second, "").expect_err("rw");
    assert!(refused.stderr.contains("for reading only"), "{refused}");
    first.unmount();
    oracle::assert_clean(&image);
}

/// Blocks of statfs: all, free, available.
fn blocks(mnt: &Path) -> [u64; 3] {
    let stat = rustix::fs::statvfs(mnt).expect("statvfs");
    [stat.f_blocks, stat.f_bfree, stat.f_bavail]
}

#[test]
fn statfs_is_the_kernels() {
    let Some(work) = setup("options_statfs") else { return };
    let mnt = work.dir("mnt");
    for (name, size, arguments, bytes) in [
        ("small", 256 * MIB, &[][..], 0),
        ("dup", 1024 * MIB, &["-d", "dup"][..], 50 * MIB),
        ("single", 2048 * MIB, &["-m", "single"][..], 300 * MIB),
        ("full", 256 * MIB, &[][..], 1024 * MIB),
    ] {
        let image = work.file(name);
        kernel().mkfs(&image, size, arguments);
        let mounted = kernel().mount(&image, &mnt, "");
        let script = format!("head -c {bytes} /dev/urandom >{}/file 2>/dev/null || true", mnt.display());
        run(Command::new("sh").args(["-c", &script])).ok();
        mounted.sync();
        mounted.unmount();
        let of = |mounter: Mounter| {
            let mounted = mounter.mount(&image, &mnt, "");
            let found = blocks(&mnt);
            mounted.unmount();
            found
        };
        let (theirs, ours) = (of(kernel()), of(subject()));
        println!("{name}: kernel {theirs:?}, ours {ours:?}");
        for (theirs, ours) in theirs.iter().zip(ours) {
            // A quarter of a MiB: what a mount itself writes.
            assert!(theirs.abs_diff(ours) <= 64, "{name}: kernel {theirs}, ours {ours}");
        }
        fs::remove_file(&image).expect("remove");
    }
}

/// Wrong entries of the UUID tree go, lost ones come back.
#[test]
fn the_uuid_tree_is_put_right() {
    let Some(work) = setup("options_uuid") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    if !subject().is_butterfs() {
        return;
    }
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    ["a", "b", "c"].iter().for_each(|name| subject().create_subvolume(&mnt.join(name)));
    mounted.unmount();
    let before = oracle::dump_tree(&image, "uuid");
    let entries = |text: &str| text.lines().filter(|line| line.contains("UUID_KEY_SUBVOL")).count();
    assert_eq!(entries(&before), 4);
    run(Command::new(OURS).args(["rescue", "clear-uuid-tree"]).arg(&image)).ok();
    assert!(!oracle::dump_tree(&image, "root").contains("UUID_TREE ROOT_ITEM"));
    let mounted = subject().mount(&image, &mnt, "rescan_uuid_tree");
    mounted.unmount();
    let keys = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("UUID_KEY_SUBVOL")).map(|line| line.replace(' ', "")).collect()
    };
    assert_eq!(keys(&oracle::dump_tree(&image, "uuid")).len(), 4);
    oracle::assert_clean(&image);
}
