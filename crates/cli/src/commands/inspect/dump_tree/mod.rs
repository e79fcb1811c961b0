//! `inspect-internal dump-tree`: trees, block by block.

mod select;
mod sink;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_format::print::{Names, Options, Show};

use self::select::Dump;
use self::sink::Sink;
use self::walk::Order;
use super::OutputFormat;
use super::image::Image;
use super::report::output_failure;
use crate::commands::Format;
use crate::failure::Result;
use crate::output;
use crate::wall_clock::WALL_CLOCK;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal dump-tree disk.img | less
  butterfs inspect-internal dump-tree -t extent --dfs disk.img
  butterfs inspect-internal dump-tree -b 30408704 --follow disk.img
  butterfs inspect-internal dump-tree --hide-names --format json disk.img

The text is that of btrfs-progs 6.14, but for the first line and what docs/inspect.md says. It holds names of
files: think of that, or use --hide-names, before you give it to others.

What cannot be read, and items that break the rules of their kind, are told of on standard error. The exit
status is 0 if the filesystem could be opened, also when some of its blocks could not be read.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// An image file or a block device; of a filesystem on several devices, all of them.
    #[arg(required = true)]
    devices: Vec<PathBuf>,
    /// Only the extent and device trees, and of these only leaves.
    #[arg(short, long)]
    extents: bool,
    /// Only the root, chunk and device trees.
    #[arg(short, long)]
    device: bool,
    /// Only where the roots of trees are.
    #[arg(short, long)]
    roots: bool,
    /// As --roots, and the backup roots in the superblock.
    #[arg(short = 'R', long)]
    backups: bool,
    /// Only the UUID tree.
    #[arg(short, long)]
    uuid: bool,
    /// Only the block at this logical address; can be given several times.
    #[arg(short, long, value_name = "BYTENR")]
    block: Vec<u64>,
    /// Only this tree: a number, or a name as `fs`, `extent`, `FREE_SPACE_TREE`.
    #[arg(short, long, value_name = "TREE", allow_hyphen_values = true, value_parser = select::tree_id)]
    tree: Option<u64>,
    /// With --block: also all blocks below it.
    #[arg(long)]
    follow: bool,
    /// Do not look for other devices of the filesystem; this is always so.
    #[arg(long)]
    noscan: bool,
    /// Level by level: all nodes before the leaves (default).
    #[arg(long)]
    bfs: bool,
    /// Each node before its children, in the order of keys.
    #[arg(long)]
    dfs: bool,
    /// Print HIDDEN for names of files, subvolumes and extended attributes, and for values of the latter.
    #[arg(long)]
    hide_names: bool,
    /// Print the checksums in block headers.
    #[arg(long)]
    csum_headers: bool,
    /// Print the checksums of data in checksum items.
    #[arg(long)]
    csum_items: bool,
    #[command(flatten)]
    output: OutputFormat,
}

impl Arguments {
    fn order(&self) -> Order {
        if self.dfs && !self.bfs { Order::DepthFirst } else { Order::BreadthFirst }
    }

    fn options(&self, image: &Image) -> Options {
        let show = |asked| if asked { Show::Yes } else { Show::No };
        Options {
            names: if self.hide_names { Names::Hidden } else { Names::Shown },
            header_csums: show(self.csum_headers),
            item_csums: show(self.csum_items),
            local_time: WALL_CLOCK,
            ..Options::of(image.superblock())
        }
    }
}

/// Runs the command. Blocks that cannot be read do not make it fail, as with btrfs-progs.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let image = Image::open(&arguments.devices)?;
    let options = arguments.options(&image);
    let mut problem = None;
    let printed = output::stream(|out| {
        let mut sink = Sink::begin(out, &image, options, arguments.output.or(before))?;
        problem = Dump { arguments, image: &image, sink: &mut sink }.all()?;
        sink.end()
    });
    printed.map_err(|error| output_failure(&error))?;
    match problem {
        Some(problem) => Err(super::report::failure(&arguments.devices[0], problem)),
        None => Ok(ExitCode::SUCCESS),
    }
}
