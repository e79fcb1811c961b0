//! `inspect-internal fiemap`: where the bytes of files on a mount are, as `filefrag -v` shows it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_fuse::control::{self, FileMap, MapFlag, MappedRange};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::report::{output_failure, warn};
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::exit;
use crate::failure::{self, Failure, Result};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal fiemap /mnt/disk.qcow2
  butterfs --format json inspect-internal fiemap /mnt/disk.qcow2

What is in memory is written back first. Addresses are logical ones, in blocks; `stat --extents` shows the
items of files in an image that is not mounted.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Files on a filesystem that butterfs has mounted.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command: all files, even if one fails.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let mut maps = Vec::new();
    for path in &arguments.files {
        match map(path) {
            Ok(map) => maps.push((path, map)),
            Err(failure) => warn(failure.line()),
        }
    }
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => maps.iter().try_for_each(|(path, map)| print(out, path, map)),
        Format::Json => {
            let entries: Vec<_> = maps.iter().map(|(path, map)| entry(path, map)).collect();
            json::list(out, "inspect-fiemap", &entries)
        }
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::from(if maps.len() == arguments.files.len() { 0 } else { exit::USAGE }))
}

fn map(path: &Path) -> Result<FileMap> {
    let failed = |error: io::Error| failure::io(exit::USAGE, path, &error);
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::at(exit::USAGE, path, "not a regular file; only those have extents"));
    }
    control::file_map(file.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Failure::at(
            exit::USAGE,
            path,
            "not on a filesystem mounted by butterfs; use filefrag -v on others, and stat --extents on images",
        ),
        _ => failed(error),
    })
}

fn print(out: &mut dyn Write, path: &Path, map: &FileMap) -> io::Result<()> {
    let block = map.block_size;
    let blocks = map.size.div_ceil(block);
    let plural = if blocks == 1 { "" } else { "s" };
    let path = path.display();
    writeln!(out, "File size of {path} is {} ({blocks} block{plural} of {block} bytes)", map.size)?;
    if !map.ranges.is_empty() {
        writeln!(out, " ext:     logical_offset:        physical_offset: length:   expected: flags:")?;
    }
    let mut fragments = 0;
    let mut last: Option<&MappedRange> = None;
    for (number, range) in map.ranges.iter().enumerate() {
        let expected = last.and_then(|last| jump(last, range));
        fragments += u64::from(last.is_none() || expected.is_some());
        print_range(out, number, range, expected, map)?;
        last = Some(range);
    }
    writeln!(out, "{path}: {fragments} extent{} found", if fragments == 1 { "" } else { "s" })
}

/// Where a range was expected, if it lies neither there nor right behind the one before it.
fn jump(last: &MappedRange, range: &MappedRange) -> Option<u64> {
    let behind = last.physical.wrapping_add(last.len);
    let expected = behind.wrapping_add(range.offset).wrapping_sub(last.offset.wrapping_add(last.len));
    (range.physical != expected && range.physical != behind).then_some(expected)
}

fn print_range(
    out: &mut dyn Write,
    number: usize,
    range: &MappedRange,
    expected: Option<u64>,
    map: &FileMap,
) -> io::Result<()> {
    // What is in the tree is told in bytes.
    let unit = if range.has(MapFlag::Inline) { 1 } else { map.block_size };
    let [first, physical, len] = [range.offset, range.physical, range.len].map(|bytes| bytes / unit);
    let expected = expected.map_or(" ".repeat(12), |at| format!("{:10}: ", at / unit));
    let last = |first: u64| (first + len).saturating_sub(1);
    let mut flags = names(range);
    if range.offset.saturating_add(range.len) >= map.size {
        flags.push("eof");
    }
    writeln!(
        out,
        "{number:4}: {first:8}..{:8}: {physical:10}..{:10}: {len:6}: {expected}{}",
        last(first),
        last(physical),
        flags.join(",")
    )
}

fn names(range: &MappedRange) -> Vec<&'static str> {
    let names = [
        (MapFlag::Last, "last"),
        (MapFlag::Encoded, "encoded"),
        (MapFlag::NotAligned, "not_aligned"),
        (MapFlag::Inline, "inline"),
        (MapFlag::Unwritten, "unwritten"),
        (MapFlag::Shared, "shared"),
    ];
    names.into_iter().filter(|(flag, _)| range.has(*flag)).map(|(_, name)| name).collect()
}

fn entry(path: &Path, map: &FileMap) -> Value {
    let range = |range: &MappedRange| {
        json!({
            "offset": range.offset, "physical": range.physical, "length": range.len, "flags": names(range),
        })
    };
    let mut out = serde_json::Map::new();
    json::text(&mut out, "path", path.as_os_str().as_encoded_bytes());
    out.insert("size".into(), map.size.into());
    out.insert("extents".into(), map.ranges.iter().map(range).collect());
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, physical: u64, flags: u32) -> MappedRange {
        MappedRange { offset, physical, len: 8192, flags }
    }

    #[test]
    fn lines_are_those_of_filefrag() {
        let ranges = vec![range(0, 1 << 20, 0), range(8192, 5 << 20, 0x2000), range(16_384, (5 << 20) + 8192, 1)];
        let map = FileMap { size: 20_000, block_size: 4096, ranges };
        let mut out = Vec::new();
        print(&mut out, Path::new("f"), &map).unwrap();
        let expected = "\
File size of f is 20000 (5 blocks of 4096 bytes)
 ext:     logical_offset:        physical_offset: length:   expected: flags:
   0:        0..       1:        256..       257:      2:             
   1:        2..       3:       1280..      1281:      2:        258: shared
   2:        4..       5:       1282..      1283:      2:             last,eof
f: 2 extents found
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
