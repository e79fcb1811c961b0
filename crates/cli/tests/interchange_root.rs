//! Interchange: what one side writes the other reads with equal result, goes on with, and hands back. Every kind and level
//! of compression, and every other thing that a file can have.

mod common;

use butterfs_testkit::command::{run, run_program};
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::oracle;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{MIB, kernel, setup, subject};
use std::fs;
use std::path::Path;
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");

/// Every method that `compress=` knows, with each of its levels.
fn methods() -> Vec<String> {
    let zlib = (1..=9).map(|level| format!("zlib:{level}"));
    let zstd = (-15..=15).map(|level| format!("zstd:{level}"));
    ["zlib", "lzo", "zstd"].map(str::to_owned).into_iter().chain(zlib).chain(zstd).collect()
}

/// Changes the options of a mount.
fn remount(mounted: &Mounted, options: &str) {
    let options = format!("remount,{options}");
    let mut command = if mounted.mounter().is_butterfs() {
        let mut command = Command::new(BINARY);
        command.args(["mount", "-o", &options, "/dev/none"]);
        command
    } else {
        let mut command = Command::new("mount");
        command.args(["-o", &options]);
        command
    };
    run(command.arg(mounted.path())).ok();
}

/// Text that becomes smaller by any method, some of it less so.
fn text(seed: usize, len: usize) -> Vec<u8> {
    let words = ["all ", "work ", "and ", "no ", "play ", "makes "];
    let mut number = seed as u64 | 1;
    let mut next = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        number >> 33
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(words[next() as usize % words.len()].bytes());
    }
    bytes.truncate(len);
    let noise = len / 3..len / 2;
    bytes[noise].iter_mut().step_by(24).for_each(|byte| *byte = next() as u8);
    bytes
}

/// Writes a long and a small file by each method; the content says nothing of the method.
fn write_by_each_method(mounted: &Mounted) {
    for (number, method) in methods().iter().enumerate() {
        remount(mounted, &format!("compress-force={method}"));
        fs::write(mounted.join(format!("long {method}")), text(number, 300_001)).expect("write");
        fs::write(mounted.join(format!("small {method}")), text(number, 1_501)).expect("write");
        mounted.sync();
    }
}

/// Each file extent of a dump, and how it is compressed.
fn compressions(image: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in oracle::dump_tree(image, "fs").lines() {
        // Nodes have keys, too, and no items.
        let item = line.trim_start().starts_with("item ").then(|| line.split_once("key (")).flatten();
        if let Some((_, key)) = item.filter(|(_, key)| key.contains(" EXTENT_DATA ")) {
            found.push(key.split(')').next().unwrap_or_default().to_owned());
        } else if let (Some((_, kind)), Some(last)) = (line.split_once("compression "), found.last_mut()) {
            *last = format!("{last} {kind}");
        }
    }
    found
}

#[test]
fn every_kind_and_level_of_compression_goes_both_ways() {
    let Some(work) = setup("interchange_compression") else { return };
    let mut kinds = Vec::new();
    for (name, writer, reader) in [("theirs", kernel(), subject()), ("ours", subject(), kernel())] {
        let (image, mnt) = (work.file(name), work.dir("mnt"));
        kernel().mkfs(&image, 512 * MIB, &[]);
        let mounted = writer.mount(&image, &mnt, "noatime");
        write_by_each_method(&mounted);
        mounted.unmount();
        oracle::assert_clean(&image);
        kinds.push(compressions(&image));
        let mounted = reader.mount(&image, &mnt, "noatime,compress-force=zstd:1");
        for (number, method) in methods().iter().enumerate() {
            let (long, small) = (mnt.join(format!("long {method}")), mnt.join(format!("small {method}")));
            assert!(fs::read(&long).expect("read") == text(number, 300_001), "{name}: {method}");
            assert!(fs::read(&small).expect("read") == text(number, 1_501), "{name}: {method}, in the tree");
            // The other goes on in the middle of a compressed extent.
            let file = fs::File::options().write(true).open(&long).expect("open");
            std::os::unix::fs::FileExt::write_all_at(&file, b"in between", 131_000).expect("write");
        }
        let seen = Tree::content_of(&mnt);
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = writer.mount(&image, &mnt, "noatime");
        Tree::content_of(&mnt).assert_same(&seen, Times::Exact, "handed back");
        mounted.unmount();
    }
    assert!(kinds[0].iter().any(|line| line.contains("3 (zstd)")) && kinds[0].len() > 80, "{:?}", kinds[0]);
    let differs = kinds[0].iter().zip(&kinds[1]).find(|(theirs, ours)| theirs != ours);
    assert_eq!((differs, kinds[0].len()), (None, kinds[1].len()), "what is compressed, and by what");
}

/// Everything else that files and subvolumes can be, by commands that both mounts know; `reflink A B` and `sub ...` are
/// what the two do in words of their own.
const EVERYTHING: &str = r#"
set -eu
noise() { head -c "$1" /dev/urandom > "$2"; }
mkdir files; cd files
noise 300001 plain; noise 1200 inline; : > empty; truncate -s 5000000 hole
reflink plain clone; cp --reflink=never plain part; xfs_io -c 'pwrite -q 4096 8192' part; reflink part again
sub create ../other; reflink plain ../other/clone
: > packed; setfattr -n btrfs.compression -v zstd packed; seq 1 60000 > packed; sync -f packed
reflink packed packed.clone; reflink packed ../other/packed
fallocate -l 1M pre; xfs_io -c 'pwrite -q 100000 50000' pre
: > kept; fallocate -n -l 300000 kept; noise 200000 punched; fallocate -p -o 4096 -l 100000 punched
noise 200000 zeroed; fallocate -z -o 10000 -l 100000 zeroed
: > nocow; chattr +C nocow; noise 500000 nocow.data; cat nocow.data > nocow; sync -f nocow
xfs_io -c 'pwrite -q 8192 20000' nocow; reflink nocow.data unlike || true
mkdir acl; setfacl -m d:u:1000:rwx,d:g::r-x acl; : > acl/below; mkdir acl/dir; setfacl -m u:1001:rw-,m::r-- acl/below
for letter in A c d D S m; do mkdir "dir$letter"; chattr "+$letter" "dir$letter"; : > "dir$letter/in"; mkdir "dir$letter/sub"; done
mkdir dirC; chattr +C dirC; noise 9000 dirC/in
setfattr -n user.long -v "$(printf %03000d 1)" plain; setfattr -n trusted.x -v y plain; setfattr -n user.d -v d dirC
setfattr -n btrfs.compression -v zstd:7 empty; setfattr -n btrfs.compression -v lzo dirA
cp /bin/true caps; chown 1000:1000 caps; chmod 6755 caps; setcap cap_net_raw+ep caps
mkfifo pipe; mknod null c 1 3; mknod block b 300 70000; ln -s "$(printf %03000d 7)" link; ln -s plain short
mkdir names; : > many; for i in $(seq 1 400); do ln many "names/a-name-of-some-length-$i"; done
xfs_io -T . -c 'pwrite -q 0 5000' -c 'flink unnamed'
for i in 1 2 3; do touch -d "19$((60 + i))-01-02 03:04:05.123456789" plain; done
cd ..
sub create s; noise 100000 s/file; mkdir s/dir; sub create s/dir/nested; echo in > s/dir/nested/file
sub snapshot -r s s1; echo more >> s/file; sub snapshot s1 s2; echo other > s2/new; rm s2/file
sub snapshot -r s2 s3; sub snapshot s3 s4; noise 50000 s4/again; mkdir deep; mv s4 deep/moved
sub create gone; : > gone/file; sub delete gone
chattr +i files/inline; chattr +a files/part; chattr +i files/names
"#;

/// Makes everything; the commands of each side are functions of the shell.
fn make_everything(mounted: &Mounted) {
    let words = if mounted.mounter().is_butterfs() {
        format!("reflink() {{ {BINARY} reflink \"$@\"; }}; sub() {{ {BINARY} subvolume \"$@\" >/dev/null; }}\n")
    } else {
        "reflink() { cp --reflink=always \"$@\"; }; sub() { btrfs subvolume \"$@\" >/dev/null; }\n".to_owned()
    };
    let script = format!("{words}{EVERYTHING}");
    run(Command::new("bash").args(["-c", &script]).current_dir(mounted.path())).ok();
}

/// What a tree comparison does not look at: attributes of chattr, ACLs in words, times of birth.
fn shown(mnt: &Path) -> String {
    let script = "find . -type f -o -type d | LC_ALL=C sort | while read -r f; do lsattr -d \"$f\"; done 2>&1
        getfacl -R -n . 2>/dev/null; find . -type f | LC_ALL=C sort |
        xargs -d '\\n' stat -c '%n %W %b'";
    run(Command::new("bash").args(["-c", script]).current_dir(mnt)).ok().stdout
}

/// The kernel shows a new ctime of a subvolume that was moved, and does not store it.
fn content(mnt: &Path) -> Tree {
    let mut tree = Tree::content_of(mnt);
    tree.forget_times("deep/moved");
    tree
}

fn change(mnt: &Path) {
    let script = "set -eu; chattr -i files/inline files/names; chattr -a files/part
        for f in files/{plain,clone,part,again,pre,kept,punched,zeroed,nocow,unnamed,inline,empty} s/file deep/moved/again; do
            printf 'changed' | dd of=$f bs=1 seek=9000 conv=notrunc status=none; echo appended >> $f; done
        rm files/names/a-name-of-some-length-{1,17,399} files/hole; ln files/many files/names/new
        setfattr -x user.long files/plain; setfacl -x u:1001 files/acl/below; mv files/dirC files/dirD/; : > files/dirD/dirC/new
        truncate -s 100 files/clone; rm files/dirA/in; touch files/dirc/later";
    run(Command::new("bash").args(["-c", script]).current_dir(mnt)).ok();
}

/// The writer makes everything, the other reads it, changes it, and hands it back.
fn everything(test: &str, writer: &Mounter, reader: &Mounter, mkfs: &[&str]) {
    let Some(work) = setup(test) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 512 * MIB, mkfs);
    let options = |mounter: &Mounter| if mounter.is_butterfs() { "noatime,suid,dev,allow_other" } else { "noatime" };
    let mounted = writer.mount(&image, &mnt, options(writer));
    make_everything(&mounted);
    mounted.sync();
    let (tree, words) = (content(&mnt), shown(&mnt));
    assert!(tree.len() > 450 && words.contains("user:1000:rwx"), "{words}");
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = reader.mount(&image, &mnt, options(reader));
    content(&mnt).assert_same(&tree, Times::Exact, "the reader | the writer");
    same_lines(&shown(&mnt), &words);
    change(&mnt);
    mounted.sync();
    let (tree, words) = (content(&mnt), shown(&mnt));
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = writer.mount(&image, &mnt, options(writer));
    content(&mnt).assert_same(&tree, Times::Exact, "handed back");
    same_lines(&shown(&mnt), &words);
    mounted.unmount();
    run_program("rm", &[image.as_os_str()]).ok();
}

fn same_lines(found: &str, expected: &str) {
    let differs = found.lines().zip(expected.lines()).filter(|(one, other)| one != other);
    let first: Vec<_> = differs.take(10).collect();
    assert!(first.is_empty() && found.len() == expected.len(), "{first:#?}");
}

#[test]
fn everything_that_the_kernel_writes_we_read() {
    everything("interchange_theirs", &kernel(), &subject(), &[]);
}

#[test]
fn everything_that_we_write_the_kernel_reads() {
    everything("interchange_ours", &subject(), &kernel(), &[]);
}

#[test]
fn everything_goes_both_ways_with_small_nodes_and_holes() {
    let layout = ["-n", "4096", "-O", "^no-holes"];
    everything("interchange_theirs_small", &kernel(), &subject(), &layout);
    everything("interchange_ours_small", &subject(), &kernel(), &layout);
}
