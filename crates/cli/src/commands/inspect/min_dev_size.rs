//! `inspect-internal min-dev-size`: how far a device can be shrunk.
//!
//! A shrink moves what lies beyond the new end into holes before it. The sum of all device extents is the
//! least; it grows where a hole that is needed is too small or lies over a superblock, and by the room
//! that moving needs. The rules are btrfs-progs's, so that the number is the same.

use std::collections::VecDeque;
use std::ops::Range;
use std::process::ExitCode;

use butterfs_format::items::{DevExtent, read_exact};
use butterfs_format::superblock::{RESERVED_START, SUPERBLOCK_OFFSETS};
use butterfs_format::{ItemType, Key, TreeId};
use serde_json::json;

use super::image::{Flow, Image};
use super::report::{failure, output_failure};
use super::target::Target;
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::commands::units::Units;
use crate::failure::Result;
use crate::output;

/// Moving may need another system chunk, which has this size at most.
const SYSTEM_CHUNK: u64 = 32 << 20;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal min-dev-size disk.img
  butterfs inspect-internal min-dev-size --id 2 disk1.img disk2.img

An estimate that is on the safe side: what lies beyond the size can be moved before it.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// The device's number.
    #[arg(long = "id", value_name = "DEVID", default_value_t = 1)]
    devid: u64,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, _) = arguments.target.open()?;
    let fail = |problem: String| failure(arguments.target.image(), problem);
    let devid = arguments.devid;
    if !image.volume().dev_items().iter().any(|item| item.devid.get() == devid) {
        return Err(fail(format!("there is no device {devid}")));
    }
    let extents = device_extents(&image, devid).map_err(fail)?;
    let size = least(&extents);
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => writeln!(out, "{size} bytes ({})", Units::AUTO.show(size)),
        Format::Json => json::list(out, "inspect-min-dev-size", &[json!({ "devid": devid, "min_size": size })]),
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::from(u8::from(image.lost() > 0)))
}

/// The allocated ranges of a device, in order.
fn device_extents(image: &Image, devid: u64) -> std::result::Result<Vec<Range<u64>>, String> {
    let tree = image.tree(TreeId::DEV).ok_or("there is no device tree")?;
    let mut extents = Vec::new();
    image.items(&tree, Key::new(devid, ItemType::DEV_EXTENT, 0), &mut |key, data| {
        if key.objectid != devid || key.item_type != ItemType::DEV_EXTENT {
            return Flow::Break(());
        }
        let length = read_exact::<DevExtent>(data).map_or(0, |extent| extent.length.get());
        extents.push(key.offset..key.offset.saturating_add(length));
        Flow::Continue(())
    });
    Ok(extents)
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The least size, in bytes.
fn least(extents: &[Range<u64>]) -> u64 {
    let mut size = extents.iter().fold(RESERVED_START, |sum, extent| sum.saturating_add(length(extent)));
    let between = extents.windows(2).map(|pair| pair[0].end..pair[1].start);
    let mut holes: VecDeque<Range<u64>> = between.filter(|hole| length(hole) > 0).collect();
    let mut scratch = 0;
    for extent in extents.iter().rev() {
        if extent.end <= size.saturating_add(1) {
            break;
        }
        let wanted = length(extent);
        let Some(at) = holes.iter().position(|hole| length(hole) >= wanted) else {
            size = extent.end;
            break;
        };
        let hole = &mut holes[at];
        if SUPERBLOCK_OFFSETS.iter().any(|sb| (hole.start..hole.start + wanted).contains(sb)) {
            size = size.saturating_add(wanted);
        }
        hole.start += wanted;
        if hole.is_empty() {
            holes.remove(at);
        }
        scratch = scratch.max(wanted);
    }
    if scratch == 0 { size } else { size.saturating_add(scratch).saturating_add(SYSTEM_CHUNK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    #[test]
    fn what_lies_behind_moves_into_holes() {
        assert_eq!(least(&[]), M);
        assert_eq!(least(&[M..9 * M, 9 * M..17 * M]), 17 * M, "nothing to gain");
        // The last one fits into the hole: 1 + 8 + 8, room to move it, room for a system chunk.
        assert_eq!(least(&[M..9 * M, 100 * M..108 * M]), 17 * M + 8 * M + 32 * M);
        // The hole is too small.
        assert_eq!(least(&[M..9 * M, 10 * M..18 * M]), 18 * M);
        // A superblock lies where it would go.
        assert_eq!(least(&[M..60 * M, 200 * M..208 * M]), (1 + 59 + 8 + 8 + 8 + 32) * M);
    }
}
