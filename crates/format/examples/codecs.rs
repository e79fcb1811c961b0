//! How fast each way to compress is, and what it leaves, over chunks as extents have them.
//!
//! `cargo run --release -p butterfs-format --example codecs -- [FILE]...` takes files, or without any
//! makes text, records and noise; names of methods before them (`lzo`, `zstd:3`) leave out all others. What is not worth compressing counts as it is. The best of some runs
//! counts. `lzokay` is that crate's encoder, in the same frames' segments.

use std::time::{Duration, Instant};

use butterfs_format::compression::{Choice, Compressor, MAX_UNCOMPRESSED, Method, Place, decompress, worth_trying};

const SECTOR: u32 = 4096;
const CHUNK: usize = MAX_UNCOMPRESSED as usize;
const MADE: usize = 16 << 20;
const RUNS: usize = 10;
const METHODS: [&str; 9] = ["lzo", "zlib:1", "zlib:3", "zlib:9", "zstd:-15", "zstd:-1", "zstd:1", "zstd:3", "zstd:9"];

fn main() -> std::io::Result<()> {
    let (methods, files): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|word| is_method(word));
    println!("{:<24} {:<10} {:>8} {:>7} {:>10}", "data", "method", "MB/s", "ratio", "back MB/s");
    for file in &files {
        measure(file.rsplit('/').next().unwrap_or(file), &std::fs::read(file)?, &methods);
    }
    if files.is_empty() {
        made().iter().for_each(|(name, bytes)| measure(name, bytes, &methods));
    }
    Ok(())
}

fn is_method(word: &str) -> bool {
    matches!(word.parse(), Ok(Choice::With(_)))
}

/// Measures what is named in `only`, or all where nothing is.
fn measure(name: &str, bytes: &[u8], only: &[String]) {
    let line = |method: &str, time: Duration, left: usize, back: Option<Duration>| {
        let speed = |time: Duration| bytes.len() as f64 / 1e6 / time.as_secs_f64();
        let back = back.map_or(String::new(), |time| format!("{:.0}", speed(time)));
        println!("{name:<24} {method:<10} {:>8.0} {:>7.3} {back:>10}", speed(time), left as f64 / bytes.len() as f64);
    };
    for word in METHODS.into_iter().filter(|word| only.is_empty() || only.iter().any(|method| method == word)) {
        let Ok(Choice::With(method)) = word.parse() else { continue };
        let (time, left, back) = run(method, bytes);
        line(word, time, left, Some(back));
    }
    if !only.is_empty() {
        return;
    }
    let (time, left) = best(|| bytes.chunks(SECTOR as usize).map(lzokay).sum());
    line("lzokay", time, left, None);
    let (time, tried) = best(|| bytes.chunks(CHUNK).filter(|chunk| worth_trying(chunk)).map(<[u8]>::len).sum());
    line("heuristic", time, tried, None);
}

/// The time to compress, what is left, and the time to decompress.
fn run(method: Method, bytes: &[u8]) -> (Duration, usize, Duration) {
    let (mut compressor, mut output) = (Compressor::new(), vec![0; CHUNK]);
    let mut compress =
        |chunk: &[u8], output: &mut [u8]| compressor.compress(method, chunk, Place::Regular, SECTOR, output);
    let (time, left) = best_of_each(bytes, |chunk| compress(chunk, &mut output).unwrap_or(chunk.len()));
    let packed: Vec<(Vec<u8>, usize)> = bytes
        .chunks(CHUNK)
        .filter_map(|chunk| compress(chunk, &mut output).map(|len| (output[..len].to_vec(), chunk.len())))
        .collect();
    let unpack = |(input, len): &(Vec<u8>, usize)| {
        decompress(method.compression(), input, SECTOR, &mut output[..*len]).expect("what was just compressed")
    };
    let mut unpack = unpack;
    let (back, _) = best(|| packed.iter().map(&mut unpack).sum());
    (time, left, back)
}

fn lzokay(sector: &[u8]) -> usize {
    lzokay::compress::compress(sector).map_or(sector.len(), |segment| segment.len())
}

/// The shortest times of some runs over all chunks, each by itself, lest others who use the CPU count; and what they give.
fn best_of_each(bytes: &[u8], mut work: impl FnMut(&[u8]) -> usize) -> (Duration, usize) {
    let mut best = vec![(Duration::MAX, 0); bytes.len().div_ceil(CHUNK)];
    for _ in 0..RUNS {
        for (best, chunk) in best.iter_mut().zip(bytes.chunks(CHUNK)) {
            let start = Instant::now();
            let given = work(chunk);
            *best = (*best).min((start.elapsed(), given));
        }
    }
    best.into_iter().fold((Duration::ZERO, 0), |(time, given), (more, part)| (time + more, given + part))
}

/// The shortest time of some runs, and what they give.
fn best(mut run: impl FnMut() -> usize) -> (Duration, usize) {
    let timed = |_| {
        let start = Instant::now();
        let given = run();
        (start.elapsed(), given)
    };
    (0..RUNS).map(timed).min().expect("there are runs")
}

/// Text, records and noise, the same each time.
fn made() -> [(&'static str, Vec<u8>); 3] {
    let mut state = 1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<Vec<u8>> =
        (0..2000).map(|_| (0..2 + next() % 8).map(|_| b'a' + (next() % 26) as u8).chain([b' ']).collect()).collect();
    // Some words are more frequent than others.
    let mut text = Vec::with_capacity(MADE + 16);
    while text.len() < MADE {
        let rank = (next() % 2000) * (next() % 2000) / 2000;
        text.extend_from_slice(&words[rank as usize]);
    }
    let record = |at: u64, id: u64| [at.to_le_bytes(), (id % 5000).to_le_bytes(), [0xff; 8]].concat();
    let mut records = Vec::with_capacity(MADE + 24);
    (0..MADE as u64 / 24).for_each(|at| records.extend(record(at, next())));
    let noise = (0..MADE / 8).flat_map(|_| next().to_le_bytes()).collect();
    [("text (made)", text), ("records (made)", records), ("noise (made)", noise)]
}
