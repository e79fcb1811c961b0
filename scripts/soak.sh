#!/usr/bin/env bash
# Loads our mount for a while, and judges what is left: the stock check with data checksums, a kernel mount that shows
# the same files, the daemon's memory and descriptors.
#
#   scripts/soak.sh SECONDS [PART...]     PART: pjdfstest fsx fsstress fio stress-ng churn git copies postgres; the
#                                         first six if none is named
#
# SECONDS are shared among the parts (pjdfstest takes what it takes). Environment: BUTTERFS (the binary), WORK (a
# directory, kept when something fails), LTP (a directory with fsx and fsstress, as fstests builds them), MEMORY (most
# MiB that the daemon may have, 1024), SIZE (4G), SEED, FSX_SEEDS (4), REPO (a git repository, for `git`: this one), TREE
# (a directory, for `copies`: /usr/share). Root, fio, stress-ng; a part whose program is missing fails.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
BUTTERFS=${BUTTERFS:-$here/target/debug/butterfs}
WORK=${WORK:-/var/tmp/butterfs-soak}
LTP=${LTP:-}
MEMORY=${MEMORY:-1024}
SIZE=${SIZE:-4G}
SEED=${SEED:-$RANDOM}

[ $# -ge 1 ] || { echo "usage: scripts/soak.sh SECONDS [PART...]" >&2; exit 2; }
seconds=$1
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(pjdfstest fsx fsstress fio stress-ng churn)
share=$((seconds / ${#parts[@]}))
mkdir -p "$WORK/mnt" "$WORK/other"
mnt=$WORK/mnt
failures=0

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
fail() { say "FAILED: $*"; failures=$((failures + 1)); }

# ---- the mount --------------------------------------------------------------------------------------------------

daemon=
start() { # OPTIONS
    "$BUTTERFS" mount ${1:+-o "$1"} "$WORK/image" "$mnt" || { fail "mount"; return 1; }
    daemon=$(pgrep -f "^$BUTTERFS mount .*$WORK/image $mnt\$" | head -1)
}

descriptors() { find "/proc/$daemon/fd" -mindepth 1 2>/dev/null | wc -l; }

memory() { # the most that the daemon ever had
    local peak
    peak=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$daemon/status" 2>/dev/null)
    say "  daemon: $peak MiB at most, $(descriptors) descriptors"
    [ "${peak:-0}" -le "$MEMORY" ] || fail "the daemon had $peak MiB, more than $MEMORY"
}

stop() {
    memory
    "$BUTTERFS" umount "$mnt" || fail "umount"
}

# Every name with type, mode, owner, size, links and, of files, a sum of the content.
manifest() { # DIRECTORY
    (cd "$1" && find . -mindepth 1 -printf '%P %y %m %U:%G %n %l ' \( -type f -printf '%s' -o -true \) -printf '\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum)
}

judge() { # PART: what is on the image is whole, and the kernel sees what we saw
    manifest "$mnt" >"$WORK/ours" 2>"$WORK/errors" || fail "$1: reading everything"
    [ ! -s "$WORK/errors" ] || fail "$1: $(head -1 "$WORK/errors")"
    stop
    if ! btrfs check --check-data-csum "$WORK/image" >"$WORK/check" 2>&1; then
        cp --sparse=always "$WORK/image" "$WORK/image.$1"
        fail "$1: btrfs check; see $WORK/check and $WORK/image.$1"
        return
    fi
    mount -o loop,ro -t btrfs "$WORK/image" "$WORK/other" || { fail "$1: the kernel's mount"; return; }
    manifest "$WORK/other" >"$WORK/kernels"
    umount "$WORK/other"
    # A subvolume's top directory has the inode number of any other, but link counts and sizes are the same.
    cmp -s "$WORK/ours" "$WORK/kernels" || fail "$1: the kernel sees other files: $(diff "$WORK/ours" "$WORK/kernels" | head -2)"
}

# ---- the parts --------------------------------------------------------------------------------------------------

pjdfstest_part() {
    mkdir -p "$mnt/p" && chmod 755 "$mnt" "$mnt/p"
    printf '%s\n' '[features]' 'posix_fallocate = {}' 'utime_now = {}' 'utimensat = {}' 'rename_ctime = {}' '[settings]' \
        'naptime = 0.01' 'allow_remount = false' '[dummy_auth]' \
        'entries = [["butterfs-test1", "butterfs-test1"], ["butterfs-test2", "butterfs-test2"]]' >"$WORK/pjd.toml"
    pjdfstest -c "$WORK/pjd.toml" -p "$mnt/p" -s "$WORK" >"$WORK/pjdfstest" 2>&1
    say "  $(grep '^Summary' "$WORK/pjdfstest")"
    grep -q '^Summary' "$WORK/pjdfstest" || fail "pjdfstest: $(tail -1 "$WORK/pjdfstest")"
    # As on the kernel's Btrfs, where a directory's link count is always 1.
    grep 'FAILED$' "$WORK/pjdfstest" | grep -v rename::updates_link_parent && fail "pjdfstest"
}

fsx_part() { # FSX_SEEDS seeds; with FSX_OPERATIONS, so many operations each, however long it takes
    local seed seeds=${FSX_SEEDS:-4} much
    much=(--duration=$((share / seeds + 1)))
    [ -z "${FSX_OPERATIONS:-}" ] || much=(-N "$FSX_OPERATIONS")
    for seed in $(seq "$SEED" $((SEED + seeds - 1))); do
        "$LTP/fsx" -q "${much[@]}" -S "$seed" -P "$WORK" "$mnt/fsx$seed" >"$WORK/fsx" 2>&1 ||
            fail "fsx, seed $seed: $(tail -1 "$WORK/fsx")"
    done
}

fsstress_part() {
    local end=$((SECONDS + share)) round=0
    while [ $SECONDS -lt $end ]; do
        mkdir -p "$mnt/s$round"
        "$LTP/fsstress" -d "$mnt/s$round" -p 4 -n 2000 -s $((SEED + round)) -w >"$WORK/fsstress" 2>&1 || fail "fsstress, seed $((SEED + round))"
        [ $((round % 3)) -ne 2 ] || rm -rf "$mnt/s$((round - 1))"
        round=$((round + 1))
    done
    say "  fsstress: $round rounds"
}

fio_part() {
    local half=$((share / 2 + 1)) common=(--verify=crc32c --verify_fatal=1 --verify_state_save=0 --time_based=0)
    fio --name=mixed --directory="$mnt" --numjobs=8 --size=32m --rw=randrw --bsrange=1k-128k --ioengine=psync \
        --fallocate=none --runtime="$half" "${common[@]}" >"$WORK/fio" 2>&1 || fail "fio: $(grep -m1 -i 'verify\|error' "$WORK/fio")"
    fio --name=direct --directory="$mnt" --numjobs=8 --size=16m --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
        --iodepth=16 --verify_backlog=1024 --runtime="$half" "${common[@]}" >"$WORK/fio" 2>&1 ||
        fail "fio with direct I/O: $(grep -m1 -i 'verify\|error' "$WORK/fio")"
}

stress_ng_part() {
    local each=$((share / 40))
    mkdir -p "$mnt/sng"
    stress-ng --class filesystem --sequential 1 --exclude bind-mount,binderfs,eventfd,ioprio,procfs,dirdeep,io,fsize \
        --timeout "$((each > 0 ? each : 1))s" --verify --temp-path "$mnt/sng" --hdd-bytes 64m --fallocate-bytes 64m \
        --metrics-brief >"$WORK/stress-ng" 2>&1 || fail "stress-ng: $(grep -m1 -i 'fail\|error' "$WORK/stress-ng")"
}

# Create, snapshot, delete old snapshots, rename storms, a full disk now and then, remounts.
churn_part() {
    local end=$((SECONDS + share)) round=0 first
    "$BUTTERFS" subvolume create "$mnt/work" >/dev/null || { fail "churn: subvolume"; return; }
    first=$(descriptors)
    while [ $SECONDS -lt $end ]; do
        round=$((round + 1))
        churn_round $round || return
        [ $((round % 10)) -ne 5 ] || churn_full || return
        if [ $((round % 20)) -eq 10 ]; then
            [ "$(descriptors)" -le $((first + 8)) ] || fail "churn: $(descriptors) descriptors, $first at the start"
            stop
            start compress=zstd || return
            first=$(descriptors)
        fi
    done
    say "  churn: $round rounds"
}

churn_round() { # NUMBER
    local dir=$mnt/work/d$(($1 % 7)) name
    mkdir -p "$dir"
    for name in $(seq 1 60); do head -c $((RANDOM * 4)) /dev/urandom >"$dir/f$name" || { fail "churn: write"; return 1; }; done
    for name in $(seq 1 60); do mv "$dir/f$name" "$dir/g$((name * 7 % 61))" || { fail "churn: rename"; return 1; }; done
    cp -r "$dir" "$dir.copy" && rm -rf "$mnt/work/d$((($1 + 3) % 7))" && rm -rf "$dir.old" && mv "$dir.copy" "$dir.old"
    "$BUTTERFS" subvolume snapshot -r "$mnt/work" "$mnt/snap$1" >/dev/null || { fail "churn: snapshot"; return 1; }
    [ "$1" -le 4 ] || "$BUTTERFS" subvolume delete "$mnt/snap$(($1 - 4))" >/dev/null || { fail "churn: delete"; return 1; }
}

# Nothing but ENOSPC, and all is well when the file is gone. Its bytes cannot be compressed.
churn_full() {
    local said
    said=$(LC_ALL=C dd if=/dev/urandom of="$mnt/full" bs=1M 2>&1)
    grep -q 'No space left' <<<"$said" || { fail "churn: a full disk says $said"; return 1; }
    rm "$mnt/full" && sync -f "$mnt" || { fail "churn: cannot delete on a full disk"; return 1; }
    echo after >"$mnt/work/after" || { fail "churn: no space after deleting"; return 1; }
}

# Clone, checkouts of other commits, gc, fsck; the work tree is what git says.
git_part() {
    local repo=$mnt/repo commit
    git clone -q --no-local "${REPO:-$here}" "$repo" 2>"$WORK/git" || { fail "git clone: $(tail -1 "$WORK/git")"; return; }
    for commit in $(git -C "$repo" rev-list HEAD | awk 'NR % 50 == 1' | head -8); do
        git -C "$repo" checkout -q "$commit" 2>"$WORK/git" || fail "git checkout $commit"
        [ -z "$(git -C "$repo" status --porcelain)" ] || fail "git: $commit is not what it should be"
    done
    git -C "$repo" gc -q --prune=now 2>"$WORK/git" || fail "git gc: $(tail -1 "$WORK/git")"
    git -C "$repo" fsck --full --strict >"$WORK/git" 2>&1 || fail "git fsck: $(tail -1 "$WORK/git")"
}

# A tree unpacked, and copied there and back with all attributes; every copy is the same.
copies_part() {
    local tree=${TREE:-/usr/share} back=$WORK/back
    mkdir -p "$mnt/unpacked" && rm -rf "$back"
    tar -C "$tree" -c . | tar -C "$mnt/unpacked" -xp || fail "tar"
    rsync -aHAXS "$tree/" "$mnt/copied/" || fail "rsync to the mount"
    rsync -aHAXS "$mnt/copied/" "$back/" || fail "rsync from the mount"
    for copy in "$mnt/unpacked" "$mnt/copied" "$back"; do
        [ -z "$(rsync -aHAXSnci --delete "$tree/" "$copy/")" ] || fail "$copy is another tree than $tree"
    done
    rm -rf "$back"
}

# Transactions, with the server killed in between; its own checksums and its own look at its indexes judge.
postgres_part() {
    local bin data=$mnt/postgres third=$((share / 3 + 1)) round
    bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
    as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$@"); }
    chmod 755 "$WORK" "$mnt"
    install -d -o postgres -g postgres "$data" "$WORK/socket"
    as_postgres "$bin/initdb" -k -D "$data/db" >"$WORK/initdb" 2>&1 || { fail "initdb: $(tail -1 "$WORK/initdb")"; return; }
    server() { as_postgres "$bin/pg_ctl" -w -D "$data/db" -l "$data/log" -o "-k $WORK/socket -h ''" "$@" >"$WORK/pg_ctl" 2>&1; }
    server start || { fail "the server does not start"; return; }
    as_postgres "$bin/pgbench" -h "$WORK/socket" -q -i -s 5 postgres >"$WORK/pgbench" 2>&1 || fail "pgbench -i"
    for round in 1 2; do
        as_postgres "$bin/pgbench" -h "$WORK/socket" -c 4 -T "$third" postgres >"$WORK/pgbench" 2>&1 &
        sleep $((third / 2 + 1))
        server stop -m immediate
        wait $!
        server start || { fail "the server does not recover, round $round"; return; }
    done
    as_postgres "$bin/pgbench" -h "$WORK/socket" -c 4 -T "$third" postgres >"$WORK/pgbench" 2>&1 || fail "pgbench"
    say "  $(grep '^tps' "$WORK/pgbench")"
    as_postgres "$bin/pg_amcheck" -h "$WORK/socket" --install-missing --heapallindexed postgres >"$WORK/amcheck" 2>&1 ||
        fail "pg_amcheck: $(tail -1 "$WORK/amcheck")"
    server stop || fail "the server does not stop"
    as_postgres "$bin/pg_checksums" -c -D "$data/db" >"$WORK/checksums" 2>&1 || fail "pg_checksums: $(tail -1 "$WORK/checksums")"
}

# ---- all of them ------------------------------------------------------------------------------------------------

say "seed $SEED, ${share}s for each of: ${parts[*]}"
for part in "${parts[@]}"; do
    rm -f "$WORK/image"
    truncate -s "$SIZE" "$WORK/image"
    mkfs.btrfs -q -f "$WORK/image"
    start "" || exit 1
    say "$part"
    "${part//-/_}_part"
    judge "$part"
done
[ $failures -eq 0 ] && say "all is well"
exit $((failures > 0))
