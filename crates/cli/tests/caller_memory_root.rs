//! Answers that are put into a caller's memory, where that is a mapped file of the same mount: the kernel asks the daemon for
//! the page that the daemon is about to write.

mod common;

use std::fs;
use std::process::Command;

use butterfs_testkit::mounter::wait_until;
use butterfs_testkit::random::Random;
use common::{MIB, setup, subject};

/// So many callers at once: more than there are workers.
const CALLERS: usize = 20;

/// `SPACE_INFO` with its two numbers at the end of a page, so that the answer goes to the next page, of a file. Says what
/// came of each call.
const SCRIPT: &str = r#"
    use Fcntl; my ($dir, $file, $callers) = @ARGV;
    my ($mmap, $ioctl, $read) = (9, 16, 0);
    sysopen(my $d, $dir, O_RDONLY) or die "open: $!"; sysopen(my $f, $file, O_RDWR) or die "open: $!";
    for my $caller (1..$callers) {
        next if fork;
        my $base = syscall($mmap, 0, 8192, 3, 0x22, -1, 0);
        my $page = syscall($mmap, $base + 4096, 4096, 3, 0x11, fileno($f), $caller * 4096 * 64);
        die "mmap: $!" if $page != $base + 4096;
        pipe(my $from, my $to); syswrite($to, pack("QQ", 16, 0));
        syscall($read, fileno($from), $base + 4096 - 16, 16) == 16 or die "read: $!";
        $! = 0;
        my $done = syscall($ioctl, fileno($d), 0xc0109414, $base + 4096 - 16);
        syswrite(STDOUT, $done == 0 ? "done\n" : "$!\n");
        exit 0;
    }
    1 while wait != -1;"#;

#[test]
fn an_answer_goes_into_a_mapped_file_of_the_mount() {
    let Some(work) = setup("caller_memory") else { return };
    for options in ["noatime", "thread_pool=1"] {
        let image = work.file(options);
        subject().mkfs(&image, 256 * MIB, &[]);
        let mounted = subject().mount(&image, &work.dir("mnt"), options);
        fs::write(mounted.join("file"), Random::new(1).bytes(8 << 20)).expect("write");
        mounted.unmount();
        // Nothing of it is in memory now.
        let mounted = subject().mount(&image, &work.dir("mnt"), options);
        let (out, said) = (work.file("said"), || fs::read_to_string(work.file("said")).expect("read"));
        let mut command = Command::new("perl");
        command.args(["-e", SCRIPT]).arg(mounted.path()).arg(mounted.join("file")).arg(CALLERS.to_string());
        command.stdout(fs::File::create(&out).expect("create"));
        let mut callers = command.spawn().expect("perl runs");
        wait_until("all callers to be answered", || said().lines().count() == CALLERS);
        assert!(callers.wait().expect("wait").success());
        // Those for whom no worker is left are told so.
        assert!(said().lines().all(|line| line == "done" || line == "Device or resource busy"), "{}", said());
        assert!(said().contains("done"), "{}", said());
        mounted.unmount();
    }
}
