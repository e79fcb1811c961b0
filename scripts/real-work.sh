#!/usr/bin/env bash
# Real work on our mount and on ext4, one after the other: how long each takes, and that both come to the same.
#
#   scripts/real-work.sh [PART...]      PART: git debootstrap cargo layers dedupe; all if none is named
#
# git: a clone, checkouts and fsck of a repository. debootstrap: a Debian tree (its packages are fetched before). cargo: a
# crate of this workspace is built and its tests run, sources and target on the mount. layers: the Debian tree as an image of
# three layers, each unpacked over a snapshot (on ext4, a copy) of the one below, with whiteouts. dedupe: duperemove finds
# what three copies of a tree have in common, under `butterfs compat`; every byte stays (on ext4 the copies alone).
#
# After our part the stock check with data checksums must find nothing. Environment: BUTTERFS (the binary; its library
# beside it), WORK (a directory), SIZE (6G), SUITE (bookworm), CRATE (butterfs-format), REPO (a git repository: this one).
# Root; debootstrap, duperemove, git, cargo.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
BUTTERFS=${BUTTERFS:-$here/target/release/butterfs}
WORK=${WORK:-/var/tmp/butterfs-work}
SIZE=${SIZE:-6G}
SUITE=${SUITE:-bookworm}
CRATE=${CRATE:-butterfs-format}
REPO=${REPO:-$here}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(git debootstrap cargo layers dedupe)
mnt=$WORK/mnt
mkdir -p "$mnt" "$WORK/sums"
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

start() { # KIND
    rm -f "$WORK/image"
    truncate -s "$SIZE" "$WORK/image"
    if [ "$1" = ext4 ]; then
        mkfs.ext4 -q -F "$WORK/image" && mount -o loop "$WORK/image" "$mnt"
    else
        mkfs.btrfs -q -f "$WORK/image" && "$BUTTERFS" mount "$WORK/image" "$mnt"
    fi
}

stop() { # KIND
    if [ "$1" = ext4 ]; then
        umount "$mnt"
        return
    fi
    "$BUTTERFS" umount "$mnt" || fail "umount"
    btrfs check --check-data-csum "$WORK/image" >"$WORK/check" 2>&1 || fail "btrfs check; see $WORK/check"
}

timed() { # KIND NAME COMMAND...: until it is durable
    local kind=$1 name=$2 begin end
    shift 2
    begin=$(date +%s%N)
    "$@" >"$WORK/log.$name.$kind" 2>&1 || fail "$name on $kind: $(tail -1 "$WORK/log.$name.$kind")"
    sync -f "$mnt"
    end=$(date +%s%N)
    printf '%-14s %-9s %6.1f s\n' "$name" "$kind" "$(((end - begin) / 100000000))e-1"
}

# What is in a tree: names, types, modes, owners, links' targets and content.
sums() { # DIRECTORY
    (cd "$1" && find . -mindepth 1 -printf '%P %y %m %U:%G %l\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum)
}

same() { # KIND NAME DIRECTORY: as it was on the other
    sums "$3" >"$WORK/sums/$2.$1"
    [ "$1" = ext4 ] || cmp -s "$WORK/sums/$2.ext4" "$WORK/sums/$2.$1" ||
        fail "$2: not as on ext4: $(diff "$WORK/sums/$2.ext4" "$WORK/sums/$2.$1" | head -2)"
}

git_work() {
    git clone -q --no-local "$REPO" "$mnt/repo" || return
    local commit
    for commit in $(git -C "$mnt/repo" rev-list HEAD | awk 'NR % 50 == 1' | head -8); do
        git -C "$mnt/repo" checkout -q "$commit" || return
        [ -z "$(git -C "$mnt/repo" status --porcelain)" ] || return
    done
    git -C "$mnt/repo" fsck --full --strict
}

git_part() { # KIND
    timed "$1" git git_work
    rm -rf "$mnt/repo/.git"
    same "$1" git "$mnt/repo"
}

packages() { # fetched once
    [ -d "$WORK/packages" ] && return
    mkdir -p "$WORK/packages"
    debootstrap --variant=minbase --download-only --cache-dir="$WORK/packages" "$SUITE" "$WORK/fetched" >"$WORK/log.fetch" 2>&1 ||
        fail "debootstrap: $(tail -1 "$WORK/log.fetch")"
    rm -rf "$WORK/fetched"
}

debootstrap_part() { # KIND
    packages
    timed "$1" debootstrap debootstrap --variant=minbase --cache-dir="$WORK/packages" "$SUITE" "$mnt/debian"
    # What says when it was made differs.
    rm -rf "$mnt/debian/var/log" "$mnt/debian/var/cache" "$mnt/debian/debootstrap" "$mnt/debian/etc/machine-id"
    same "$1" debootstrap "$mnt/debian"
    [ "$1" = ext4 ] && tar -C "$mnt/debian" -cf "$WORK/layer1.tar" .
}

cargo_work() {
    git clone -q --no-local "$here" "$mnt/workspace" || return
    (cd "$mnt/workspace" && CARGO_TARGET_DIR=$mnt/target CARGO_INCREMENTAL=0 cargo test -q -p "$CRATE")
}

cargo_part() { # KIND
    timed "$1" cargo cargo_work
}

layer() { # NUMBER: a tar of what changes
    local dir=$WORK/layer
    rm -rf "$dir"
    mkdir -p "$dir/usr/share" "$dir/opt/app$1"
    head -c 20000000 /dev/zero | openssl enc -aes-128-ctr -nosalt -K "0$1" -iv 0 2>/dev/null >"$dir/opt/app$1/program"
    seq 1 2000 | while read -r number; do echo "$1 $number" >"$dir/opt/app$1/$number"; done
    [ "$1" -lt 3 ] || { mkdir -p "$dir/opt/app2" && touch "$dir/opt/app2/.wh.program" "$dir/usr/share/.wh.doc"; }
    tar -C "$dir" -cf "$WORK/layer$1.tar" .
    rm -rf "$dir"
}

layers_work() { # KIND
    local number below whiteout
    for number in 1 2 3; do
        below=$mnt/layer$((number - 1))
        case $1.$number in
        ext4.1) mkdir "$mnt/layer1" ;;
        ext4.*) cp -a "$below" "$mnt/layer$number" ;;
        *.1) "$BUTTERFS" subvolume create "$mnt/layer1" ;;
        *) "$BUTTERFS" subvolume snapshot "$below" "$mnt/layer$number" ;;
        esac || return
        tar -C "$mnt/layer$number" -xpf "$WORK/layer$number.tar" || return
        find "$mnt/layer$number" -name '.wh.*' | while read -r whiteout; do
            rm -rf "$whiteout" "${whiteout%/*}/${whiteout##*/.wh.}"
        done
    done
}

layers_part() { # KIND
    [ -f "$WORK/layer1.tar" ] || tar -C /usr/share/doc -cf "$WORK/layer1.tar" .
    [ -f "$WORK/layer3.tar" ] || { layer 2 && layer 3; }
    timed "$1" layers layers_work "$1"
    for number in 1 2 3; do same "$1" "layer$number" "$mnt/layer$number"; done
}

used() { df -B1 --output=used "$mnt" | tail -1; }

dedupe_part() { # KIND
    local before after copy
    copies() { for copy in 1 2 3; do cp -r --reflink=never /usr/include "$mnt/copy$copy" || return; done; }
    timed "$1" copies copies
    sums "$mnt/copy1" >"$WORK/sums/before"
    before=$(used)
    [ "$1" = ext4 ] && return
    timed "$1" dedupe "$BUTTERFS" compat -- duperemove -dr --hashfile="$WORK/hashes" "$mnt/copy1" "$mnt/copy2" "$mnt/copy3"
    rm -f "$WORK/hashes"
    after=$(used)
    echo "               $((before / 1000000)) MB used before, $((after / 1000000)) MB after"
    [ "$after" -lt "$before" ] || fail "dedupe: nothing is shared"
    for copy in 1 2 3; do sums "$mnt/copy$copy" | cmp -s - "$WORK/sums/before" || fail "dedupe: copy $copy changed"; done
}

for part in "${parts[@]}"; do
    for kind in ext4 butterfs; do
        start $kind || { fail "$part: no mount of $kind"; continue; }
        "${part}_part" $kind
        stop $kind
    done
done
rm -f "$WORK/image"
[ $failures -eq 0 ] && echo "all is well"
exit $((failures > 0))
