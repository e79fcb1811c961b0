#!/usr/bin/env bash
# Installs what the tests need on Debian bookworm with a Rust toolchain. Safe to run again: what is there stays.
set -euo pipefail

NEXTEST_VERSION=${NEXTEST_VERSION:-0.9.148}
PJDFSTEST_VERSION=0.2.2
FSX_VERSION=0.3.2
PACKAGES=(fuse3 attr acl strace util-linux mount procps e2fsprogs xfsprogs duperemove git rsync python3 gcc libc6-dev pkg-config libacl1-dev)

say() { printf 'setup: %s\n' "$*"; }

if [ "$(id -u)" -eq 0 ]; then as_root=(); else as_root=(sudo); fi

apt_updated=no
apt_update() {
    [ "$apt_updated" = yes ] && return
    say "refreshing the package lists"
    "${as_root[@]}" apt-get update -qq
    apt_updated=yes
}

apt_install() {
    apt_update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The mirror and the key come from the entry that this machine already uses for bookworm itself.
add_backports() {
    local entry uri key
    if grep -rhqs 'bookworm-backports' /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; then
        return
    fi
    entry=$(awk '
        function flush() { if (types ~ /deb/ && suites ~ /(^| )bookworm( |$)/ && uri != "") { print uri "|" key; found = 1; exit } 
                           types = suites = uri = key = "" }
        /^[[:space:]]*$/ { flush(); next }
        /^Types:/  { types = $0 }
        /^URIs:/   { uri = $2 }
        /^Suites:/ { suites = $0; sub(/^Suites:[[:space:]]*/, "", suites) }
        /^Signed-By:/ { key = $2 }
        END { if (!found) flush() }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
    if [ -z "$entry" ]; then
        entry=$(sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) +bookworm +.*/\2|\1/p' \
            /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -1)
        entry="${entry%%|*}|$(sed -nE 's/.*signed-by=([^] ]+).*/\1/p' <<<"$entry")"
    fi
    uri=${entry%%|*}
    key=${entry#*|}
    if [ -z "$uri" ]; then
        say "no apt source for Debian bookworm was found: add bookworm-backports by hand" >&2
        return 1
    fi
    say "adding bookworm-backports from the mirror in use"
    "${as_root[@]}" tee /etc/apt/sources.list.d/butterfs-backports.sources >/dev/null <<SOURCES
Types: deb
URIs: $uri
Suites: bookworm-backports
Components: main
${key:+Signed-By: $key}
SOURCES
    apt_updated=no
}

packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        say "installing ${missing[*]}"
        apt_install "${missing[@]}"
    fi
}

# bookworm's own 6.2 refuses the block-group tree.
btrfs_progs() {
    local have
    have=$(dpkg-query -W -f '${Version}' btrfs-progs 2>/dev/null || true)
    if [ -n "$have" ] && dpkg --compare-versions "$have" ge 6.14; then
        return
    fi
    . /etc/os-release
    if [ "${VERSION_CODENAME:-}" = bookworm ]; then
        add_backports
        say "installing btrfs-progs from bookworm-backports"
        apt_install -t bookworm-backports btrfs-progs
    else
        say "installing btrfs-progs"
        apt_install btrfs-progs
    fi
}

# cargo_tool COMMAND CRATE VERSION
cargo_tool() {
    if cargo install --list | grep -q "^$2 v$3:" || { [ "$2" = cargo-nextest ] && command -v cargo-nextest >/dev/null; }; then
        return
    fi
    say "building $2 $3"
    cargo install --quiet --locked "$2" --version "$3"
    command -v "$1" >/dev/null || say "$1 is in $(dirname "$(command -v cargo)"), which is not in PATH"
}

# pjdfstest changes to users that are not root: it gets its own two.
test_users() {
    local user
    for user in butterfs-test1 butterfs-test2; do
        if ! getent passwd "$user" >/dev/null; then
            say "adding the user $user"
            "${as_root[@]}" useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
        fi
    done
}

packages
btrfs_progs
test_users
cargo_tool cargo-nextest cargo-nextest "$NEXTEST_VERSION"
cargo_tool pjdfstest pjdfstest "$PJDFSTEST_VERSION"
cargo_tool fsx fsx "$FSX_VERSION"
say "ready: $(btrfs --version | head -1), $(cargo nextest --version | head -1), pjdfstest $PJDFSTEST_VERSION, fsx $FSX_VERSION"
