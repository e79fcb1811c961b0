#!/usr/bin/env bash
# Runs the tests of an fstests checkout over our mount, and compares with what is expected (docs/fstests.md).
#
#   scripts/fstests.sh SUITE LIST_OR_TEST...     SUITE: a built checkout; a LIST has a test (generic/001) first in each line
#
# Environment: BUTTERFS (the binary), WORK (images and results, kept), TIMEOUT (seconds a test may take, 180),
# EXPECTED (docs/fstests-expected.txt), DRIVER=kernel (the kernel's Btrfs instead of ours, to compare), SIZE (4G),
# COMPAT=yes (the suite, and the stock btrfs, run under `butterfs compat`; compared with docs/fstests-compat-expected.txt),
# MOUNT_OPTIONS and the like go to the suite.
#
# Everything happens in a private mount namespace: helpers are laid over /usr/sbin, users over /etc, and changes of the
# suite over the suite, so that nothing is installed and the checkout stays as it is.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
export BUTTERFS=${BUTTERFS:-$here/target/debug/butterfs}
export WORK=${WORK:-/var/tmp/butterfs-fstests}
export DRIVER=${DRIVER:-butterfs}
TIMEOUT=${TIMEOUT:-180}
COMPAT=${COMPAT:-no}
case $COMPAT in
yes) EXPECTED=${EXPECTED:-$here/docs/fstests-compat-expected.txt} ;;
*) EXPECTED=${EXPECTED:-$here/docs/fstests-expected.txt} ;;
esac
SIZE=${SIZE:-4G}
POOL=5

die() { printf 'fstests: %s\n' "$*" >&2; exit 2; }

[ $# -ge 2 ] || die "usage: scripts/fstests.sh SUITE LIST_OR_TEST..."
[ "$(id -u)" -eq 0 ] || die "run as root"
[ -x "$BUTTERFS" ] || die "$BUTTERFS: build it first, or set BUTTERFS"
[ -x "$1/check" ] && [ -x "$1/src/af_unix" ] || die "$1: not a built fstests checkout"
if [ "${FSTESTS_INSIDE:-}" != yes ]; then
    mkdir -p "$WORK"
    exec env FSTESTS_INSIDE=yes unshare --mount --propagation slave "$0" "$@"
fi

suite=$(cd "$1" && pwd)
shift

# ---- the namespace ----------------------------------------------------------------------------------------------

overlay() { # DIRECTORY NAME: changes of the directory go to WORK/NAME
    rm -rf "$WORK/$2" "$WORK/$2.work"
    mkdir -p "$WORK/$2" "$WORK/$2.work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$WORK/$2,workdir=$WORK/$2.work" "$1"
}

helper() { # NAME AS: our program, never with a library in front of it
    printf '#!/bin/bash\nunset LD_PRELOAD\nexec -a /usr/sbin/%s %q "$@"\n' "$2" "$BUTTERFS" >"/usr/sbin/$1"
    chmod +x "/usr/sbin/$1"
}

helpers() {
    overlay /usr/sbin sbin
    local name
    for name in mount.btrfs mount.fuse.butterfs mount.fuseblk.butterfs umount.fuse.butterfs umount.fuseblk.butterfs; do
        helper "$name" "$name"
    done
    if [ "$COMPAT" = yes ]; then
        # So umount(8) calls it then.
        helper umount.btrfs umount.fuseblk.butterfs
        return
    fi
    mkdir -p "$WORK/bin"
    # What works on devices is the stock tool's business, which also judges; what works on a mount is ours.
    cat >"$WORK/bin/btrfs" <<'TOOL'
#!/bin/sh
stock=/usr/bin/btrfs
case "$1 $2" in
*" --help") exec $stock "$@" ;;
"inspect"*" "*-resolve|"inspect"*" rootid"|"inspect"*" list-chunks") ;;
"device scan"|"device ready") exec $stock "$@" ;;
check*|rescue*|restore*|inspect*|version*|--version*|help*|--help*|" ") exec $stock "$@" ;;
esac
exec "$BUTTERFS_TOOL" "$@"
TOOL
    chmod +x "$WORK/bin/btrfs"
    # Under the name btrfs the program speaks the language of that one.
    mkdir -p "$WORK/tool"
    ln -sf "$BUTTERFS" "$WORK/tool/btrfs"
    export BUTTERFS_TOOL=$WORK/tool/btrfs
    export PATH=$WORK/bin:$PATH
}

users() {
    overlay /etc etc
    local name
    for name in fsgqa fsgqa2 123456-fsgqa; do
        getent passwd "$name" >/dev/null || useradd --badname -m -d "$WORK/home-$name" "$name" 2>/dev/null || useradd -m "$name"
    done
}

preload() { # also for who comes by su, whose environment is new
    printf 'LD_PRELOAD=%s\n' "$("$BUTTERFS" compat -- printenv LD_PRELOAD)" >>/etc/environment
}

types() { # the suite knows our mounts as btrfs
    overlay "$suite" suite
    sed -i -e '/^_fs_type()/,/^}/ s/-e .s\/fuse.ceph-fuse\/ceph-fuse\/./& -e "s,fuse[blk]*.butterfs,btrfs,"/' \
        -e '/^_is_dev_mounted()/,/^}/ s/-t $fstype/-t $fstype,fuseblk.butterfs,fuse.butterfs/' \
        -e '/^_is_dir_mountpoint()/,/^}/ s/-t $fstype/-t $fstype,fuseblk.butterfs,fuse.butterfs/' "$suite/common/rc"
    # Who waits for the end of remounts must not wait for the end of a daemon that is called mount.
    sed -i 's/pgrep -f "mount[.][*]${btrfs_mnt}"/pgrep -f "mount.*remount,compress"/' "$suite/common/btrfs"
}

devices=()
make_devices() {
    local i image hold
    for i in $(seq 0 $POOL); do
        image=$WORK/device$i
        rm -f "$image"
        truncate -s "$SIZE" "$image"
        devices+=("$(losetup --find --show "$image")")
        # While it is open nobody else can detach it.
        exec {hold}<"${devices[-1]}"
    done
    mkfs.btrfs -q -f "${devices[0]}"
}

configure() {
    mkdir -p "$WORK/test" "$WORK/scratch" "$WORK/results"
    export FSTYP=btrfs TEST_DEV=${devices[0]} TEST_DIR=$WORK/test SCRATCH_MNT=$WORK/scratch RESULT_BASE=$WORK/results
    export SCRATCH_DEV_POOL="${devices[*]:1}"
    export HOST_OPTIONS=/dev/null
    export XFS_MKFS_OPTIONS=
    unset SCRATCH_DEV LD_PRELOAD
}

# ---- after a test -----------------------------------------------------------------------------------------------

daemons() { # process ids of the daemons of our devices
    local proc device
    for proc in /proc/[0-9]*; do
        [ "$(cat "$proc/comm" 2>/dev/null)" = butterfs ] || continue
        for device in "${devices[@]}"; do
            if tr '\0' '\n' <"$proc/cmdline" 2>/dev/null | grep -qx "$device"; then
                echo "${proc#/proc/}"
            fi
        done
    done
}

in_use() { # every mount below WORK, innermost last
    awk -v work="$WORK/" '$2 == work "scratch" || $2 == work "test" || index($2, work "scratch/") == 1 || index($2, work "test/") == 1 { print $2 }' /proc/mounts
}

clean_up() { # nothing of a test that hangs may reach the next
    local pid dir
    for pid in $(daemons); do
        kill -KILL "$pid" 2>/dev/null || true
    done
    in_use | tac | while read -r dir; do umount -l "$dir" 2>/dev/null || true; done
}

finish() {
    local device
    clean_up
    sleep 1
    for device in "${devices[@]}"; do losetup -d "$device" 2>/dev/null || true; done
}
trap finish EXIT

# ---- the run ----------------------------------------------------------------------------------------------------

tests() {
    local argument
    for argument in "$@"; do
        if [ -f "$argument" ]; then awk '$1 ~ /^[a-z]/ { print $1 }' "$argument"; else echo "$argument"; fi
    done
}

verdict() { # OUTPUT TEST STATUS: pass, fail or notrun, and why, with a tab
    local output=$1 test=$2 status=$3 reason
    if [ "$status" -ge 124 ]; then
        printf 'fail\tran for more than %s seconds' "$TIMEOUT"
    elif reason=$(sed -n "s|^$test.*\[not run\] *||p; s|^$test.*\[expunged\].*|expunged|p" "$output" | head -1); [ -n "$reason" ]; then
        printf 'notrun\t%s' "$reason"
    elif grep -q '^Passed all 1 tests' "$output"; then
        printf 'pass\t'
    else
        reason=$(sed -n -e '/^    \(---\|+++\) /d' -e 's/^    \([+-]..*\)/\1/p' -e '/inconsistent/p' -e '/_check_dmesg/p' "$output" |
            head -1 | tr '\t' ' ' | cut -c1-160)
        printf 'fail\t%s' "${reason:-$(grep -v '^$' "$output" | tail -1 | cut -c1-120)}"
    fi
}

one() { # TEST
    local test=$1 output=$WORK/results/output start=$SECONDS status=0
    (cd "$suite" && timeout --kill-after=5 "$TIMEOUT" "${runner[@]}" ./check "$test") >"$output" 2>&1 </dev/null || status=$?
    printf '%s\t%s\t%s\n' "$test" "$(verdict "$output" "$test" "$status")" $((SECONDS - start)) >>"$WORK/results.tsv"
    mkdir -p "$WORK/outputs/${test%/*}"
    cp "$output" "$WORK/outputs/$test"
    tail -1 "$WORK/results.tsv"
    [ "$status" -lt 124 ] || clean_up
}

compare() {
    awk -F '\t' -v expected="$EXPECTED" '
        BEGIN { while ((getline line < expected) > 0) { split(line, f, /[ \t]+/); if (f[1] !~ /^#/ && f[1] != "") want[f[1]] = f[2] } }
        { count[$2]++; wanted = ($1 in want) ? want[$1] : "pass"; if ($2 != wanted) print "unexpected: " $1 " " $2 " (expected: " wanted ") " $3 }
        $2 != wanted { odd++ }
        END { printf "%d pass, %d fail, %d not run; %d not as expected\n", count["pass"], count["fail"], count["notrun"], odd; exit odd > 0 }
    ' "$WORK/results.tsv"
}

runner=(env)
[ "$COMPAT" != yes ] || runner=("$BUTTERFS" compat --)
users
[ "$COMPAT" != yes ] || preload
types
[ "$DRIVER" = kernel ] || helpers
make_devices
configure
: >"$WORK/results.tsv"
for test in $(tests "$@"); do one "$test"; done
compare
