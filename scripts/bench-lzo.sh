#!/bin/sh
# Our LZO1X-1 encoder beside that of liblzo2 (Debian: liblzo2-2), over the given files, cut into sectors of 4 KiB.
#
#   scripts/bench-lzo.sh FILE...
#
# Theirs is called from Python, whose own time for each call is measured with empty input and taken off; ours makes Btrfs's
# frames, too, and gives up what does not shrink, so give it data that does. The best of some passes counts, of each block
# of 128 KiB by itself.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
cargo build --quiet --release -p butterfs-format --example codecs
exec python3 - "${CARGO_TARGET_DIR:-target}/release/examples/codecs" "$@" <<'EOF'
import ctypes, os, subprocess, sys, time

SECTOR, BLOCK, PASSES = 4096, 32, 10
lzo = ctypes.CDLL("liblzo2.so.2").lzo1x_1_compress
lzo.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
room, memory, length = (ctypes.create_string_buffer(size) for size in (2 * SECTOR, 1 << 18, 8))
output, work, count = (ctypes.addressof(buffer) for buffer in (room, memory, length))


def seconds(sectors):
    start = time.perf_counter()
    for address, size in sectors:
        lzo(address, size, output, count, work)
    return time.perf_counter() - start


def theirs(data):
    held = ctypes.create_string_buffer(data, len(data))
    first = ctypes.addressof(held)
    whole = [(first + at, min(SECTOR, len(data) - at)) for at in range(0, len(data), SECTOR)]
    blocks = [whole[at:at + BLOCK] for at in range(0, len(whole), BLOCK)]
    best = lambda blocks: sum(map(min, zip(*[[seconds(block) for block in blocks] for _ in range(PASSES)])))
    left = 0
    for address, size in whole:
        lzo(address, size, output, count, work)
        left += int.from_bytes(length.raw, "little")
    idle = best([[(first, 0)] * BLOCK] * 3000) / 3000 / BLOCK
    return len(data) / 1e6 / (best(blocks) - idle * len(whole)), left / len(data)


def ours(path):
    lines = subprocess.run([sys.argv[1], "lzo", path], check=True, capture_output=True, text=True).stdout.splitlines()
    speed, left = lines[1].split(" lzo ")[1].split()[:2]
    return float(speed), float(left)


print(f"{'data':<24} {'liblzo2 MB/s':>12} {'left':>6} {'ours MB/s':>10} {'left':>6} {'ours / theirs':>14}")
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        (fast, small), (ours_fast, ours_small) = theirs(file.read()), ours(path)
    name = os.path.basename(path)
    print(f"{name:<24} {fast:>12.0f} {small:>6.3f} {ours_fast:>10.0f} {ours_small:>6.3f} {ours_fast / fast:>14.2f}")
EOF
