//! A source tree as an archive: many files of text, of the sizes that such trees have.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use crate::random::Random;

const BLOCK: usize = 512;

/// Writes an archive (ustar) of so many files, the same each time.
pub fn write_archive(path: &Path, files: usize) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let (mut numbers, words) = (Random::new(11), words());
    let mut text = Vec::new();
    for number in 0..files {
        let (top, middle) = (number / 2000, number / 16 % 125);
        if number % 2000 == 0 {
            header(&mut out, &format!("tree/part{top}/"), 0, b'5')?;
        }
        if number % 16 == 0 {
            header(&mut out, &format!("tree/part{top}/module{middle}/"), 0, b'5')?;
        }
        fill(&mut text, length(&mut numbers), &words, &mut numbers);
        header(&mut out, &format!("tree/part{top}/module{middle}/file{number}.c"), text.len(), b'0')?;
        out.write_all(&text)?;
        out.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

/// Most files are of some KiB, a few of a hundred.
fn length(numbers: &mut Random) -> usize {
    let (low, high) = match numbers.below(100) {
        0..10 => (100, 1000),
        10..50 => (1000, 6000),
        50..81 => (6000, 16_000),
        81..96 => (16_000, 48_000),
        _ => (48_000, 120_000),
    };
    numbers.between(low, high) as usize
}

fn words() -> Vec<String> {
    let mut numbers = Random::new(3);
    let letter = |n: u64| char::from(b'a' + n as u8);
    (0..2000).map(|_| (0..numbers.between(2, 11)).map(|_| letter(numbers.below(26))).collect()).collect()
}

fn fill(text: &mut Vec<u8>, len: usize, words: &[String], numbers: &mut Random) {
    text.clear();
    while text.len() < len {
        // Few words are most of a text.
        let limit = numbers.between(1, words.len() as u64);
        let word = &words[numbers.below(limit) as usize];
        text.extend_from_slice(word.as_bytes());
        text.push(if numbers.percent(15) { b'\n' } else { b' ' });
    }
    text.truncate(len);
}

fn header(out: &mut impl Write, name: &str, size: usize, kind: u8) -> Result<()> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, if kind == b'5' { b"0000755" } else { b"0000644" });
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"14000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::run_program;

    #[test]
    fn tar_reads_the_archive() {
        let path = std::env::temp_dir().join(format!("butterfs-archive-{}.tar", std::process::id()));
        write_archive(&path, 40).expect("the archive can be written");
        let listed = run_program("tar", &["-tf".as_ref(), path.as_os_str()]);
        let _ = std::fs::remove_file(&path);
        assert_eq!(listed.ok().stdout.lines().count(), 40 + 3 + 1);
    }
}
