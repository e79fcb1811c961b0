//! System calls on files, beside the kernel's mount: preallocation and holes, locks, files without names, copies in the
//! kernel, access times.

mod common;

use common::both::{same_on_both, same_with};

/// Functions of the scripts: bytes that are the same on both mounts.
const NOISE: &str = r#"
noise() { python3 -c 'import random, sys; r = random.Random(int(sys.argv[1])); sys.stdout.buffer.write(r.randbytes(int(sys.argv[2])))' "$1" "$2" > "$3"; }
"#;

#[test]
fn space_is_preallocated_and_given_back_as_in_the_kernel() {
    let script = r#"
        shown() { sync -f .; echo "$1: $(stat -c '%s %b' f) $(md5sum < f)"; xfs_io -r -c 'seek -a -r 0' f; }
        noise 1 300000 f; shown made
        try fallocate -l 1M f; shown preallocated
        try fallocate -n -o 2M -l 64k f; shown 'beyond the end'
        try fallocate -p -o 5000 -l 100000 f; shown punched
        try fallocate -p -o 901120 -l 4M f; shown 'punched beyond the end'
        try fallocate -z -o 10000 -l 70000 f; shown zeroed
        try fallocate -z -n -o 1M -l 3M f; shown 'zeroed beyond the end'
        try xfs_io -c 'pwrite -q 500000 20000' f; shown 'written into'
        try fallocate -c -o 4096 -l 4096 f; try fallocate -i -o 4096 -l 4096 f; try xfs_io -c 'funshare 0 8192' f
        try fallocate -l 4P f; try fallocate -o 8E -l 1 f; mkfifo p; mkdir d
        try xfs_io -r -c 'falloc 0 4096' f
        truncate -s 102400 f; shown cut; truncate -s 900000 f; shown 'made longer'
        noise 2 100 small; try fallocate -p -o 10 -l 20 small; md5sum small; try fallocate -z -l 4096 small; md5sum small
    "#;
    same_on_both("calls_space", &[], &format!("{NOISE}{script}"));
    same_on_both("calls_space_holes", &["-O", "^no-holes"], &format!("{NOISE}{script}"));
}

#[test]
fn locks_of_files_and_records_hold() {
    let script = r#"
import errno, fcntl, os, struct
f = open("lock", "w")
def child(what):
    pid = os.fork()
    if pid == 0:
        try: what(); result = 0
        except OSError as error: result = error.errno
        os._exit(result)
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "done")
def whole(how):
    def lock():
        with open("lock") as g: fcntl.flock(g, how | fcntl.LOCK_NB)
    return lock
def record(command, start, length, kind=fcntl.F_WRLCK):
    def lock():
        with open("lock", "r+") as g: fcntl.fcntl(g, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))
    return lock
SETLK, OFD_SETLK = 6, 37
fcntl.flock(f, fcntl.LOCK_EX); print("flock", child(whole(fcntl.LOCK_SH)), child(whole(fcntl.LOCK_EX)))
fcntl.flock(f, fcntl.LOCK_SH); print("shared", child(whole(fcntl.LOCK_SH)), child(whole(fcntl.LOCK_EX)))
fcntl.flock(f, fcntl.LOCK_UN); print("unlocked", child(whole(fcntl.LOCK_EX)))
fcntl.lockf(f, fcntl.LOCK_EX, 100, 50)
for command in (SETLK, OFD_SETLK):
    for start, length in [(0, 50), (0, 51), (149, 1), (150, 10), (60, 1), (0, 0)]:
        print("record", command, start, length, child(record(command, start, length)), child(record(command, start, length, fcntl.F_RDLCK)))
fcntl.lockf(f, fcntl.LOCK_UN, 10, 100); print("a part", child(record(SETLK, 100, 10)), child(record(SETLK, 99, 2)))
fcntl.lockf(f, fcntl.LOCK_UN)
fcntl.fcntl(f, OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
print("own of the open file", child(record(SETLK, 5, 1)), child(lambda: fcntl.fcntl(f, OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 5, 1, 0))))
f.close(); print("closed", child(record(SETLK, 0, 0)), child(whole(fcntl.LOCK_EX)))
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    g = open("lock"); fcntl.flock(g, fcntl.LOCK_EX); os.write(w, b"x")
    os.read(os.pipe()[0], 1)
os.read(r, 1); print("another has it", child(whole(fcntl.LOCK_SH)))
os.kill(pid, 9); os.waitpid(pid, 0); print("and dies", child(whole(fcntl.LOCK_SH)))
"#;
    same_on_both("calls_locks", &[], &format!("python3 - <<'END'\n{script}END\n"));
}

#[test]
fn files_without_names_get_one_or_go() {
    let script = r#"
import errno, os
def attempt(what, *args, **named):
    try: what(*args, **named); return "done"
    except OSError as error: return errno.errorcode[error.errno]
os.mkdir("d"); os.mkdir("d/inner")
fd = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(fd, b"x" * 100000)
print("made", os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode), os.listdir("d"))
print(attempt(os.link, f"/proc/self/fd/{fd}", "d/inner/named", src_dir_fd=0, follow_symlinks=True), os.fstat(fd).st_nlink)
print(attempt(os.link, f"/proc/self/fd/{fd}", "d/again", src_dir_fd=0, follow_symlinks=True), os.stat("d/again").st_nlink)
print(attempt(os.link, f"/proc/self/fd/{fd}", "d/again", src_dir_fd=0, follow_symlinks=True), os.stat("d/again").st_size)
hidden = os.open("d", os.O_TMPFILE | os.O_WRONLY | os.O_EXCL, 0o600)
print("exclusive", attempt(os.link, f"/proc/self/fd/{hidden}", "d/never", src_dir_fd=0, follow_symlinks=True))
os.write(hidden, b"y" * 1000000); os.close(hidden)
print("in a file", attempt(os.open, "d/again", os.O_TMPFILE | os.O_RDWR), attempt(os.open, "d", os.O_TMPFILE | os.O_RDONLY))
open("kept", "w").write("kept"); held = os.open("kept", os.O_RDWR); os.unlink("kept")
print("unlinked", os.fstat(held).st_nlink, attempt(os.link, f"/proc/self/fd/{held}", "back", src_dir_fd=0, follow_symlinks=True))
os.chmod("d", 0o2755); os.chown("d", 0, 1000); below = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o644)
print("group", os.fstat(below).st_gid, sorted(os.listdir("d")))
"#;
    same_on_both("calls_tmpfile", &[], &format!("python3 - <<'END'\n{script}END\n"));
}

#[test]
fn copies_in_the_kernel_are_right() {
    let script = r#"
import errno, hashlib, os, random
def copy(source, target, count, start, end):
    try: return os.copy_file_range(source, target, count, start, end)
    except OSError as error: return errno.errorcode[error.errno]
def show(name): data = open(name, "rb").read(); print(name, len(data), hashlib.md5(data).hexdigest())
noise = random.Random(5)
open("a", "wb").write(noise.randbytes(1000000)); open("b", "wb").write(noise.randbytes(500000))
os.mkdir("d"); a, b = os.open("a", os.O_RDWR), os.open("b", os.O_RDWR)
for count, start, end in [(65536, 0, 0), (100000, 4096, 8192), (12345, 777, 100001), (4096, 990000, 0), (50, 1000000, 0), (10, 2000000, 5),
                          (0, 0, 0), (65536, 0, 4000000), (300, 5, 499900)]:
    print(count, start, end, copy(a, b, count, start, end)); show("b")
print("in itself", copy(a, a, 65536, 0, 131072), copy(a, a, 65536, 0, 4096), copy(a, a, 100, 999900, 2000000)); show("a")
read = os.open("b", os.O_RDONLY); more = os.open("b", os.O_WRONLY | os.O_APPEND)
print("rights", copy(read, a, 10, 0, 0), copy(a, read, 10, 0, 0), copy(a, more, 10, 0, 0), copy(os.open("d", os.O_RDONLY), a, 10, 0, 0))
open("hole", "wb").truncate(3000000); h = os.open("hole", os.O_RDWR); print(copy(h, b, 2000000, 0, 0), copy(a, h, 100000, 0, 1000000)); show("b"); show("hole")
"#;
    same_on_both("calls_copies", &[], &format!("python3 - <<'END'\n{script}END\n"));
}

/// `chattr +A` and the mount options: whose access time reading moves. What the kernel has in memory is forgotten first,
/// because of a read from there no daemon hears.
#[test]
fn access_times_move_by_flags_and_options() {
    let script = r#"
        evict() { [ -f "$1" ] && dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none; }
        old() { touch -h -a -d 2001-01-01 "$1"; evict "$1"; }
        moved() { [ "$(stat -c %X "$1")" = 978307200 ] && echo "$1 stays" || echo "$1 moves"; }
        export TZ=UTC
        mkdir plain flagged; chattr +A flagged
        for dir in plain flagged; do echo data > $dir/file; mkdir $dir/sub; ln -s file $dir/link; : > $dir/sub/x; done
        echo data > single; chattr +A single; lsattr -d flagged/file flagged/sub single
        for path in plain/file flagged/file single; do old $path; cat $path > /dev/null; moved $path; done
        for path in plain/sub flagged/sub; do old $path; ls $path > /dev/null; moved $path; done
        old plain/link; readlink plain/link; moved plain/link
        chattr -A single; old single; cat single > /dev/null; moved single
    "#;
    for options in ["relatime", "noatime", "strictatime", "nodiratime", "strictatime,nodiratime"] {
        same_with(&format!("calls_atime_{}", options.replace(',', "_")), options, script);
    }
}
