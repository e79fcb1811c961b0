//! `butterfs cat`: bytes of files in an image, to standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use butterfs_engine::inode::InodeId;

use crate::failure::{Failure, Result};
use crate::image::path::{Last, resolve};
use crate::image::{Image, Targets};
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  butterfs cat disk.img:/etc/fstab
  butterfs cat 'disk.img:/var/log/*.log' | less
  butterfs cat --subvol backups/monday disk.img:home/anna/letter

Holes are zeros, compressed files are read. Symbolic links are followed within the image.
Nothing is written.";

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    targets: Targets,
}

/// Runs the command. What cannot be read is told of, and the rest is printed.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let image = arguments.targets.open()?;
    let mut lost = false;
    let mut piece = vec![0; PIECE];
    output::stream(|out| {
        for path in &image.paths {
            if let Err(error) = print(&image, path, &mut piece, out)? {
                // In the order in which they happen.
                out.flush()?;
                image.complain("cat", path, &error);
                lost = true;
            }
        }
        Ok(())
    })
    .map_err(|error| Failure::new(exit::NOT_COPIED, format!("cannot write the output: {error}")))?;
    Ok(ExitCode::from(if lost { exit::NOT_COPIED } else { 0 }))
}

/// Prints a file; fails if the output does, and gives an error of the image.
fn print(image: &Image, path: &[u8], piece: &mut [u8], out: &mut dyn Write) -> io::Result<butterfs_engine::Result<()>> {
    let id: InodeId = match resolve(&image.fs, path, Last::Follow) {
        Ok(id) => id,
        Err(error) => return Ok(Err(error)),
    };
    let mut offset = 0;
    loop {
        match image.fs.read(id, offset, piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(count) => {
                out.write_all(&piece[..count])?;
                offset += count as u64;
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}
