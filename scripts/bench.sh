#!/usr/bin/env bash
# Benchmarks of mounts and of the library beside the kernel's btrfs, as root; prints a table in Markdown.
#
#   scripts/bench.sh [OPTIONS]
#
# --rounds N (5); --scale PERCENT of the full size (100); --only SCENARIO,... of sequential, random, sync, files,
# directory, rename, tree, zstd, clone, git, cargo, snapshot, mount, library, mkfs; --with WHOM,... of btrfs, ceiling, ext4, xfs (btrfs,ceiling);
# --dir DIRECTORY for the images (/dev/shm: in memory; on a disk: another); --transport device or uring (device);
# --options: mount options of Butterfs.
#
# All subjects take each round in turn, each on a new filesystem on a sparse image of 16 GiB; the kernel's over a
# loop device. Cold means: after a new mount. The ceiling is a filesystem in memory behind our transport.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p butterfs -p butterfs-testkit --bin butterfs --bin bench
# In a mount namespace of its own: programs that make one of theirs meanwhile would keep our mounts from ending.
exec unshare --mount --propagation slave target/release/bench "$@"
