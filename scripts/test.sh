#!/usr/bin/env bash
# Installs what the tests need and runs them all: the fast ones as anybody, those that mount as root.
# BUTTERFS_TEST_SCALE=10 makes the long ones ten times shorter. Then a sample of those that mount again, with requests
# through io_uring (BUTTERFS_TEST_TRANSPORT=uring), if root may enable that and the kernel has it.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
scripts/setup-tests.sh

BUTTERFS_SKIPS=$(mktemp)
export BUTTERFS_SKIPS
trap 'rm -f "$BUTTERFS_SKIPS"' EXIT

cargo build --workspace --all-targets
status=0
echo "== fast tests"
cargo nextest run --workspace --no-tests=pass || status=1

echo "== tests that mount, as root"
if [ "$(id -u)" -eq 0 ]; then
    cargo nextest run --workspace --profile root || status=1
else
    # Built as this user, run as root: root may have no toolchain of its own. Clean-up needs root, too.
    archive=$(mktemp -d)
    cargo nextest archive --workspace --archive-file "$archive/tests.tar.zst"
    sudo env PATH="$PATH" CI="${CI:-}" BUTTERFS_SKIPS="$BUTTERFS_SKIPS" \
        BUTTERFS_TEST_SCALE="${BUTTERFS_TEST_SCALE:-100}" BUTTERFS_TEST_MOUNTER="${BUTTERFS_TEST_MOUNTER:-}" \
        "$(command -v cargo-nextest)" nextest run --archive-file "$archive/tests.tar.zst" \
        --workspace-remap "$PWD" --profile root || status=1
    rm -rf "$archive"
fi

uring=/sys/module/fuse/parameters/enable_uring
if [ "$(id -u)" -eq 0 ] && [ -w "$uring" ]; then
    echo "== a sample of them through io_uring"
    before=$(cat "$uring")
    echo Y >"$uring"
    sample='package(butterfs-fuse) | binary(/^(gates|signals|kill_daemon|mixed_operations|space)_root$/)'
    BUTTERFS_TEST_TRANSPORT=uring cargo nextest run --workspace --profile root -E "$sample" || status=1
    echo "$before" >"$uring"
fi

skips=$(wc -l <"$BUTTERFS_SKIPS")
echo "== skipped: $skips"
sort "$BUTTERFS_SKIPS"
if [ -n "${CI:-}" ] && [ "$skips" -gt 0 ]; then
    echo "CI accepts no skip" >&2
    status=1
fi
exit "$status"
