#!/usr/bin/env bash
# Benchmarks of mounts and of the library beside the kernel's btrfs, as root; prints a table in Markdown.
#
#   scripts/bench.sh [OPTIONS]
#
# --rounds N (5); --scale PERCENT of the full size (100); --only SCENARIO,... of sequential, random, sync, files,
# directory, rename, latency, tree, zstd, clone, git, cargo, snapshot, mount, library, mkfs; --with WHOM,... of btrfs, ceiling, ext4, xfs (btrfs,ceiling);
# --dir DIRECTORY for the images (/dev/shm: in memory; on a disk: another); --transport device or uring (device);
# --options: mount options of Butterfs; --profile yes: a second table says where our daemon's time goes in each row, by perf.
#
#   scripts/bench.sh growth [--plot docs/growth.svg] [OPTIONS]
#
# How the cost of each operation grows with files and with snapshots, and the memory of a mount of the largest image:
# --files N,... (10000,100000,1000000); --snapshots N,... (10,100,1000) of --snapshot-files N (20000).
#
# All subjects take each round in turn, each on a new filesystem on a sparse image of 16 GiB; the kernel's over a
# loop device. Cold means: after a new mount. The ceiling is a filesystem in memory behind our transport.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p butterfs -p butterfs-testkit --bin butterfs --bin bench
# In a mount namespace of its own: programs that make one of theirs meanwhile would keep our mounts from ending.
exec unshare --mount --propagation slave target/release/bench "$@"
