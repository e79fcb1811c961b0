//! `butterfs receive --dump`: the commands of a send stream. Options and text are those of `btrfs receive`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use butterfs_format::print::SendText;
use butterfs_format::send::{Error, Reader};

use crate::failure::{self, Failure, Result};
use crate::wall_clock::WALL_CLOCK;
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  btrfs send snapshot | butterfs receive --dump
  butterfs receive --dump -f stream

The text is that of btrfs receive --dump, of btrfs-progs 6.14. It ends with the first stream in the input. Exit
status: 0 if that is whole, 1 if not. See docs/format/send-stream.md.";

/// What `receive` is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Print what the stream would do, a line for each command.
    #[arg(long)]
    dump: bool,
    /// Read the stream from a file instead of standard input.
    #[arg(short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// End at the command that ends a stream. The text does anyway.
    #[arg(short)]
    end: bool,
    /// End when so many commands were wrong; 0: never.
    #[arg(short = 'E', long, value_name = "NUMBER", default_value_t = 1)]
    max_errors: u64,
    /// Where to receive: not yet.
    #[arg(conflicts_with = "dump")]
    mount: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.dump {
        let text = "receiving into a filesystem is not supported yet, only --dump is; mount the filesystem with the \
                    kernel's driver and use btrfs receive";
        return Err(Failure::new(exit::USAGE, text));
    }
    let Some(path) = &arguments.file else { return dump(io::stdin().lock(), None, arguments.max_errors) };
    let file = File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    dump(file, Some(path), arguments.max_errors)
}

/// How reading a stream ended.
enum End {
    Whole { skipped: u64 },
    Wrong(Error),
    Empty,
}

fn dump(input: impl Read, path: Option<&Path>, max_errors: u64) -> Result<()> {
    let failed = |text: String| match path {
        Some(path) => Failure::at(exit::USAGE, path, text),
        None => Failure::new(exit::USAGE, text),
    };
    let mut end = End::Whole { skipped: 0 };
    let printed = output::stream(|out| {
        end = print(BufReader::new(input), max_errors, out)?;
        Ok(())
    });
    printed.map_err(|error| Failure::new(exit::USAGE, format!("standard output: {error}")))?;
    match end {
        End::Whole { skipped: 0 } => Ok(()),
        End::Whole { skipped } => {
            output::complain("receive", format_args!("{skipped} commands of unknown kinds were skipped"));
            Ok(())
        }
        End::Wrong(error) => Err(failed(format!("failed to dump the send stream: {error}"))),
        End::Empty => Err(failed("failed to dump the send stream: there is not one byte".into())),
    }
}

/// Prints the commands of a stream up to its end, or until as many are wrong as may be.
fn print(input: impl Read, max_errors: u64, out: &mut dyn Write) -> io::Result<End> {
    let mut reader = match Reader::open(input) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Ok(End::Empty),
        Err(error) => return Ok(End::Wrong(error)),
    };
    let (mut text, mut errors, mut last) = (SendText::new(WALL_CLOCK), 0, None);
    loop {
        match reader.read_command() {
            Ok(Some(command)) => writeln!(out, "{}", text.line(&command))?,
            Ok(None) => break,
            Err(error @ Error::Command(_)) if max_errors == 0 || errors + 1 < max_errors => {
                errors += 1;
                // In its place among the lines, where both go to one terminal.
                out.flush()?;
                output::complain("receive", &error);
                last = Some(error);
            }
            Err(error) => return Ok(End::Wrong(error)),
        }
    }
    Ok(last.map_or(End::Whole { skipped: reader.skipped() }, End::Wrong))
}
