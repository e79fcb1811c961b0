//! Damage in compressed extents.

use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::common::{kernel, subject};
use super::content::text;
use super::{kernel_made, options};

/// A damaged compressed extent is an I/O error, never other bytes; its neighbours are fine.
#[test]
fn damage_in_a_compressed_extent_is_told() {
    for kind in ["zlib", "lzo", "zstd"] {
        let Some((work, image, mnt)) = kernel_made("damage", kind, "single") else { return };
        let good = one_file(&image, &mnt, kind);
        damage(&image, 0);
        let mounted = subject().mount(&image, &mnt, "noatime");
        let file = File::open(mounted.join("file")).expect("open");
        let mut bytes = vec![0; 131_072];
        let error = file.read_exact_at(&mut bytes[..4096], 131_072 + 5000).expect_err("a damaged extent");
        assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::IO), "{kind}");
        for extent in [0, 2, 3] {
            let start = extent * 131_072;
            file.read_exact_at(&mut bytes, start as u64).expect("a good extent");
            assert!(bytes == good[start..start + 131_072], "{kind}, extent {extent}");
        }
        drop(file);
        mounted.unmount();
        drop(work);
    }
}

/// Of two copies, the good one is read.
#[test]
fn damage_in_one_copy_is_read_around() {
    for (kind, copy) in [("zlib", 0), ("lzo", 1), ("zstd", 0)] {
        let Some((work, image, mnt)) = kernel_made("copies", kind, "dup") else { return };
        let good = one_file(&image, &mnt, kind);
        damage(&image, copy);
        let mounted = subject().mount(&image, &mnt, "noatime");
        assert!(std::fs::read(mounted.join("file")).expect("reads") == good, "{kind}");
        mounted.unmount();
        drop(work);
    }
}

/// A file of four compressed extents; gives its content.
fn one_file(image: &Path, mnt: &Path, kind: &str) -> Vec<u8> {
    let bytes = text(&mut Random::new(23), 4 * 131_072);
    let mounted = kernel().mount(image, mnt, &options(kind));
    std::fs::write(mounted.join("file"), &bytes).expect("write");
    mounted.unmount();
    bytes
}

/// Overwrites some bytes in a copy of the second extent.
fn damage(image: &Path, copy: usize) {
    let dump = oracle::dump_tree(image, "5");
    let mut lines = dump.lines().skip_while(|line| !line.contains("EXTENT_DATA 131072)"));
    let place = lines.find_map(|line| line.split("extent data disk byte ").nth(1)).expect("a second extent");
    let logical: u64 = place.split(' ').next().and_then(|number| number.parse().ok()).expect("an address");
    let chunks = oracle::chunks(image);
    let chunk = chunks.iter().find(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&logical));
    let chunk = chunk.expect("the extent is in a chunk");
    oracle::wipe(image, chunk.physical[copy] + (logical - chunk.logical) + 1000, 16);
}
