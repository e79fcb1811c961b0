//! `receive --dump` beside btrfs-progs: the same text, line by line, of streams that the kernel sends.

mod common;

use butterfs_testkit::command::{Finished, run, run_program};
use butterfs_testkit::workdir::WorkDir;
use common::{GIB, kernel, setup};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// Two snapshots, `s1` and `s2`, in the current directory, that differ in every way that a stream can tell of. In
/// `s1`, `packed` is compressed and `twin` shares its extents.
const SNAPSHOTS: &str = r#"
set -eu
btrfs subvolume create a >/dev/null
cd a
mkdir d "d/with blank" gone
printf 'a\n' >d/small
head -c 9000 /dev/zero | tr '\0' x >plain
btrfs property set . compression zstd
yes butter | head -c 20000 >packed
btrfs property set . compression none
sync -f .
cp --reflink=always packed twin
ln -s 'some where' link
ln plain d/hard
mkfifo fifo
mknod node b 8 1
mknod char c 1 3
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
printf 'x' >"$(printf 'd/\351\n\\')"
setfattr -n user.text -v 'a b' d/small
setfattr -n user.bytes -v 0x00ff0a d/small
touch -d 12345-01-02 late
touch -d 0123-01-02 early
truncate -s 1M hole
chown 7:8 hole
chmod 4711 hole
cd ..
btrfs subvolume snapshot -r a s1 >/dev/null
cd a
mv d/hard moved
mv d e
rm gone -r
rm link
setfattr -x user.text e/small
fallocate -p -o 4096 -l 4096 packed
printf 'more' >>e/small
truncate -s 5000 plain
chattr +A fifo hole 2>/dev/null || chattr +A hole
chmod 600 hole
cp --reflink=always twin third
cd ..
btrfs subvolume snapshot -r a s2 >/dev/null
"#;

/// The streams that are made of them, with the words that must occur in their text.
const STREAMS: [(&str, &str, &str); 7] = [
    (
        "full",
        "s1",
        "subvol mkdir mkfile mkfifo mksock mknod symlink link rename write set_xattr truncate chmod chown utimes clone",
    ),
    ("incremental", "-p s1 s2", "snapshot rename unlink rmdir remove_xattr write truncate chmod clone utimes"),
    ("full-v2", "--proto 2 s1", "write truncate"),
    ("incremental-v2", "--proto 2 -p s1 s2", "fallocate fileattr"),
    ("compressed", "--proto 2 --compressed-data s1", "encoded_write"),
    ("no-data", "--no-data s1", "update_extent"),
    ("two", "-e s1 s2", "subvol"),
];

fn send(mnt: &Path, arguments: &str, to: &Path) {
    let arguments = arguments.split(' ');
    run(Command::new("btrfs").args(["send", "-q", "-f"]).arg(to).args(arguments).current_dir(mnt)).ok();
}

fn dump(program: &str, stream: &Path) -> Finished {
    run(Command::new(program).args(["receive", "--dump", "-f"]).arg(stream).env("TZ", "Asia/Kathmandu"))
}

/// Both programs' text of a stream, which is the same.
#[track_caller]
fn same(stream: &Path) -> String {
    let (theirs, ours) = (dump("btrfs", stream), dump(OURS, stream));
    assert_eq!(ours.status.code(), theirs.status.code(), "{ours}\n{theirs}");
    for (number, (ours, theirs)) in ours.stdout.lines().zip(theirs.stdout.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {number} of {}", stream.display());
    }
    assert_eq!(ours.stdout.len(), theirs.stdout.len(), "{}", stream.display());
    assert_eq!(ours.stderr.is_empty(), theirs.stderr.is_empty(), "{ours}\n{theirs}");
    ours.stdout
}

fn make_streams(work: &WorkDir) -> Vec<(PathBuf, &'static str)> {
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "");
    run(Command::new("sh").args(["-c", SNAPSHOTS]).current_dir(&mnt)).ok();
    let made = STREAMS.map(|(name, arguments, words)| {
        let path = work.file(name);
        send(&mnt, arguments, &path);
        (path, words)
    });
    mounted.unmount();
    made.into()
}

#[test]
fn streams_of_the_kernel_are_printed_as_btrfs_progs_prints_them() {
    let Some(work) = setup("receive_dump") else { return };
    let streams = make_streams(&work);
    for (stream, words) in &streams {
        let text = same(stream);
        let found: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        for word in words.split(' ') {
            assert!(found.contains(word), "{} has no {word}: {found:?}", stream.display());
        }
    }
    let [(full, _), (incremental, _), ..] = streams.as_slice() else { unreachable!("there are seven") };
    by_standard_input(full);
    broken_streams_end_alike(&work, full);
    broken_streams_end_alike(&work, incremental);
}

/// What comes through a pipe is no other text.
fn by_standard_input(stream: &Path) {
    let script = format!("cat '{}' | '{OURS}' receive --dump", stream.display());
    let piped = run(Command::new("sh").args(["-c", &script]).env("TZ", "Asia/Kathmandu")).ok();
    assert_eq!(piped.stdout, dump(OURS, stream).stdout);
}

/// Cut anywhere, changed anywhere: the same lines up to there, the same status, and a place in our message.
fn broken_streams_end_alike(work: &WorkDir, stream: &Path) {
    let whole = std::fs::read(stream).expect("the stream is there");
    let broken = work.file("broken");
    for step in 0..40 {
        let at = step * whole.len() / 40;
        for bytes in [whole[..at].to_vec(), changed(&whole, at)] {
            std::fs::write(&broken, bytes).expect("a file");
            same(&broken);
            let ours = dump(OURS, &broken);
            assert_eq!(ours.status.code(), Some(1), "{ours}");
            assert!(at == 0 || ours.stderr.contains("send stream offset "), "{ours}");
        }
    }
}

fn changed(whole: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[at] ^= 0x40;
    bytes
}

#[test]
fn what_is_no_stream_is_refused_alike() {
    let Some(work) = setup("receive_dump_not") else { return };
    let path = work.file("none");
    for bytes in [&b""[..], b"btrfs", b"no stream at all, but long enough", b"btrfs-stream\0\x09\0\0\0"] {
        std::fs::write(&path, bytes).expect("a file");
        same(&path);
    }
    let missing = run_program(OURS, &["receive", "--dump", "-f", "/nowhere/stream"]);
    assert_eq!(missing.status.code(), Some(1), "{missing}");
}
