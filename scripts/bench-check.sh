#!/usr/bin/env bash
# Makes two images with the kernel (as root), and times `butterfs check` beside `btrfs check` on them.
#
#   scripts/bench-check.sh [RUNS] [FILES] [SHARED]
#
# The images: FILES files (1,000,000) in 1,000 directories; and SHARED files (50,000) with 20 snapshots, between
# which files change; that one is checked with its data's checksums, too.
# Each program runs RUNS times (5), in turn; first on a copy of the image in RAM
# (/dev/shm), then on the one on the disk, dropped from the page cache before each run. (Not on the disk and
# cached: `btrfs check` drops the image from the page cache when it ends.) Medians of seconds, peak memory in
# MiB. CHECK_BENCH_DIR (default: a temporary directory) must be on a disk for the second half to mean anything.
set -euo pipefail
runs=${1:-5} files=${2:-1000000} shared=${3:-50000}
here=$(cd "$(dirname "$0")/.." && pwd)
work=${CHECK_BENCH_DIR:-$(mktemp -d)}
mkdir -p "$work"
mount="$work/mnt"
ours="$here/target/release/butterfs"
ram=$(mktemp -d -p /dev/shm)
trap 'mountpoint -q "$mount" && umount "$mount"; rm -rf "$ram" "$mount" "$work"/*.bench.img "$work"/*.times' EXIT

(cd "$here" && cargo build --release -p butterfs)

make_image() { # NAME SIZE
    truncate -s "$2" "$work/$1.bench.img"
    mkfs.btrfs -q "$work/$1.bench.img"
    mkdir -p "$mount"
    mount -o loop,noatime "$work/$1.bench.img" "$mount"
}

make_image files 8G
python3 - "$mount" "$files" <<'P'
import os, sys
base, files = sys.argv[1], int(sys.argv[2])
for number in range(files):
    directory = f"{base}/d{number // 1000 % 100}/e{number // 100000}"
    if number % 1000 == 0:
        os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/file-{number:07d}.dat", "wb") as file:
        file.write(b"x" * (5000 if number % 4 == 0 else 100))
P
umount "$mount"

make_image snapshots 4G
btrfs -q subvolume create "$mount/live"
python3 - "$mount/live" "$shared" <<'P'
import os, subprocess, sys
base, files = sys.argv[1], int(sys.argv[2])
def write(number, size, text):
    with open(f"{base}/d{number // 200}/file-{number:05d}.dat", "wb") as file:
        file.write(text * size)
for directory in range((files + 199) // 200):
    os.makedirs(f"{base}/d{directory}")
for number in range(files):
    write(number, 5000 if number % 2 == 0 else 300, b"x")
for snapshot in range(20):
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", base, f"{base}/../snap{snapshot}"], check=True)
    for number in range(snapshot, files, 40):
        write(number, 6000 + snapshot, bytes([97 + snapshot]))
    for number in range(snapshot + 7, files, 400):
        os.rename(f"{base}/d{number // 200}/file-{number:05d}.dat", f"{base}/d{number // 200}/moved-{snapshot}-{number:05d}.dat")
    subprocess.run(["sync", "-f", base], check=True)
P
umount "$mount"

drop() { # out of the page cache
    sync "$1"
    dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none
}

measure() { # WHAT PROGRAM PLACE; WHAT is an image, with +data if its data is read, too
    local name=${1%+data} options=()
    local image="$work/$name.bench.img"
    if [ "$1" != "$name" ]; then options=(--check-data-csum); fi
    if [ "$3" = RAM ]; then image="$ram/$name.bench.img"; else drop "$image"; fi
    case $2 in
    ours) command=("$ours" check "${options[@]}" "$image") ;;
    theirs) command=(btrfs check "${options[@]}" "$image") ;;
    esac
    /usr/bin/time -f '%e %M' -a -o "$work/$1.$2.$3.times" "${command[@]}" >/dev/null 2>&1
}

median() { # WHAT PROGRAM PLACE COLUMN
    sort -n -k"$4" "$work/$1.$2.$3.times" | awk -v c="$4" '{v[NR]=$c} END {print v[int((NR+1)/2)]}'
}

echo "| image | where | butterfs s | btrfs s | faster | butterfs MiB | btrfs MiB | memory |"
echo "|---|---|---|---|---|---|---|---|"
for image in files snapshots snapshots+data; do
    copy="$ram/${image%+data}.bench.img"
    cp --sparse=always "$work/${image%+data}.bench.img" "$copy"
    for place in RAM disk; do
        # Once for each before it counts.
        measure $image theirs $place && measure $image ours $place && rm "$work"/*.times
        for _ in $(seq "$runs"); do
            measure $image theirs $place
            measure $image ours $place
        done
        awk -v i=$image -v c=$place \
            -v a="$(median $image ours $place 1)" -v b="$(median $image theirs $place 1)" \
            -v m="$(median $image ours $place 2)" -v n="$(median $image theirs $place 2)" \
            'BEGIN {printf "| %s | %s | %.2f | %.2f | %.1fx | %.0f | %.0f | 1/%.0f |\n", i, c, a, b, b/a, m/1024, n/1024, n/m}'
    done
    rm "$copy"
done
