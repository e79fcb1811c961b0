//! The engine behind real mounts, as root; judged by `btrfs check` and by the kernel's driver.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_fuse::adapter::{AdapterOptions, EngineFrontEnd};
use butterfs_fuse::control::{self, Access};
use butterfs_fuse::mount::{Mount, MountFlags, MountOptions, MountSource, Unmounted};
use butterfs_fuse::session::{Session, SessionError, SessionOptions};
use butterfs_fuse::stop::StopHandle;
use butterfs_testkit::unmount::unmount;
use butterfs_volume::FileDevice;
use butterfs_volume::{OpenMode, Volume};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom, XattrFlags};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

/// An image with a fresh filesystem, and a place to mount it.
struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    fn new(size: u64) -> Self {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "this test needs root: run it with sudo, or leave out *_root binaries");
        let _ = tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).try_init();
        let image = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(image.mount_point()).unwrap();
        File::create(image.path()).unwrap().set_len(size).unwrap();
        let device = Arc::new(FileDevice::open_read_write(image.path()).unwrap());
        mkfs::make(device, &MakeOptions::new(size, &SystemEnvironment)).unwrap();
        image
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn mount(&self) -> Mounted {
        self.mount_with(MountFlags::empty())
    }

    fn mount_with(&self, flags: MountFlags) -> Mounted {
        let device = Arc::new(FileDevice::open_read_write(self.path()).unwrap());
        let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
        let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
        let front_end = Arc::new(EngineFrontEnd::new(Arc::new(fs), AdapterOptions::default()));
        let mut options = MountOptions::for_root();
        options.flags |= flags;
        let mount = Mount::new(&MountSource::at(&self.path()).unwrap(), &self.mount_point(), &options).unwrap();
        let session = Session::new(
            mount,
            front_end,
            SessionOptions { transport: common::transport(), ..SessionOptions::default() },
        );
        let stop = session.stop_handle();
        Mounted { path: self.mount_point(), stop, thread: Some(std::thread::spawn(move || session.run())) }
    }

    /// `btrfs check`, which must find nothing.
    fn check(&self) {
        let output = Command::new("btrfs").args(["check", "--check-data-csum"]).arg(self.path()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("no error found"), "{text}");
    }

    /// Mounts it with the kernel's driver, runs `work` there, and unmounts.
    fn in_kernel<R>(&self, work: impl FnOnce(&Path) -> R) -> R {
        run("mount", &["-o", "loop", &self.path().to_string_lossy(), &self.mount_point().to_string_lossy()]);
        let unmount = Unmount(self.mount_point());
        let result = work(&unmount.0);
        drop(unmount);
        result
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        unmount(&self.0).ok();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A served mount that is gone with this value, whatever happens.
struct Mounted {
    path: PathBuf,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), SessionError>>>,
}

impl Mounted {
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn unmount(mut self) {
        assert_eq!(self.stop.stop_if_idle().unwrap(), Unmounted::Gone);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// All that can be seen of a tree, by path: type, permissions, owner, content.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap();
            format!(
                "{} bytes, sum {}",
                bytes.len(),
                bytes
                    .iter()
                    .enumerate()
                    .fold(0_u64, |sum, (at, byte)| { sum.rotate_left(5) ^ (u64::from(*byte) + at as u64) })
            )
        } else if meta.is_symlink() {
            format!("to {:?}", fs::read_link(&path).unwrap())
        } else {
            format!("device {:#x}", meta.rdev())
        };
        let (mode, nlink) = (meta.mode(), if meta.is_dir() { 1 } else { meta.nlink() });
        let times = (meta.mtime(), meta.mtime_nsec());
        let text = format!("{mode:o} {nlink} {}:{} {times:?} {content}", meta.uid(), meta.gid());
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), text);
    }
    found
}

/// Compares two pictures and shows only what differs. What a snapshot shows for a nested subvolume
/// is made anew each time.
fn assert_same(left: &BTreeMap<PathBuf, String>, right: &BTreeMap<PathBuf, String>) {
    for path in left.keys().chain(right.keys()) {
        let (left, right) = (left.get(path), right.get(path));
        let placeholder = path.ends_with("a/nested") && left.is_some() == right.is_some();
        assert!(left == right || placeholder, "{path:?}: {left:?} and {right:?}");
    }
}

/// Fills a mount with some of everything.
fn exercise(root: &Path) {
    fs::write(root.join("small"), b"inline").unwrap();
    fs::write(root.join("big"), pattern(5_000_003, 1)).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    symlink("a/b", root.join("link")).unwrap();
    fs::hard_link(root.join("small"), root.join("a/small too")).unwrap();
    run("mknod", &[&root.join("null").to_string_lossy(), "c", "1", "3"]);
    run("mkfifo", &[&root.join("pipe").to_string_lossy()]);
    fs::create_dir(root.join("many")).unwrap();
    for n in 0..2000 {
        fs::write(root.join(format!("many/file number {n}")), n.to_string()).unwrap();
    }
    for n in (0..2000).step_by(3) {
        fs::remove_file(root.join(format!("many/file number {n}"))).unwrap();
    }
    sparse_and_cut(root);
    names(root);
    attributes(root);
}

/// The space that a file takes is seen at once, and after it is written.
#[test]
fn space_is_seen_before_and_after_writeback() {
    let image = Image::new(256 << 20);
    let mounted = image.mount();
    fs::write(mounted.file("big"), pattern(1_000_000, 1)).unwrap();
    let blocks = || fs::metadata(mounted.file("big")).unwrap().blocks();
    assert_eq!(blocks(), 1_000_000_u64.next_multiple_of(4096) / 512);
    fs::write(mounted.file("small"), b"inline").unwrap();
    let small = || fs::metadata(mounted.file("small")).unwrap().blocks();
    assert!(small() > 0);
    control::sync(open_dir(&mounted.path).as_fd()).unwrap();
    assert_eq!((blocks(), small()), (1_000_000_u64.next_multiple_of(4096) / 512, 8));
    mounted.unmount();
}

fn sparse_and_cut(root: &Path) {
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"far away", 3 << 20).unwrap();
    sparse.write_all_at(&pattern(10_000, 2), 100_001).unwrap();
    sparse.sync_all().unwrap();
    assert_eq!(rustix::fs::seek(&sparse, SeekFrom::Data(0)).unwrap(), 100_001 / 4096 * 4096);
    rustix::fs::fallocate(&sparse, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 102_000, 6_000).unwrap();
    rustix::fs::fallocate(&sparse, FallocateFlags::empty(), 4 << 20, 1 << 20).unwrap();
    sparse.write_all_at(b"into the preallocated", (4 << 20) + 5000).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), 5 << 20);
    let cut = File::create(root.join("cut")).unwrap();
    cut.write_all_at(&pattern(300_000, 3), 0).unwrap();
    cut.set_len(123_457).unwrap();
    cut.set_len(200_000).unwrap();
    let bytes = fs::read(root.join("cut")).unwrap();
    assert_eq!(bytes[..123_457], pattern(300_000, 3)[..123_457]);
    assert!(bytes[123_457..].iter().all(|byte| *byte == 0));
    for n in 0..200_u64 {
        cut.write_all_at(&pattern(777, n), n * 997 % 190_000).unwrap();
    }
}

fn names(root: &Path) {
    fs::rename(root.join("empty"), root.join("a/moved")).unwrap();
    fs::write(root.join("old"), b"old").unwrap();
    fs::write(root.join("new"), b"new").unwrap();
    fs::rename(root.join("new"), root.join("old")).unwrap();
    assert_eq!(fs::read(root.join("old")).unwrap(), b"new");
    fs::rename(root.join("a/b/c"), root.join("c")).unwrap();
    let swap = rustix::fs::renameat_with(CWD, root.join("old"), CWD, root.join("c"), RenameFlags::EXCHANGE);
    swap.unwrap();
    assert!(root.join("old").is_dir() && root.join("c").is_file());
    let refused = rustix::fs::renameat_with(CWD, root.join("c"), CWD, root.join("small"), RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    assert_eq!(fs::remove_dir(root.join("a")).unwrap_err().raw_os_error(), Some(39));
    assert!(fs::rename(root.join("a"), root.join("a/b/a")).is_err());
    let mut held = File::options().read(true).write(true).create_new(true).open(root.join("held")).unwrap();
    held.write_all(&pattern(70_000, 4)).unwrap();
    fs::remove_file(root.join("held")).unwrap();
    held.sync_all().unwrap();
    held.seek(std::io::SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    held.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, pattern(70_000, 4));
    assert_eq!(held.metadata().unwrap().nlink(), 0);
}

fn attributes(root: &Path) {
    fs::set_permissions(root.join("small"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(root.join("small"), Some(1000), Some(1001)).unwrap();
    let meta = fs::metadata(root.join("small")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.nlink()), (0o751, 1000, 1001, 2));
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join("a"), name, value, XattrFlags::empty()).unwrap();
    };
    set("user.one", b"1");
    set("user.big", &pattern(3000, 5));
    set("trusted.two", b"22");
    set("user.gone", b"");
    rustix::fs::removexattr(root.join("a"), "user.gone").unwrap();
    let mut value = vec![0; 4000];
    let len = rustix::fs::getxattr(root.join("a"), "user.big", &mut value[..]).unwrap();
    assert_eq!(value[..len], pattern(3000, 5));
    let missing = rustix::fs::getxattr(root.join("a"), "user.gone", &mut value[..]);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA));
}

#[test]
fn the_kernel_reads_what_we_wrote_and_we_what_it_wrote() {
    let image = Image::new(512 << 20);
    let mounted = image.mount();
    exercise(&mounted.path);
    let before = picture(&mounted.path);
    let stat = rustix::fs::statvfs(&mounted.path).unwrap();
    assert!(stat.f_bavail < stat.f_blocks && stat.f_bavail > 0);
    mounted.unmount();
    image.check();

    let in_kernel = image.in_kernel(|root| {
        assert_same(&picture(root), &before);
        fs::create_dir(root.join("by the kernel")).unwrap();
        exercise(&root.join("by the kernel"));
        fs::remove_dir_all(root.join("many")).unwrap();
        picture(root)
    });
    image.check();

    let mounted = image.mount();
    assert_same(&picture(&mounted.path), &in_kernel);
    fs::remove_dir_all(mounted.file("by the kernel")).unwrap();
    fs::write(mounted.file("last"), pattern(1_000_000, 9)).unwrap();
    let after = picture(&mounted.path);
    mounted.unmount();
    image.check();
    assert_same(&image.in_kernel(picture), &after);
}

fn open_dir(path: &Path) -> File {
    File::open(path).unwrap()
}

fn snapshot(source: &Path, dir: &Path, name: &str, access: Access) -> std::io::Result<u64> {
    control::snapshot(open_dir(source).as_fd(), open_dir(dir).as_fd(), name.as_ref(), access)
}

fn list(root: &Path) -> Vec<(u64, PathBuf, Access)> {
    let all = control::list_subvolumes(open_dir(root).as_fd()).unwrap();
    all.into_iter().map(|one| (one.id, one.path, one.access)).collect()
}

#[test]
fn subvolumes_come_and_go() {
    let image = Image::new(512 << 20);
    let mounted = image.mount();
    let root = mounted.path.clone();
    let top = open_dir(&root);
    // The kernel remembers that these names do not exist.
    assert!(!root.join("sub").exists() && !root.join("snap").exists());
    control::create_subvolume(top.as_fd(), "sub".as_ref()).unwrap();
    assert!(root.join("sub").is_dir());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    let again = control::create_subvolume(top.as_fd(), "sub".as_ref()).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(17));
    exercise(&root.join("sub"));
    control::create_subvolume(open_dir(&root.join("sub/a")).as_fd(), "nested".as_ref()).unwrap();
    fs::write(root.join("sub/a/nested/x"), b"x").unwrap();
    let in_sub = picture(&root.join("sub"));

    let id = snapshot(&root.join("sub"), &root, "snap", Access::ReadWrite).unwrap();
    let ro = snapshot(&root.join("sub"), &root, "ro", Access::ReadOnly).unwrap();
    assert_eq!(control::subvolume_id(open_dir(&root.join("snap")).as_fd()).unwrap(), id);
    assert!(snapshot(&root.join("sub/a"), &root, "not", Access::ReadOnly).is_err());
    let ids: Vec<_> = ["", "sub", "sub/a", "snap", "ro", "sub/a/nested"]
        .map(|name| fs::metadata(root.join(name)).unwrap().ino())
        .into();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{ids:x?}");
    let mut expected = in_sub.clone();
    expected.remove(Path::new("a/nested/x")).unwrap();
    assert_same(&expected, &picture(&root.join("snap")));

    fs::write(root.join("snap/big"), b"changed in the snapshot").unwrap();
    fs::remove_dir_all(root.join("sub/many")).unwrap();
    assert_eq!(fs::read(root.join("ro/big")).unwrap(), pattern(5_000_003, 1));
    assert_eq!(fs::write(root.join("ro/big"), b"").unwrap_err().raw_os_error(), Some(30));
    assert_eq!(fs::rename(root.join("sub/big"), root.join("snap/big2")).unwrap_err().raw_os_error(), Some(18));
    control::set_subvolume_access(open_dir(&root.join("ro")).as_fd(), Access::ReadWrite).unwrap();
    fs::write(root.join("ro/big"), b"").unwrap();
    control::set_subvolume_access(open_dir(&root.join("ro")).as_fd(), Access::ReadOnly).unwrap();
    assert_eq!(
        list(&root),
        [
            (5, "".into(), Access::ReadWrite),
            (256, "sub".into(), Access::ReadWrite),
            (257, "sub/a/nested".into(), Access::ReadWrite),
            (id, "snap".into(), Access::ReadWrite),
            (ro, "ro".into(), Access::ReadOnly),
        ]
    );

    // A file that is open in it keeps nothing alive but itself.
    let open = File::open(root.join("snap/small")).unwrap();
    control::delete_subvolume(top.as_fd(), "snap".as_ref()).unwrap();
    assert!(!root.join("snap").exists());
    drop(open);
    let busy = control::delete_subvolume(top.as_fd(), "sub".as_ref()).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(39));
    fs::remove_dir_all(root.join("sub/a/nested")).unwrap();
    control::sync(top.as_fd()).unwrap();
    drop(top);
    let before = picture(&root);
    mounted.unmount();
    image.check();
    image.in_kernel(|root| {
        assert_same(&picture(root), &before);
        run("btrfs", &["subvolume", "snapshot", &path(root, "sub"), &path(root, "theirs")]);
        run("btrfs", &["subvolume", "delete", &path(root, "ro")]);
        // What the kernel has not cleaned up by now is left to us.
    });
    image.check();
    let mounted = image.mount();
    assert_same(&picture(&root.join("sub")), &picture(&root.join("theirs")));
    control::delete_subvolume(open_dir(&root).as_fd(), "sub".as_ref()).unwrap();
    control::delete_subvolume(open_dir(&root).as_fd(), "theirs".as_ref()).unwrap();
    mounted.unmount();
    image.check();
}

fn path(root: &Path, name: &str) -> String {
    root.join(name).to_string_lossy().into_owned()
}

#[test]
fn modes_acls_and_protection_are_the_kernels() {
    let image = Image::new(256 << 20);
    let mounted = image.mount();
    let script = r#"
        set -e
        umask 027; mkdir plain; touch plain/f; ln -s x plain/l
        mkdir given; setfacl -m d:u:1000:rwx,d:g::r-x,d:o::--- given
        umask 077; touch given/f; mkdir given/d; mkfifo given/p
        touch acl; setfacl -m u:1001:rw acl; chmod 640 acl
        touch back; setfacl -m u:1001:rw back; setfacl -b back; chmod 2755 back; setfacl -m g::rwx back
        mkdir set; chown 0:1002 set; chmod 2775 set; touch set/f; mkdir set/d
        cp /bin/true suid; chmod 4755 suid; setcap cap_net_raw+ep suid 2>/dev/null || true
        chown 1000 suid
        cp /bin/true w; chown 1000:1000 w; chmod 6755 w; setpriv --reuid 1000 --clear-groups --regid 1000 sh -c 'echo >> w'
        touch -d '2001-02-03 04:05:06.789' times; touch -a -d '1960-01-01' times
        stat -c '%n %A %u:%g %X %y' times
        for f in plain plain/f plain/l given/f given/d given/p acl back set set/f set/d suid w; do
            stat -c '%n %A %u:%g' $f; getfacl -cpn $f 2>/dev/null || true
        done
        touch fixed grow; chattr +i fixed; chattr +a grow
        ( echo x > fixed ) 2>&1 || true; rm -f fixed 2>&1 || true; ln fixed other 2>&1 || true
        echo more >> grow; ( echo x > grow ) 2>&1 || true; mv grow gone 2>&1 || true
        lsattr -d fixed grow; chattr -i fixed; chattr -a grow; rm fixed grow
    "#;
    let in_dir = |root: &Path| {
        let work = root.join("work");
        fs::create_dir(&work).unwrap();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).unwrap();
        let out = Command::new("bash").arg("-c").arg(script).current_dir(&work).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let ours = in_dir(&mounted.path);
    let stored = picture(&mounted.path);
    mounted.unmount();
    image.check();
    let theirs = image.in_kernel(|root| {
        assert_same(&picture(root), &stored);
        fs::rename(root.join("work"), root.join("ours")).unwrap();
        in_dir(root)
    });
    assert_eq!(ours, theirs);
    image.check();
}

#[test]
fn users_at_work_do_not_disturb_snapshots() {
    let image = Image::new(1 << 30);
    let mounted = image.mount_with(MountFlags::PLAIN_FUSE);
    let root = mounted.path.clone();
    control::create_subvolume(open_dir(&root).as_fd(), "live".as_ref()).unwrap();
    std::thread::scope(|scope| {
        for user in 0..3 {
            let home = root.join(format!("live/{user}"));
            scope.spawn(move || work(&home, user));
        }
        for n in 0..10 {
            let name = format!("at {n}");
            snapshot(&root.join("live"), &root, &name, Access::ReadOnly).unwrap();
            let (first, second) = (picture(&root.join(&name)), picture(&root.join(&name)));
            assert_same(&first, &second);
            if n % 2 == 0 {
                control::delete_subvolume(open_dir(&root).as_fd(), name.as_ref()).unwrap();
            }
        }
    });
    let before = picture(&root);
    control::sync(open_dir(&root).as_fd()).unwrap();
    mounted.unmount();
    image.check();
    assert_same(&image.in_kernel(picture), &before);
}

/// Makes, changes, moves and removes files, and sees that each holds what it should.
fn work(home: &Path, user: u64) {
    fs::create_dir(home).unwrap();
    for n in 0..600_u64 {
        let (file, moved) = (home.join(n.to_string()), home.join(format!("moved {n}")));
        let bytes = pattern((n * 7919 % 150_000) as usize, n + user);
        fs::write(&file, &bytes).unwrap();
        if n % 50 == 0 {
            File::open(&file).unwrap().sync_all().unwrap();
        }
        fs::rename(&file, &moved).unwrap();
        assert!(fs::read(&moved).unwrap() == bytes, "{moved:?}");
        if n % 3 != 0 {
            fs::remove_file(&moved).unwrap();
        }
    }
}
