//! `inspect-internal list-chunks`: each stripe of each chunk, as a table.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;

use butterfs_format::items::{BlockGroupFlags, BlockGroupItem, read_exact};
use butterfs_format::print::profile_name;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeId};
use serde_json::{Value, json};

use super::image::{Flow, Image};
use super::report::{output_failure, warn};
use super::target::Target;
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::commands::units::Units;
use crate::failure::Result;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal list-chunks disk.img
  butterfs inspect-internal list-chunks --raw --sort usage,length disk.img

A chunk has a line for each stripe: two for a chunk that is kept twice. PNumber and LNumber count the lines of
a device by physical and by logical address.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Sort by these columns, the first first. Without it: by devid and pstart.
    #[arg(long, value_enum, value_delimiter = ',', ignore_case = true, value_name = "COLUMNS")]
    sort: Vec<Column>,
    #[command(flatten)]
    units: Units,
    #[command(flatten)]
    output: OutputFormat,
}

/// What can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Column {
    /// Number of the device.
    Devid,
    /// Address on the device.
    Pstart,
    /// Logical address.
    Lstart,
    /// How full it is; the fullest last.
    Usage,
    /// Length.
    Length,
    /// What it holds.
    Type,
    /// How it is laid over devices.
    Profile,
}

/// A stripe of a chunk.
#[derive(Clone, Debug)]
struct Row {
    devid: u64,
    /// Which of the device's stripes it is, in the order of physical addresses, from 1.
    physical_number: u64,
    flags: BlockGroupFlags,
    physical: u64,
    length: u64,
    /// Which of the device's stripes it is, in the order of logical addresses, from 1.
    logical_number: u64,
    logical: u64,
    used: u64,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, _) = arguments.target.open()?;
    let mut rows = rows(&image);
    number_physical(&mut rows);
    rows.sort_by(|a, b| order(a, b, &arguments.sort));
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => table(out, &rows, arguments.units),
        Format::Json => json::list(out, "inspect-list-chunks", &rows.iter().map(Row::json).collect::<Vec<_>>()),
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::from(u8::from(image.lost() > 0)))
}

/// All stripes, by logical address.
fn rows(image: &Image) -> Vec<Row> {
    let used = used_bytes(image);
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    let mut rows = Vec::new();
    for (logical, chunk) in image.volume().chunks() {
        if !used.contains_key(&logical.0) {
            warn(format_args!("chunk {logical} has no block group"));
        }
        for stripe in &chunk.stripes {
            let number = numbers.entry(stripe.devid.get()).or_default();
            *number += 1;
            rows.push(Row {
                devid: stripe.devid.get(),
                physical_number: 0,
                flags: chunk.flags(),
                physical: stripe.offset.get(),
                length: chunk.length(),
                logical_number: *number,
                logical: logical.0,
                used: used.get(&logical.0).copied().unwrap_or(0),
            });
        }
    }
    rows
}

/// Used bytes of each block group.
fn used_bytes(image: &Image) -> HashMap<u64, u64> {
    let own_tree = image.superblock().compat_ro().contains(CompatRo::BLOCK_GROUP_TREE);
    let id = if own_tree { TreeId::BLOCK_GROUP } else { TreeId::EXTENT };
    let Some(tree) = image.tree(id) else {
        warn("the block groups cannot be read");
        return HashMap::new();
    };
    // In the extent tree, what lies between is not read: from chunk to chunk.
    let starts = image.volume().chunks().into_iter().map(|(logical, _)| logical.0);
    let group = |start: u64| {
        let mut found = None;
        image.items(&tree, Key::new(start, ItemType::BLOCK_GROUP_ITEM, 0), &mut |key, data| {
            if (key.objectid, key.item_type) == (start, ItemType::BLOCK_GROUP_ITEM) {
                found = read_exact::<BlockGroupItem>(data).ok();
            }
            Flow::Break(())
        });
        Some((start, found?.used.get()))
    };
    starts.filter_map(group).collect()
}

fn number_physical(rows: &mut [Row]) {
    rows.sort_by_key(|row| (row.devid, row.physical));
    let (mut devid, mut number) = (0, 0);
    for row in rows {
        number = if row.devid == devid { number + 1 } else { 1 };
        devid = row.devid;
        row.physical_number = number;
    }
}

/// Rows that the columns do not tell apart stay in the order of devices and addresses.
fn order(a: &Row, b: &Row, columns: &[Column]) -> Ordering {
    columns.iter().map(|column| compare(a, b, *column)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn compare(a: &Row, b: &Row, column: Column) -> Ordering {
    match column {
        Column::Devid => a.devid.cmp(&b.devid),
        Column::Pstart => a.physical.cmp(&b.physical),
        Column::Lstart => a.logical.cmp(&b.logical),
        Column::Usage => a.usage().total_cmp(&b.usage()),
        Column::Length => a.length.cmp(&b.length),
        Column::Type => a.flags.kind().bits().cmp(&b.flags.kind().bits()),
        Column::Profile => a.flags.profile().bits().cmp(&b.flags.profile().bits()),
    }
}

impl Row {
    /// Percent, in single precision as btrfs-progs reckons.
    fn usage(&self) -> f32 {
        self.used as f32 / self.length as f32 * 100.0
    }

    fn kind(&self) -> &'static str {
        use BlockGroupFlags as F;
        match self.flags.kind() {
            F::DATA => "Data",
            F::SYSTEM => "System",
            F::METADATA => "Metadata",
            both if both == F::DATA | F::METADATA => "Data+Metadata",
            _ => "unknown",
        }
    }

    fn profile(&self) -> &'static str {
        profile_name(self.flags.bits())
    }

    fn cells(&self, units: Units) -> [String; 9] {
        [
            self.devid.to_string(),
            self.physical_number.to_string(),
            format!("{:>10}/{:<6}", self.kind(), self.profile()),
            units.show(self.physical),
            units.show(self.length),
            units.show(self.physical.wrapping_add(self.length)),
            self.logical_number.to_string(),
            units.show(self.logical),
            format!("{:6.2}", self.usage()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "devid": self.devid,
            "pnumber": self.physical_number,
            "type": self.kind(),
            "profile": self.profile(),
            "pstart": self.physical,
            "length": self.length,
            "lnumber": self.logical_number,
            "lstart": self.logical,
            "used": self.used,
        })
    }
}

const HEAD: [&str; 9] = ["Devid", "PNumber", "Type/profile", "PStart", "Length", "PEnd", "LNumber", "LStart", "Usage%"];

fn table(out: &mut dyn Write, rows: &[Row], units: Units) -> io::Result<()> {
    let cells: Vec<_> = rows.iter().map(|row| row.cells(units)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].len()).chain([HEAD[column].len()]).max();
    let widths: Vec<usize> = (0..HEAD.len()).filter_map(width).collect();
    table_line(out, &HEAD, &widths)?;
    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    table_line(out, &dashes, &widths)?;
    cells.iter().try_for_each(|row| table_line(out, row, &widths))
}

fn table_line(out: &mut dyn Write, cells: &[impl AsRef<str>], widths: &[usize]) -> io::Result<()> {
    let line: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{:>width$}", cell.as_ref())).collect();
    writeln!(out, "{}", line.join(" "))
}
