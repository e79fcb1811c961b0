//! What new subvolumes have from where they are made, and where subvolumes may go, beside the kernel's mount.

mod common;

use common::both::same_on_both;

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
