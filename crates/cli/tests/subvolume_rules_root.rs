//! What new subvolumes have from where they are made, where subvolumes may go, and what is said when something cannot be:
//! beside the kernel's mount.

mod common;

use common::both::{Judge, same_by, same_on_both};

/// Functions of the scripts: calls whose errors are told as the system names them.
const CALLS: &str = r#"
call() { python3 - "$@" <<'END'
import errno, fcntl, os, struct, sys
CREATE, DEFRAG, LOOKUP, DEFAULT, SET_FLAGS = 0x5000940e, 0x50009402, 0xd0009412, 0x40089413, 0x4008941a
def ioctl(path, number, begin=b""):
    argument = bytearray(begin.ljust(4096, bytes(1)))
    fcntl.ioctl(os.open(path, os.O_RDONLY), number, argument, True)
    return argument
def default(path):
    ioctl(path, DEFAULT, ioctl(path, LOOKUP, struct.pack("QQ", 0, 256))[:8])
def seek(path, offset, whence):
    return os.lseek(os.open(path, os.O_RDONLY), int(offset), whence)
calls = {
    "subvolume": lambda dir, name: len(ioctl(dir, CREATE, bytes(8) + name.encode())), "default": default,
    "readonly": lambda path, yes: len(ioctl(path, SET_FLAGS, struct.pack("Q", 2 * int(yes)))),
    "defrag": lambda path: len(ioctl(path, DEFRAG)),
    "data": lambda path, at: seek(path, at, os.SEEK_DATA), "hole": lambda path, at: seek(path, at, os.SEEK_HOLE),
    "rename": os.rename, "rmdir": os.rmdir,
}
try: print(*sys.argv[1:], "done", calls[sys.argv[1]](*sys.argv[2:]))
except OSError as error: print(*sys.argv[1:], errno.errorcode[error.errno])
END
}
"#;

/// A subvolume has the property of the subvolume that it lies in, and nothing of its directory.
#[test]
fn new_subvolumes_have_what_the_kernels_have() {
    let script = r#"
        umask 022
        flags() { lsattr -d "$@" | awk '{print $1, $2}'; }
        for flag in C c m; do
            mkdir d$flag; chattr +$flag d$flag; btrfs subvolume create d$flag/s >/dev/null
            touch d$flag/s/f d$flag/f; flags d$flag d$flag/f d$flag/s d$flag/s/f
            getfattr -d -m- d$flag/s d$flag/s/f
        done
        mkdir sg; chgrp 1000 sg; chmod 2775 sg; btrfs subvolume create sg/s >/dev/null; stat -c '%a %u %g' sg/s
        touch sg/s/f; stat -c '%a %u %g' sg/s/f
        for value in lzo zstd zlib none; do
            btrfs subvolume create ps$value >/dev/null; setfattr -n btrfs.compression -v $value ps$value
            mkdir ps$value/d; btrfs subvolume create ps$value/s >/dev/null; btrfs subvolume create ps$value/d/s >/dev/null
            touch ps$value/s/f; flags ps$value ps$value/s ps$value/d/s ps$value/s/f
            getfattr -d -m- ps$value/s ps$value/d/s ps$value/s/f
        done
        btrfs subvolume create old >/dev/null; mkdir old/d; setfattr -n btrfs.compression -v lzo old
        btrfs subvolume create old/d/s >/dev/null; getfattr -d -m- old/d/s
    "#;
    same_on_both("rules_new", &[], script);
}

/// The way up is a part of a subvolume that cannot be changed.
#[test]
fn read_only_subvolumes_stay_in_their_directories() {
    let script = r#"
        mkdir d; btrfs subvolume create ro >/dev/null; btrfs subvolume create rw >/dev/null; touch d/f
        call readonly ro 1
        call rename ro d/ro; call rename rw d/rw; call rename d/rw rw; call rename ro renamed; call rename renamed rw/ro
        sys rename renamed d/f 2; sys rename d/f renamed 2; sys rename renamed rw 2; ls -F . d
        call readonly renamed 0; call rename renamed d/again; ls -F . d
    "#;
    same_on_both("rules_move", &[], &format!("{CALLS}{script}"));
}

#[test]
fn errors_have_the_kernels_numbers() {
    let script = r#"
        for name in . ..; do call subvolume . $name; done
        btrfs subvolume create default >/dev/null; touch default/f; call default default
        call rmdir default; rm default/f; call rmdir default; call default .; call rmdir default
        umask 022; head -c 20000 /dev/zero > other; truncate -s 100000 other; touch empty
        call data other -1; sync -f .
        # The kernel finds data from below zero only as long as it is in memory.
        for at in -1 -9223372036854775808; do call hole other $at; done
        for at in 0 19999 99999 100000; do call data other $at; call hole other $at; done
        call data empty -1; call hole empty -1
        chmod 755 .; setpriv --reuid 1000 --clear-groups bash -c "$(declare -f call); call defrag other" || true
        chmod 666 other; setpriv --reuid 1000 --clear-groups bash -c "$(declare -f call); call defrag other" || true
    "#;
    same_on_both("rules_errors", &[], &format!("{CALLS}{script}"));
}

/// As many names of one hash as there is room for in one item: each way to make one more says so.
#[test]
fn names_of_one_hash_run_out_as_in_the_kernel() {
    let script = r#"
python3 - <<'END'
import errno, os
def crc(name):
    c = 0xfffffffe
    for byte in name:
        c ^= byte
        for _ in range(8): c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)
    return c
def flipped(bits):
    name = bytearray(b"@" * 200)
    for bit in bits: name[bit // 5] ^= 1 << bit % 5
    return bytes(name)
zero, basis, names = crc(flipped([])), {}, [flipped([])]
for bit in range(0, 600):
    value, bits = crc(flipped([bit])) ^ zero, [bit]
    while value and value.bit_length() in basis:
        other, more = basis[value.bit_length()]
        value, bits = value ^ other, bits + more
    if value: basis[value.bit_length()] = (value, bits)
    else: names.append(flipped(bits))
def call(what, do):
    try: do(); print(what, "done"); return True
    except OSError as error: print(what, errno.errorcode[error.errno]); return False
touch = lambda name: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
touch("file"); os.mkdir("dir")
most = 0
while call("create", lambda: touch(names[most])): most += 1
next = names[most]
print(most)
call("mkdir", lambda: os.mkdir(next)); call("link", lambda: os.link("file", next))
call("symlink", lambda: os.symlink("x", next)); call("rename", lambda: os.rename("file", next))
call("rename a directory", lambda: os.rename("dir", next)); call("mkfifo", lambda: os.mkfifo(next))
call("rename one of them", lambda: os.rename(names[0], next)); call("create again", lambda: touch(names[0]))
END
    "#;
    same_by(Judge::Ours, "rules_hash", &[], "", script);
}
