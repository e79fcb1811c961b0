//! Clones on a full filesystem.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_engine::Error;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_volume::MemDevice;

use super::bench::{Bench, K, SECTOR, open, pattern};

/// Bytes that count on preallocated space of a file are safe when a clone makes that space shared.
#[test]
fn nothing_promised_to_dirty_bytes_is_shared_away() {
    let device = Arc::new(MemDevice::new(112 << 20));
    mkfs::make(device.clone(), &MakeOptions::new(112 << 20, &SystemEnvironment)).unwrap();
    let bench = Bench { fs: open(&device), device };
    let source = bench.file("source", b"");
    bench.fs.preallocate(source, 0..16 * 1024 * K, SizeMode::Extend).unwrap();
    let dest = bench.file("dest", b"");
    let full = bench.file("full", b"");
    let _no_space = (0..).try_for_each(|part| bench.fs.write(full, part << 16, &[3; 1 << 16]).map(drop));
    bench.fs.sync().unwrap();
    bench.fs.write(source, 0, &pattern(1, 64 * K)).unwrap();
    bench.clone_bytes((source, 512 * K), (dest, 0), 64 * K).unwrap();
    bench.fs.fsync(source).unwrap();
    assert!(bench.bytes(source)[..64 * 1024] == pattern(1, 64 * K));
    // From now on the space is shared, and there is no other.
    assert!(matches!(bench.fs.write(source, 256 * K, &pattern(2, 512 * K)), Err(Error::NoSpace)));
    let bench = bench.judge();
    share_beside_a_writer(&bench, source, dest);
    bench.judge();
}

/// Clones come and go while the source's preallocated space is written to: each write that was not refused arrives.
fn share_beside_a_writer(bench: &Bench, source: InodeId, dest: InodeId) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match bench.clone_bytes((source, 16 * 1024 * K - 64 * K), (dest, 0), 64 * K) {
                    Ok(_) | Err(Error::NoSpace) => {}
                    Err(error) => panic!("{error}"),
                }
                // What was in memory when the space became shared has its own.
                bench.fs.sync().unwrap();
                bench.fs.set_size(dest, 0).unwrap();
                bench.fs.sync().unwrap();
            }
        });
        let (mut arrived, mut refused) = (0, 0);
        for step in 0..3900 {
            let offset = 128 * K + step * SECTOR;
            match bench.fs.write(source, offset, &pattern(step, SECTOR)) {
                Ok(_) => arrived += 1,
                Err(Error::NoSpace) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            let synced = if step % 20 == 0 { bench.fs.fsync(source) } else { Ok(()) };
            if let Err(error) = synced {
                done.store(true, Ordering::Relaxed);
                panic!("step {step}, {arrived} writes arrived, {refused} were refused: {error}");
            }
        }
        done.store(true, Ordering::Relaxed);
        println!("{arrived} writes arrived, {refused} were refused");
    });
}
