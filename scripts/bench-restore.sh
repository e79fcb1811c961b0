#!/usr/bin/env bash
# Makes an image with the kernel (as root), and times `butterfs restore` beside `btrfs restore` on it.
#
#   scripts/bench-restore.sh [RUNS] [FILES]
#
# The image: FILES files (20,000) of 100 to 5,000 bytes in 100 directories, a compressed file of 100 MB and one of
# 200 MB that is not. Each program runs RUNS times (5), in turn, into an empty directory; image and directory lie in
# RESTORE_BENCH_DIR (default: a directory in /dev/shm). Medians of seconds, peak memory in MiB.
set -euo pipefail
runs=${1:-5} files=${2:-20000}
here=$(cd "$(dirname "$0")/.." && pwd)
work=${RESTORE_BENCH_DIR:-$(mktemp -d -p /dev/shm)}
mkdir -p "$work"
mount="$work/mnt" image="$work/restore.bench.img"
ours="$here/target/release/butterfs"
trap 'mountpoint -q "$mount" && umount "$mount"; rm -rf "$mount" "$image" "$work"/*.times "$work"/out; rmdir "$work" 2>/dev/null || true' EXIT

(cd "$here" && cargo build --release -p butterfs)

truncate -s 2G "$image"
mkfs.btrfs -q "$image"
mkdir -p "$mount"
mount -o loop,noatime "$image" "$mount"
python3 - "$mount" "$files" <<'P'
import os, sys
base, files = sys.argv[1], int(sys.argv[2])
for directory in range(100):
    os.mkdir(f"{base}/d{directory}")
for number in range(files):
    with open(f"{base}/d{number % 100}/file-{number:06d}.dat", "wb") as file:
        file.write(os.urandom(10) * (500 if number % 4 == 0 else 10 + number % 100))
with open(f"{base}/large", "wb") as file:
    for _ in range(200):
        file.write(os.urandom(1 << 20))
with open(f"{base}/text", "wb") as file:
    for number in range(100):
        file.write((b"line %d of a text that repeats itself\n" % number) * 27000)
P
btrfs -q filesystem defragment -czstd "$mount/text"
umount "$mount"

measure() { # PROGRAM
    rm -rf "$work/out"
    mkdir "$work/out"
    case $1 in
    ours) command=("$ours" restore -m -S -x "$image" "$work/out") ;;
    theirs) command=(btrfs restore -m -S -x "$image" "$work/out") ;;
    esac
    /usr/bin/time -f '%e %M' -a -o "$work/$1.times" "${command[@]}" >/dev/null
}

median() { # PROGRAM COLUMN
    sort -n -k"$2" "$work/$1.times" | awk -v c="$2" '{v[NR]=$c} END {print v[int((NR+1)/2)]}'
}

measure theirs && measure ours && rm "$work"/*.times
for _ in $(seq "$runs"); do
    measure theirs
    measure ours
done
echo "| files | butterfs s | btrfs s | faster | butterfs MiB | btrfs MiB |"
echo "|---|---|---|---|---|---|"
awk -v f="$files" -v a="$(median ours 1)" -v b="$(median theirs 1)" -v m="$(median ours 2)" -v n="$(median theirs 2)" \
    'BEGIN {printf "| %d | %.2f | %.2f | %.1fx | %.0f | %.0f |\n", f, a, b, b/a, m/1024, n/1024}'
