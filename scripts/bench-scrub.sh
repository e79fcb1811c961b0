#!/usr/bin/env bash
# Makes filesystems of several profiles with the kernel (as root), and times our scrub beside the kernel's on each.
#
#   scripts/bench-scrub.sh [RUNS] [MIB] [PROFILE...]
#
# Each has one file of MIB (1024) MiB of noise; images are in RAM (SCRUB_BENCH_DIR, default /dev/shm), so what limits
# is the checksum, the parity, or memory. The kernel's goes over loop devices that bypass the page cache, if they can. Each
# runs RUNS times (5), in turn: the kernel on its mount, ours on our mount and on the images. Medians of seconds, and
# bytes of the devices in use by second. The binary: BUTTERFS (default: a release build).
set -euo pipefail
runs=${1:-5} mib=${2:-1024}
shift $(($# > 2 ? 2 : $#))
profiles=${*:-single raid1 raid10 raid5 raid6}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d -p "${SCRUB_BENCH_DIR:-/dev/shm}")
ours=${BUTTERFS:-$here/target/release/butterfs}
mount="$work/mnt"
loops=()

detach() {
    for loop in "${loops[@]}"; do
        btrfs device scan --forget "$loop" || true
        losetup -d "$loop" || true
    done
    loops=()
}

leave() {
    mountpoint -q "$mount" && umount "$mount" || true
    detach
    rm -rf "$work"
}
trap leave EXIT
mkdir -p "$mount"
[ -n "${BUTTERFS:-}" ] || (cd "$here" && cargo build --release -p butterfs)

kernel_mounts() {
    local options=noatime
    for image in "$work"/disk*; do
        loops+=("$(losetup --find --show --direct-io=on "$image" 2>/dev/null || losetup --find --show "$image")")
    done
    for loop in "${loops[@]}"; do options+=",device=$loop"; done
    mount -t btrfs -o "$options" "${loops[0]}" "$mount"
}

kernel_lets_go() {
    umount "$mount"
    detach
}

timed() { # NAME COMMAND...
    local begun ended name=$1
    shift
    begun=$(date +%s.%N)
    "$@" >"$work/said" 2>&1 || { cat "$work/said"; exit 1; }
    ended=$(date +%s.%N)
    grep -q "no errors found" "$work/said" || { cat "$work/said"; exit 1; }
    awk -v a="$begun" -v b="$ended" 'BEGIN {print b - a}' >>"$work/$name.times"
}

median() {
    sort -n "$work/$1.times" | awk '{v[NR]=$1} END {print v[int((NR + 1) / 2)]}'
}

devices_for() {
    case $1 in
    single | dup) echo 1 ;;
    raid1) echo 2 ;;
    raid0 | raid1c3 | raid5) echo 3 ;;
    *) echo 4 ;;
    esac
}

echo "| profile | devices | MiB on devices | kernel s | our mount s | our images s | kernel MiB/s | our mount MiB/s | our mount / kernel |"
echo "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
for profile in $profiles; do
    count=$(devices_for "$profile")
    rm -f "$work"/disk* "$work"/*.times
    for number in $(seq "$count"); do truncate -s $((mib * 3 + 1024))M "$work/disk$number"; done
    metadata=dup
    [ "$count" = 1 ] || metadata=raid1
    mkfs.btrfs -q -f -d "$profile" -m $metadata "$work"/disk*
    kernel_mounts
    openssl enc -aes-128-ctr -pass pass:noise -nosalt -in /dev/zero 2>/dev/null | head -c "${mib}M" >"$mount/noise" || true
    kernel_lets_go
    used=$(du -cm "$work"/disk* | awk 'END {print $1}')
    for _ in $(seq "$runs"); do
        kernel_mounts
        timed kernel btrfs scrub start -B -r "$mount"
        kernel_lets_go
        "$ours" mount -o noatime "$work"/disk* "$mount"
        timed mount "$ours" scrub start -B -r "$mount"
        "$ours" umount "$mount"
        timed image "$ours" scrub start -r "$work"/disk*
    done
    awk -v p="$profile" -v c="$count" -v u="$used" -v k="$(median kernel)" -v m="$(median mount)" -v i="$(median image)" \
        'BEGIN {printf "| %s | %d | %d | %.2f | %.2f | %.2f | %.0f | %.0f | **%.2f** |\n", p, c, u, k, m, i, u / k, u / m, k / m}'
done
