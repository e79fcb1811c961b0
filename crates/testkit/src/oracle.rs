//! The judges that others wrote: `btrfs check`, `dump-super`, `dump-tree`.

use crate::command::{Finished, run_program};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the superblock's copies are.
pub const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];

/// Panics unless `btrfs check --check-data-csum` calls the unmounted `image` clean, without one word of warning.
#[track_caller]
pub fn assert_clean(image: &Path) {
    let finished = check(image);
    let complaints = complaints(&finished);
    assert!(finished.status.success() && complaints.is_empty(), "not clean: {complaints:#?}\n{finished}");
}

/// Runs `btrfs check --check-data-csum`. It looks at every mount of the machine first, and gives up when one of
/// another test is about to go: then it is asked again.
pub fn check(image: &Path) -> Finished {
    let mut attempts = 50;
    loop {
        let finished = run_program("btrfs", &["check".as_ref(), "--check-data-csum".as_ref(), image.as_os_str()]);
        attempts -= 1;
        if attempts == 0 || !finished.stderr.contains("could not check mount status") {
            return finished;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// The lines of a check that are not its usual progress and totals.
pub fn complaints(finished: &Finished) -> Vec<String> {
    const USUAL: [&str; 14] = [
        "Opening filesystem to check...",
        "Checking filesystem on ",
        "UUID: ",
        "[",
        "found ",
        "total csum bytes: ",
        "total tree bytes: ",
        "total fs tree bytes: ",
        "total extent tree bytes: ",
        "btree space waste bytes: ",
        "file data blocks allocated: ",
        " referenced ",
        "no error found",
        "using free space tree",
    ];
    let lines = finished.stdout.lines().chain(finished.stderr.lines()).filter(|line| !line.trim().is_empty());
    lines
        .filter(|line| {
            let lower = line.to_lowercase();
            !USUAL.iter().any(|usual| line.starts_with(usual))
                || (lower.starts_with("found") && !lower.contains("no error found"))
                || ["warning", "mismatch", "invalid"].iter().any(|word| lower.contains(word))
        })
        .map(str::to_owned)
        .collect()
}

/// The fields of the first superblock, as `dump-super -f` names them.
#[track_caller]
pub fn superblock(image: &Path) -> BTreeMap<String, String> {
    superblock_copy(image, 0).expect("the first superblock is there")
}

/// The fields of the n-th superblock copy; none if it is not a good superblock.
pub fn superblock_copy(image: &Path, copy: usize) -> Option<BTreeMap<String, String>> {
    let number = copy.to_string();
    let dump =
        run_program("btrfs", &["inspect-internal", "dump-super", "-f", "-s", &number, image.to_str().expect("UTF-8")]);
    let fields: BTreeMap<String, String> = dump
        .stdout
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let good = fields.get("csum").is_some_and(|csum| csum.ends_with("[match]"))
        && fields.get("magic").is_some_and(|magic| magic.ends_with("[match]"));
    good.then_some(fields)
}

/// Panics unless every superblock copy that fits into `image` is good, and all are of one generation.
#[track_caller]
pub fn assert_superblocks(image: &Path) {
    let length = std::fs::metadata(image).expect("the image is there").len();
    let generation = superblock(image).remove("generation");
    for (copy, offset) in SUPERBLOCKS.iter().enumerate().filter(|(_, offset)| **offset + 4096 <= length) {
        let fields = superblock_copy(image, copy).unwrap_or_else(|| panic!("no good superblock at {offset}"));
        assert_eq!(fields.get("generation"), generation.as_ref(), "generation of the copy at {offset}");
        assert_eq!(fields.get("bytenr"), Some(&offset.to_string()), "bytenr of the copy at {offset}");
    }
}

/// The text of one tree (`chunk`, `extent`, `free-space`, `block-group`, `dev`, a number...).
#[track_caller]
pub fn dump_tree(image: &Path, tree: &str) -> String {
    let arguments = ["inspect-internal", "dump-tree", "-t", tree, image.to_str().expect("UTF-8")];
    run_program("btrfs", &arguments).ok().stdout
}

/// A chunk and where its copies lie.
#[derive(Clone, Debug, Default)]
pub struct ChunkCopies {
    /// Its logical address.
    pub logical: u64,
    /// Its length.
    pub length: u64,
    /// Its type, as dump-tree prints it: `DATA|single`, `METADATA|DUP`.
    pub kind: String,
    /// The physical offset of each stripe.
    pub physical: Vec<u64>,
}

/// Where the root of a tree is (`EXTENT_TREE`, `FS_TREE`...), as the root tree has it.
#[track_caller]
pub fn root_of(image: &Path, tree: &str) -> u64 {
    let dump = dump_tree(image, "root");
    let mut lines = dump.lines().skip_while(|line| !line.contains(&format!("key ({tree} ROOT_ITEM")));
    let line = lines.find(|line| line.contains("bytenr ")).expect("a root item");
    let word = line.split("bytenr ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    word.parse().expect("a number")
}

/// The physical offsets of all copies of what is at a logical address.
#[track_caller]
pub fn copies_of(image: &Path, logical: u64) -> Vec<u64> {
    let all = chunks(image);
    let chunk = all.iter().find(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&logical));
    let chunk = chunk.expect("the address is in a chunk");
    chunk.physical.iter().map(|physical| physical + logical - chunk.logical).collect()
}

/// All chunks of a filesystem on one device.
#[track_caller]
pub fn chunks(image: &Path) -> Vec<ChunkCopies> {
    parse_chunks(&dump_tree(image, "chunk"))
}

fn parse_chunks(text: &str) -> Vec<ChunkCopies> {
    let mut chunks: Vec<ChunkCopies> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(rest) = line.split("CHUNK_ITEM ").nth(1)
            && line.contains("key (")
        {
            let logical = rest.split(')').next().and_then(|number| number.parse().ok()).expect("a chunk's address");
            chunks.push(ChunkCopies { logical, ..ChunkCopies::default() });
        } else if let Some(chunk) = chunks.last_mut() {
            match words.as_slice() {
                ["length", length, "owner", .., kind] => {
                    chunk.length = length.parse().expect("a length");
                    chunk.kind = (*kind).to_owned();
                }
                ["stripe", _, "devid", _, "offset", offset] => {
                    chunk.physical.push(offset.parse().expect("an offset"));
                }
                _ => {}
            }
        }
    }
    chunks
}

/// Overwrites part of an image with a pattern that is no data of ours.
pub fn wipe(image: &Path, offset: u64, length: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(image).expect("the image opens");
    let block = vec![0x5a_u8; 1 << 20];
    let mut done = 0;
    while done < length {
        let now = (length - done).min(block.len() as u64);
        file.write_all_at(&block[..now as usize], offset + done).expect("the image can be written");
        done += now;
    }
}

/// Sets bits in a 64-bit field of every superblock copy of a crc32c filesystem, and makes the checksums good again.
pub fn set_superblock_bits(image: &Path, field: usize, bits: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(image).expect("the image opens");
    let length = file.metadata().expect("metadata").len();
    for offset in SUPERBLOCKS.into_iter().filter(|offset| offset + 4096 <= length) {
        let mut block = [0_u8; 4096];
        file.read_exact_at(&mut block, offset).expect("a superblock reads");
        let old = u64::from_le_bytes(block[field..field + 8].try_into().expect("eight bytes"));
        block[field..field + 8].copy_from_slice(&(old | bits).to_le_bytes());
        let sum = crc32c(&block[32..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, offset).expect("a superblock writes");
    }
}

/// Bit by bit: the oracle shares no code with what it judges.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}

/// A hash of the whole file: proves that nothing was written to it.
pub fn file_hash(path: &Path) -> u64 {
    crate::tree_compare::hash_file(path).expect("the file is readable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_usual_test_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn chunks_are_read_from_a_dump() {
        let text = "\titem 1 key (FIRST_CHUNK_TREE CHUNK_ITEM 13631488) itemoff 16105 itemsize 80\n\
                    \t\tlength 8388608 owner 2 stripe_len 65536 type DATA|single\n\
                    \t\tio_align 65536 io_width 65536 sector_size 4096\n\
                    \t\tnum_stripes 1 sub_stripes 1\n\
                    \t\t\tstripe 0 devid 1 offset 13631488\n\
                    \t\t\tdev_uuid 00000000-0000-0000-0000-000000000000\n";
        let chunks = parse_chunks(text);
        assert_eq!(chunks.len(), 1);
        assert_eq!((chunks[0].logical, chunks[0].length, chunks[0].physical[0]), (13_631_488, 8_388_608, 13_631_488));
        assert_eq!(chunks[0].kind, "DATA|single");
    }
}
