//! `FS_IOC_GOINGDOWN` on a mount: as if the power failed.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use common::{GIB, kernel, setup, subject};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::path::Path;

fn shut_down(mnt: &Path, how: &str) {
    run_program("xfs_io", &["-x".as_ref(), "-c".as_ref(), how.as_ref(), mnt.as_os_str()]).ok();
}

/// What fsync made durable is there after another mount, what it did not is not, and meanwhile all is EIO.
#[test]
fn a_mount_that_was_shut_down_has_what_is_durable() {
    let Some(work) = setup("shut_down") else { return };
    if !subject().is_butterfs() {
        println!("the kernel's Btrfs has no such command");
        return;
    }
    for (how, flushed) in [("shutdown", false), ("shutdown -f", true)] {
        let (image, mnt) = (work.file("image"), work.file("mnt"));
        kernel().mkfs(&image, GIB, &[]);
        let mounted = subject().mount(&image, &mnt, "commit=600");
        std::fs::write(mounted.join("committed"), "one").expect("write");
        mounted.sync();
        let mut logged = File::create(mounted.join("logged")).expect("create");
        logged.write_all(b"two").expect("write");
        logged.sync_all().expect("fsync");
        std::fs::write(mounted.join("in_memory"), "three").expect("write");
        shut_down(&mounted.join("."), how);
        let refused = |result: std::io::Result<()>| {
            assert_eq!(result.err().as_ref().and_then(Errno::from_io_error), Some(Errno::IO), "{how}");
        };
        refused(std::fs::write(mounted.join("late"), "four"));
        refused(std::fs::read_dir(mounted.join(".")).and_then(|mut list| list.try_for_each(|entry| entry.map(drop))));
        refused(logged.write_all(b"five"));
        refused(logged.sync_all());
        drop(logged);
        mounted.unmount();

        let mounted = subject().mount(&image, &mnt, "");
        let read = |name| std::fs::read_to_string(mounted.join(name)).ok();
        assert_eq!(read("committed").as_deref(), Some("one"), "{how}");
        assert_eq!(read("logged").as_deref(), Some("two"), "{how}");
        assert_eq!(read("in_memory").as_deref(), flushed.then_some("three"), "{how}");
        assert_eq!(read("late"), None, "{how}");
        mounted.unmount();
        oracle::assert_clean(&image);
    }
}
