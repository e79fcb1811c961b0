//! Requirement 5: the daemon may die at any moment; the next mount holds at least the last committed state.
//!
//! With the kernel in its place, "kill" is a copy of the image behind the kernel's back, when the writers have stopped.

mod common;

use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use common::{GIB, setup, subject};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What was durable by the system's word when the daemon died.
#[derive(Default)]
struct Promised {
    files: Vec<(PathBuf, u64, usize)>,
    removed: Vec<PathBuf>,
}

/// Fifty deaths, each at another moment, on one filesystem that lives through them all.
#[test]
fn fifty_kills_under_load() {
    let Some(work) = setup("kills") else { return };
    let (mut image, mnt) = (work.file("image0"), work.dir("mnt"));
    subject().mkfs(&image, GIB, &[]);
    let mut random = Random::new(5);
    let mut promised = Promised::default();
    for round in 0..scaled(50) {
        let mounted = subject().mount(&image, &mnt, "commit=1");
        verify(&mnt, &promised, round);
        prune(&mnt, &mut promised);
        let stop = AtomicBool::new(false);
        let shared = Mutex::new(Promised::default());
        let delay = Duration::from_millis(random.between(50, 1200));
        let survivor = std::thread::scope(|scope| {
            for writer in 0..4 {
                let (mnt, stop, shared) = (&mnt, &stop, &shared);
                scope.spawn(move || write_until(mnt, round, writer, stop, shared));
            }
            std::thread::sleep(delay);
            let survivor = kill(mounted);
            stop.store(true, Ordering::Relaxed);
            survivor
        });
        if let Some(mounted) = survivor {
            let copy = work.file(&format!("image{}", round + 1));
            copy_behind(mounted, &image, &copy);
            std::fs::remove_file(&image).expect("unlink");
            image = copy;
        }
        oracle::assert_clean(&image);
        let now = shared.into_inner().expect("no panic while held");
        promised.files.extend(now.files);
        promised.removed.extend(now.removed);
    }
    let mounted = subject().mount(&image, &mnt, "");
    verify(&mnt, &promised, 999);
    mounted.unmount();
    oracle::assert_clean(&image);
    println!("{} files promised at the end", promised.files.len());
}

/// Kills the daemon; gives the mount back if there is none.
fn kill(mounted: Mounted) -> Option<Mounted> {
    if !mounted.mounter().is_butterfs() {
        return Some(mounted);
    }
    mounted.kill();
    None
}

/// The kernel's stand-in for a kill: what is in the image now, before the unmount completes it.
fn copy_behind(mounted: Mounted, image: &Path, copy: &Path) {
    let arguments = ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()];
    butterfs_testkit::command::run_program("cp", &arguments).ok();
    mounted.unmount();
}

/// Writes, renames and removes; what fsync or syncfs confirmed is put down as promised. Ends at the first error,
/// which is the daemon's death.
fn write_until(mnt: &Path, round: usize, writer: usize, stop: &AtomicBool, promised: &Mutex<Promised>) {
    let mut random = Random::new((round * 10 + writer) as u64);
    let dir = mnt.join(format!("r{round}w{writer}"));
    let mut step = || -> std::io::Result<()> {
        std::fs::create_dir(&dir)?;
        for batch in 0.. {
            let mut written = Vec::new();
            for number in 0..random.between(1, 30) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let seed = random.bits();
                let length = random.below(if seed.is_multiple_of(10) { 400_000 } else { 12_000 }) as usize;
                let (draft, path) = (dir.join("draft"), dir.join(format!("b{batch}f{number}")));
                let mut file = std::fs::File::create(&draft)?;
                file.write_all(&Random::new(seed).bytes(length))?;
                if batch % 2 == 0 {
                    file.sync_all()?;
                }
                std::fs::rename(&draft, &path)?;
                written.push((path, seed, length));
            }
            let handle = std::fs::File::open(&dir)?;
            match batch % 2 {
                0 => handle.sync_all()?,
                _ => rustix::fs::syncfs(&handle)?,
            }
            let victim = written.pop();
            promised.lock().expect("no panic while held").files.append(&mut written);
            if let Some((path, ..)) = victim {
                std::fs::remove_file(&path)?;
                std::fs::File::open(&dir)?.sync_all()?;
                promised.lock().expect("no panic while held").removed.push(path);
            }
        }
        Ok(())
    };
    if let Err(error) = step() {
        assert!(subject().is_butterfs(), "the kernel does not die: {error}");
    }
}

fn verify(mnt: &Path, promised: &Promised, round: usize) {
    for (path, seed, length) in &promised.files {
        let found = std::fs::read(path).unwrap_or_else(|error| panic!("round {round}: {}: {error}", path.display()));
        assert!(found == Random::new(*seed).bytes(*length), "round {round}: {}: other content", path.display());
    }
    for path in &promised.removed {
        assert!(!path.exists(), "round {round}: {} is back", path.display());
    }
    // What was not promised may be missing, but what is there must be readable.
    for entry in std::fs::read_dir(mnt).expect("the root lists") {
        for file in std::fs::read_dir(entry.expect("an entry").path()).expect("a directory lists") {
            std::fs::read(file.expect("an entry").path()).expect("a file reads");
        }
    }
}

/// Keeps the filesystem from filling up: all but the newest rounds go.
fn prune(mnt: &Path, promised: &mut Promised) {
    let mut dirs: Vec<_> =
        std::fs::read_dir(mnt).expect("the root lists").map(|entry| entry.expect("an entry").path()).collect();
    dirs.sort_by_key(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok());
    for dir in dirs.iter().take(dirs.len().saturating_sub(24)) {
        promised.files.retain(|(path, ..)| !path.starts_with(dir));
        promised.removed.retain(|path| !path.starts_with(dir));
        std::fs::remove_dir_all(dir).expect("deletion");
    }
}
