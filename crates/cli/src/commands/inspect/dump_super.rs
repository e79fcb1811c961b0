//! `inspect-internal dump-super`: superblocks, as they are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_format::Superblock;
use butterfs_format::print::{Show, SuperblockText, system_chunks};
use butterfs_format::superblock::{MAGIC, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};

use super::report::{output_failure, warn};
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::failure::{Failure, Result, io_text};
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal dump-super disk.img
  butterfs inspect-internal dump-super -f -a --format json /dev/sdb

Nothing is checked: a superblock is printed as it is. A copy that the device is too short for is left out.
The exit status is 1 if there is no superblock, or it cannot be read.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Image files or block devices; each is taken for itself.
    #[arg(required = true)]
    devices: Vec<PathBuf>,
    /// Print the system chunks and the backup roots too.
    #[arg(short, long)]
    full: bool,
    /// Print all copies that the device has room for.
    #[arg(short, long, conflicts_with_all = ["copy", "bytenr"])]
    all: bool,
    /// Print this copy: 0 (at 64 KiB), 1 (at 64 MiB) or 2 (at 256 GiB).
    #[arg(short = 's', long = "super", short_alias = 'i', value_name = "COPY", conflicts_with = "bytenr")]
    copy: Option<u64>,
    /// Print what has no magic too.
    #[arg(short = 'F', long)]
    force: bool,
    /// Print what is at this offset, in bytes.
    #[arg(long, value_name = "OFFSET")]
    bytenr: Option<u64>,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let offsets = offsets(arguments);
    let mut failed = Ok(());
    let printed = output::stream(|out| {
        let mut printer = Printer::begin(out, arguments, arguments.output.or(before))?;
        for device in &arguments.devices {
            failed = printer.device(device, &offsets)?;
            if failed.is_err() {
                break;
            }
        }
        printer.end()
    });
    printed.map_err(|error| output_failure(&error))?;
    failed.map(|()| ExitCode::SUCCESS)
}

/// A number that is no copy's is an offset, as it was in old versions of btrfs-progs.
fn offsets(arguments: &Arguments) -> Vec<u64> {
    if arguments.all {
        return SUPERBLOCK_OFFSETS.to_vec();
    }
    let copy = arguments.copy.unwrap_or(0);
    let offset = usize::try_from(copy).ok().and_then(|copy| SUPERBLOCK_OFFSETS.get(copy));
    if offset.is_none() {
        warn(format_args!("{copy} is no copy's number; taken as --bytenr {copy}"));
    }
    vec![arguments.bytenr.unwrap_or(offset.copied().unwrap_or(copy))]
}

struct Printer<'a> {
    out: &'a mut dyn Write,
    arguments: &'a Arguments,
    list: Option<json::List>,
}

impl<'a> Printer<'a> {
    fn begin(out: &'a mut dyn Write, arguments: &'a Arguments, format: Format) -> io::Result<Self> {
        let list = match format {
            Format::Json => Some(json::List::begin(out, "inspect-dump-super")?),
            Format::Text => None,
        };
        Ok(Self { out, arguments, list })
    }

    fn end(self) -> io::Result<()> {
        self.list.map_or(Ok(()), |list| list.end(self.out, &[]))
    }

    /// Prints the superblocks of a device; gives why there are no more.
    fn device(&mut self, path: &Path, offsets: &[u64]) -> io::Result<Result<()>> {
        let mut file = match open(path) {
            Ok(file) => file,
            Err(failure) => return Ok(Err(failure)),
        };
        for offset in offsets {
            match read(&mut file, path, *offset) {
                Ok(None) => {}
                Ok(Some(superblock)) => match self.superblock(path, *offset, &superblock)? {
                    Ok(()) => {}
                    failed => return Ok(failed),
                },
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(()))
    }

    fn superblock(&mut self, path: &Path, offset: u64, superblock: &Superblock) -> io::Result<Result<()>> {
        if self.list.is_none() {
            writeln!(self.out, "superblock: bytenr={offset}, device={}", path.display())?;
            writeln!(self.out, "---------------------------------------------------------")?;
        }
        if superblock.magic != MAGIC && !self.arguments.force {
            let problem = format!("bad magic at {offset}: no superblock (--force prints it anyway)");
            return Ok(Err(Failure::at(exit::USAGE, path, problem)));
        }
        let full = if self.arguments.full { Show::Yes } else { Show::No };
        match &mut self.list {
            Some(list) => list.entry(self.out, &json::superblock(path, offset, superblock, full))?,
            None => writeln!(self.out, "{}", SuperblockText { superblock, full })?,
        }
        if let Some(problem) = system_chunks(superblock).problem.filter(|_| full == Show::Yes) {
            self.out.flush()?;
            warn(format_args!("{}: {problem}", path.display()));
        }
        Ok(Ok(()))
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Failure::at(exit::USAGE, path, io_text(&error)))
}

/// Reads a superblock; none if the device ends before.
fn read(file: &mut File, path: &Path, offset: u64) -> Result<Option<Superblock>> {
    let failure = |problem: String| Failure::at(exit::USAGE, path, problem);
    let mut bytes = Vec::with_capacity(SUPERBLOCK_SIZE);
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.take(SUPERBLOCK_SIZE as u64).read_to_end(&mut bytes))
        .map_err(|error| failure(format!("superblock at {offset}: {}", io_text(&error))))?;
    match bytes.len() {
        0 => Ok(None),
        SUPERBLOCK_SIZE => Ok(Superblock::unchecked(&bytes)),
        len => Err(failure(format!("superblock at {offset}: there are only {len} bytes, want {SUPERBLOCK_SIZE}"))),
    }
}
