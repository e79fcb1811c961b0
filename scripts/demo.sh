#!/usr/bin/env bash
# The main job from end to end: builds, makes an image, mounts it, writes and reads, snapshots, unmounts; says what it did.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s\n' "$*"; }

if ! command -v fusermount3 >/dev/null; then
    say "installing fuse3"
    if [ "$(id -u)" -eq 0 ]; then apt-get update -qq && apt-get install -y -qq fuse3 >/dev/null
    else sudo apt-get update -qq && sudo apt-get install -y -qq fuse3 >/dev/null; fi
fi

say "building"
cargo build --release -p butterfs
butterfs="${CARGO_TARGET_DIR:-target}/release/butterfs"

work=$(mktemp -d)
mkdir "$work/mnt"
cleanup() {
    if mountpoint -q "$work/mnt"; then "$butterfs" umount "$work/mnt" || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

say "an image of 2 GiB (sparse), and its mount"
"$butterfs" mkfs --size 2G -L demo "$work/disk.img"
"$butterfs" mount "$work/disk.img" "$work/mnt"
df -h "$work/mnt"

say "writing: this source tree, copied with its owners and times"
"$butterfs" subvolume create "$work/mnt/home"
cp -a crates docs Cargo.toml "$work/mnt/home/"
find "$work/mnt/home" -type f | wc -l | sed 's/$/ files written/'

say "reading it back"
diff -r crates "$work/mnt/home/crates" && echo "equal to the source"

say "a read-only snapshot, then a change in the source of it"
"$butterfs" subvolume snapshot -r "$work/mnt/home" "$work/mnt/home-before"
echo "a later thought" >>"$work/mnt/home/Cargo.toml"
diff "$work/mnt/home-before/Cargo.toml" "$work/mnt/home/Cargo.toml" || true
"$butterfs" subvolume list "$work/mnt"

say "unmounting, mounting again, and reading once more"
"$butterfs" umount "$work/mnt"
"$butterfs" mount "$work/disk.img" "$work/mnt"
cmp Cargo.toml "$work/mnt/home-before/Cargo.toml" && echo "the snapshot is as it was"
"$butterfs" umount "$work/mnt"

say "checking the image"
"$butterfs" check --check-data-csum "$work/disk.img"
if command -v btrfs >/dev/null; then
    echo "and by btrfs-progs:"
    btrfs check --check-data-csum "$work/disk.img"
fi
say "done"
