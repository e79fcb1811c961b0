#!/usr/bin/env bash
# Opens, walks, reads, checks and prints every image of a folder, with no mount and within bounds.
#
#   scripts/judge-images.sh DIR [OUT.md]
#
# The images are as those of the tests of btrfs-progs: *.raw, raw images in *.tar, metadata dumps in *.img, all of
# them perhaps in .xz. Each program has 20 seconds and 512 MiB. For each image a row: what came of opening and
# reading everything, without and with `rescue=all`, of `check --check-data-csum`, and of `dump-tree`, whose text is
# held against that of btrfs-progs where that prints one and ends well; seconds and peak MiB of the worst of the four.
# The status is 1 if a program panicked, took too long or died.
#
# The programs are those that cargo builds (with checks of arithmetic), or $BUTTERFS and $WALK.
set -uo pipefail
images=${1:?usage: judge-images.sh DIR [OUT.md]}
out=${2:-/dev/stdout}
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${BUTTERFS:-}" ] || [ -z "${WALK:-}" ]; then
    (cd "$here" && cargo build --quiet -p butterfs && cargo build --quiet -p butterfs-testkit --example walk) || exit 2
fi
target="${CARGO_TARGET_DIR:-$here/target}/debug"
butterfs=${BUTTERFS:-$target/butterfs} walk=${WALK:-$target/examples/walk}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SECONDS_MOST=20 MIB_MOST=512
bad=0 count=0 worst_seconds=0 worst_mib=0

# unpack FILE: makes $work/raw; fails if there is nothing to open.
unpack() {
    rm -rf "$work/raw" "$work/dump" "$work/tar"
    case $1 in
    *.raw.xz) xz -dc "$1" >"$work/raw" ;;
    *.raw) cp --sparse=always "$1" "$work/raw" ;;
    *.img.xz) xz -dc "$1" >"$work/dump" && btrfs-image -r "$work/dump" "$work/raw" >/dev/null 2>&1 ;;
    *.img) btrfs-image -r "$1" "$work/raw" >/dev/null 2>&1 ;;
    *.tar.xz) mkdir "$work/tar" && tar -xJf "$1" -C "$work/tar" &&
        mv "$(find "$work/tar" -type f | head -1)" "$work/raw" ;;
    *) return 1 ;;
    esac
}

# bounded NAME COMMAND...: runs it within the bounds; its exit status is in $status.
bounded() {
    local name=$1
    shift
    /usr/bin/time -q -o "$work/time" -f '%e %M' prlimit --data=$((MIB_MOST << 20)) \
        timeout -s KILL $SECONDS_MOST "$@" >"$work/$name.out" 2>"$work/$name.err"
    status=$?
    read -r seconds kib < <(tail -1 "$work/time")
    mib=$((kib / 1024))
    awk -v a="$seconds" -v b="$row_seconds" 'BEGIN {exit !(a > b)}' && row_seconds=$seconds
    [ "$mib" -gt "$row_mib" ] && row_mib=$mib
    case $status in
    101 | 134 | 137 | 139) verdict="**ended by $status**" && bad=1 ;;
    *) verdict= ;;
    esac
    [ "$mib" -gt $MIB_MOST ] && verdict="**$mib MiB**" && bad=1
}

first_line() { head -1 "$1" | cut -c1-100 | sed "s|$work/||g; s/|/\\\\|/g"; }

# The walk: all, or what is missing.
say_walk() { # OPTIONS...
    bounded walk "$walk" "$@" "$work/raw"
    case $status in
    0) verdict="all: $(first_line "$work/walk.out")" ;;
    1) verdict="$(first_line "$work/walk.out")" ;;
    2) verdict="refused: $(first_line "$work/walk.out")" ;;
    esac
}

say_check() {
    bounded check "$butterfs" check --check-data-csum "$work/raw"
    [ -n "$verdict" ] && return
    case $status in
    0) verdict=clean ;;
    *) verdict="$(grep -c '^error' "$work/check.out") errors" ;;
    esac
}

say_dump() {
    bounded dump "$butterfs" inspect-internal dump-tree "$work/raw"
    [ -n "$verdict" ] && return
    if ! timeout -s KILL $SECONDS_MOST btrfs inspect-internal dump-tree "$work/raw" >"$work/theirs" 2>"$work/theirs.err"; then
        verdict="status $status; btrfs-progs gives none"
    elif cmp -s <(tail -n +2 "$work/theirs") <(tail -n +2 "$work/dump.out"); then
        verdict=same
    else
        local lines
        lines=$(diff <(tail -n +2 "$work/theirs") <(tail -n +2 "$work/dump.out") | grep -c '^[<>]')
        verdict="$lines lines differ"
    fi
}

{
    echo "| image | walk, every byte | with rescue=all | check | dump-tree | s | MiB |"
    echo "|---|---|---|---|---|--:|--:|"
} >"$out"
while read -r file; do
    name=${file#"$images"/}
    row_seconds=0 row_mib=0
    if ! unpack "$file"; then
        echo "| $name | not an image, or it cannot be unpacked | | | | | |" >>"$out"
        continue
    fi
    say_walk
    walk_verdict=$verdict
    say_walk -o rescue=all
    rescue_verdict=$verdict
    say_check
    check_verdict=$verdict
    say_dump
    dump_verdict=$verdict
    echo "| $name | $walk_verdict | $rescue_verdict | $check_verdict | $dump_verdict | $row_seconds | $row_mib |" >>"$out"
    count=$((count + 1))
    awk -v a="$row_seconds" -v b="$worst_seconds" 'BEGIN {exit !(a > b)}' && worst_seconds=$row_seconds
    [ "$row_mib" -gt "$worst_mib" ] && worst_mib=$row_mib
done < <(find "$images" -type f ! -name '*.md' ! -name '*.stream*' | sort)
echo "$count images: at most $worst_seconds s and $worst_mib MiB; $([ $bad = 0 ] && echo "no panic, no hang" || echo "BOUNDS BROKEN")"
exit $bad
