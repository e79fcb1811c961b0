//! Mounts whose daemon hears of each opened file: with `open_files`, and for access times with `strictatime`.

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use common::{GIB, kernel, setup, subject};

/// chattr forbids to open a file for writing, as on the kernel's mount.
#[test]
fn protected_files_are_not_opened_for_writing() {
    let Some(work) = setup("opens") else { return };
    let (image, mnt) = (work.file("image"), work.file("mnt"));
    kernel().mkfs(&image, GIB, &[]);
    let options = if subject().is_butterfs() { "open_files" } else { "" };
    let mounted = subject().mount(&image, &mnt, options);
    let (fixed, growing) = (mounted.join("fixed"), mounted.join("growing"));
    for (path, flag) in [(&fixed, "+i"), (&growing, "+a")] {
        std::fs::write(path, "before").expect("write");
        run_program("chattr", &[flag.as_ref(), path.as_os_str()]).ok();
        let refused = File::options().write(true).open(path).map_err(|error| error.raw_os_error());
        assert_eq!(refused.expect_err("opened for writing"), Some(rustix::io::Errno::PERM.raw_os_error()));
        assert_eq!(std::fs::read_to_string(path).expect("reads"), "before");
    }
    assert!(OpenOptions::new().append(true).open(&fixed).is_err());
    assert!(OpenOptions::new().append(true).open(&growing).is_ok());
    for path in [&fixed, &growing] {
        run_program("chattr", &["-ia".as_ref(), path.as_os_str()]).ok();
    }
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// Every opened file that is read has its access time moved, also when the kernel has its bytes in memory.
#[test]
fn strictatime_sees_every_reader() {
    let Some(work) = setup("strictatime") else { return };
    let (image, mnt) = (work.file("image"), work.file("mnt"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "strictatime");
    let path = mounted.join("file");
    std::fs::write(&path, "bytes").expect("write");
    let mut last = (0, 0);
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(20));
        std::fs::read(&path).expect("read");
        let meta = path.metadata().expect("stat");
        assert!((meta.atime(), meta.atime_nsec()) > last, "reading, round {round}, moved nothing");
        last = (meta.atime(), meta.atime_nsec());
    }
    mounted.unmount();
    oracle::assert_clean(&image);
}
