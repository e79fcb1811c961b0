//! What new subvolumes have from where they are made, beside the kernel's mount.

mod common;

use common::both::same_on_both;

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
