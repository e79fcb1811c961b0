//! chattr, extended attributes, capabilities, links and renames: a script has the same to say on the kernel's mount and
//! on ours.

mod common;

use butterfs_testkit::command::{run, run_program};
use butterfs_testkit::oracle;
use common::both::{Judge, same_by, same_on_both};
use common::{MIB, kernel, setup, subject};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn chattr_sets_what_the_kernel_sets() {
    same_on_both(
        "attributes_letters",
        &[],
        r#"
        for kind in empty full dir; do for first in a c C D i m S; do
            case $kind in empty) : > x;; full) echo data > x;; dir) mkdir x;; esac
            try chattr +$first x; echo "$kind $(letters x)"
            for second in c C D m; do
                try chattr +$second x; echo "  $(letters x)"; try chattr -$second x; echo "  $(letters x)"
            done
            chattr -ia x; rm -r x
        done; done
        : > x; try chattr +cC x; try chattr +cm x; try chattr +j x; try chattr +AdS x; letters x
        try xfs_io -r -c 'chattr +a' x; letters x; try xfs_io -r -c 'chattr -a' x; try xfs_io -r -c 'chattr +p' x; letters x
        chattr -AdS x; chattr +C x; try xfs_io -r -c 'chattr +d' x; letters x
        for letter in c m C; do
            mkdir dir; chattr +$letter dir; : > dir/f; mkdir dir/d; mkfifo dir/p
            echo "in +$letter: $(letters dir/f) $(letters dir/d)"; rm -r dir
        done
    "#,
    );
}

#[test]
fn what_chattr_protects_is_refused_as_by_the_kernel() {
    same_on_both(
        "attributes_protection",
        &[],
        r#"
        for letter in i a; do
            mkdir d; echo data > d/in; echo data > f; echo other > g; mkdir d/sub
            setfattr -n user.x -v y f
            chattr +$letter f d
            try dd if=/dev/zero of=f bs=1 count=1 conv=notrunc
            try dd if=/dev/zero of=f bs=1 count=1 oflag=append conv=notrunc
            try truncate -s 0 f; try truncate -s 100 f; try fallocate -l 8192 f; try fallocate -p -l 4096 f
            try chmod 600 f; try chown 1:1 f; try touch f; try touch -d 2001-01-01 f
            try setfattr -n user.x -v z f; try setfattr -x user.x f; try setfacl -m u:1:r f
            try ln f h; try mv f h; try mv g f; try rm -f f; try cp --reflink=never g f
            try touch d/new; try mkdir d/dir; try mknod d/p p; try ln -s x d/l; try ln g d/g; try mv g d/in2
            try rm -f d/in d/in2; try rmdir d/sub; try mv d/in out; try mv d e; try rmdir d
            try xfs_io -T d -c 'pwrite 0 1'
            sys rename f g 2; sys rename g d/in 2; try chmod 700 d; try setfattr -n user.x -v z d
            letters f; letters d; cat f | wc -c; chattr -$letter f d; rm -rf ./*
        done
    "#,
    );
}

#[test]
fn extended_attributes_have_the_kernels_limits() {
    same_on_both(
        "attributes_xattrs",
        &["-n", "16384"],
        r#"
        : > f; mkdir d; ln -s f l; mkfifo p
        name() { printf "user.%0$(($1 - 5))d" 0; }
        value() { head -c $1 /dev/zero | tr '\0' v; }
        set_sized() { perl -e '
            my ($file, $name, $len) = @ARGV; my $value = "v" x $len; $! = 0;
            my $ok = syscall(188, $file, $name, $value, $len, 0) == 0;
            print "$len: ", $ok ? "done" : "refused: $!", "\n"' "$@"; }
        try setfattr -n $(name 255) -v x f; try setfattr -n $(name 256) -v x f; try setfattr -n user. -v x f
        for len in 0 1 4000 16000 16213 16214 16215 16216 16217 16218 16219 16220 16221 16222 16223 65536 65537; do
            setfattr -x user.x f 2>/dev/null; set_sized f user.x $len
        done
        setfattr -x user.x f
        for len in 15970 15971 15972 15973 15974 15975 16000; do
            setfattr -x $(name 255) f 2>/dev/null; set_sized f $(name 255) $len
        done
        for file in f d l p; do for space in user trusted security system btrfs none; do
            try setfattr -h -n $space.x -v y $file; try getfattr -h -n $space.x $file; try setfattr -h -x $space.x $file
        done; done
        for value in zlib lzo zstd:3 none no gzip ''; do
            try setfattr -n btrfs.compression -v "$value" f; try setfattr -n btrfs.compression -v "$value" d
            echo "$(letters f) $(letters d)"
        done
        chattr -c f d; chattr +C d; : > d/f; try setfattr -n btrfs.compression -v lzo d/f
        try setfattr -h -n btrfs.compression -v lzo l; try setfattr -n btrfs.compression -v lzo p
        for n in $(seq 60); do setfattr -n user.n$n -v $n d; done; getfattr -d d | sort
    "#,
    );
}

#[test]
fn privileges_go_as_in_the_kernel() {
    same_on_both(
        "attributes_privileges",
        &[],
        r#"
        chmod 777 .
        fresh() { rm -f x; cp /bin/true x; chown 1000:1000 x; chmod 6755 x; setcap cap_net_raw+ep x; }
        user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
        show() { echo "$1: $(stat -c %a x) $(getcap x)"; }
        fresh; show fresh
        fresh; echo more >> x; show 'root writes'
        fresh; user sh -c 'echo more >> x'; show 'owner writes'
        fresh; truncate -s 100 x; show 'root truncates'
        fresh; user truncate -s 100 x; show 'owner truncates'
        fresh; user sh -c ': > x'; show 'owner opens with O_TRUNC'
        fresh; chown 1001 x; show 'root chowns'
        fresh; user chmod 6750 x; show 'owner chmods'
        fresh; user setfattr -n user.x -v y x; show 'owner sets an attribute'
        for mode in '-l 200000' '-n -l 300000' '-p -o 0 -l 4096' '-z -o 0 -l 4096'; do
            fresh; user fallocate $mode x; show "owner fallocates $mode"
        done
        for call in 'pwrite -q 0 10' 'pwrite -q -b 4k 0 4k' 'mmap -w 0 4k' 'truncate 7'; do
            fresh; user xfs_io -c "$call" x; show "owner: $call"
        done
        fresh; chmod 2745 x; user sh -c 'echo more >> x'; show 'setgid without execution'
    "#,
    );
}

#[test]
fn renames_and_links_are_the_kernels() {
    same_on_both(
        "attributes_names",
        &["-n", "16384", "-O", "^extref"],
        r#"
        echo a > a; echo b > b; mkdir d e; echo in > d/in
        sys rename a b 1; sys rename a c 1; sys rename c b 2; cat b c; sys rename b missing 2; sys rename b d 2
        ls -R; sys rename b w 4; stat -c '%n %F %t:%T %a' b w; sys rename w v 5; sys rename v x 6; sys rename v x 8
        sys rename d e 2; ls d e; sys rename d d/sub 0; sys rename e nowhere/x 0
        try xfs_io -T . -c 'pwrite 0 5' -c 'flink made'; stat -c '%s %h' made
        touch birth; [ $(stat -c %W birth) -gt 0 ] && echo born
        perl -e 'my $n = 1; open F, ">", "many"; for (1 .. 70000) { link("many", "link$_") or last; $n++ }
            print "$n links, then $!\n"'
        stat -c %h many; mkdir other; perl -e 'my $n = 0; for (1 .. 70000) { link("many", "other/l$_") or last; $n++ }
            print "$n more, then $!\n"'
        rm link7; try ln many again; stat -c %h many
    "#,
    );
}

#[test]
fn an_inode_has_65535_names() {
    same_by(
        Judge::Ours,
        "attributes_many_links",
        &["-n", "4096"],
        "",
        r#"
        mkdir d; perl -e 'my $n = 1; open F, ">", "many"; for (1 .. 70000) { link("many", "d/$_") or last; $n++ }
            print "$n links, then $!\n"'
        stat -c %h many; rm d/1 d/65000; stat -c %h many; try ln many d/1; ls d | wc -l; ls d | sort | md5sum
    "#,
    );
}

/// With `chattr +S` and `+D` what is done is on the device when the call returns: also in a copy of the image that is
/// taken at that moment.
#[test]
fn what_asks_to_be_synced_is() {
    let Some(work) = setup("attributes_sync") else { return };
    let (image, copy, mnt, seen) = (work.file("image"), work.file("copy"), work.dir("mnt"), work.dir("seen"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "commit=300");
    let at = |name: &str| mnt.join(name);
    fs::create_dir(at("d")).expect("mkdir");
    for name in ["file", "plain", "moved", "gone"] {
        fs::write(at("d").join(name), b"old").expect("write");
    }
    let chattr = |letter: &str, path: &Path| run_program("chattr", &[letter.as_ref(), path.as_os_str()]).ok();
    chattr("+D", &at("d"));
    chattr("+S", &at("d/file"));
    mounted.sync();
    fs::write(at("d/plain"), b"new, and not synced").expect("write");
    fs::write(at("d/file"), b"new").expect("write");
    fs::remove_file(at("d/gone")).expect("rm");
    fs::rename(at("d/moved"), at("d/here")).expect("mv");
    fs::create_dir(at("d/dir")).expect("mkdir");
    fs::write(at("d/made"), b"").expect("create");
    run_program("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]).ok();
    mounted.unmount();
    let mounted = kernel().mount(&copy, &seen, "");
    let mut names: Vec<String> = fs::read_dir(seen.join("d"))
        .expect("read_dir")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["dir", "file", "here", "made", "plain"]);
    assert_eq!(fs::read(seen.join("d/file")).expect("read"), b"new");
    mounted.unmount();
    oracle::assert_clean(&copy);
}

/// An open file that is asked for by name can be refused; see `open_files` in the manual.
#[test]
fn with_open_files_what_is_protected_cannot_be_opened_for_writing() {
    let Some(work) = setup("attributes_open") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let said = [("", kernel()), ("open_files", subject())].map(|(options, mounter)| {
        let mounted = mounter.mount(&image, &mnt, options);
        let mut said = Vec::new();
        for letter in ["i", "a"] {
            let file = mnt.join("file");
            fs::write(&file, b"x").expect("write");
            run_program("chattr", &[format!("+{letter}").as_ref(), file.as_os_str()]).ok();
            for flag in ["-r", "", "-a"] {
                let mut command = Command::new("xfs_io");
                command.args(["-c", "stat -r"]).args(Some(flag).filter(|flag| !flag.is_empty())).arg(&file);
                said.push((letter, flag, run(&mut command).status.success()));
            }
            run_program("chattr", &[format!("-{letter}").as_ref(), file.as_os_str()]).ok();
        }
        mounted.unmount();
        said
    });
    assert_eq!(said[0], said[1]);
}
