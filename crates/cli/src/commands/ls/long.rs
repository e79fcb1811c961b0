//! `ls -l`.

use std::io::{self, Write};

use super::{Arguments, Names, Row};
use crate::image::describe::{allocated, device, human, mode_text, time_text};

/// What all rows take, in KiB as ls has it.
pub fn total(rows: &[Row], arguments: &Arguments) -> String {
    let bytes: u64 = rows.iter().map(|row| allocated(&row.attributes)).fold(0, u64::saturating_add);
    if arguments.human_readable { human(bytes) } else { bytes.div_ceil(1024).to_string() }
}

fn size(row: &Row, arguments: &Arguments) -> String {
    let bytes = row.attributes.item.size.get();
    match device(&row.attributes) {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None if arguments.human_readable => human(bytes),
        None => bytes.to_string(),
    }
}

/// The columns of a row that are text of some width, but for the first and the last.
fn cells(row: &Row, arguments: &Arguments) -> [String; 6] {
    let item = &row.attributes.item;
    let inode = if arguments.inode { row.id.ino.to_string() } else { String::new() };
    let [date, clock] = time_text(item.mtime.seconds());
    let minute = clock.rsplit_once(':').map_or(clock.as_str(), |(minute, _)| minute);
    let (links, uid, gid) = (item.nlink.to_string(), item.uid.to_string(), item.gid.to_string());
    [inode, links, uid, gid, size(row, arguments), format!("{date} {minute}")]
}

/// Prints the rows in columns.
pub fn print(out: &mut dyn Write, rows: &[Row], arguments: &Arguments, names: Names) -> io::Result<()> {
    let cells: Vec<_> = rows.iter().map(|row| cells(row, arguments)).collect();
    let mut widths = [0; 6];
    for row in &cells {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    for (row, cells) in rows.iter().zip(&cells) {
        if arguments.inode {
            write!(out, "{:>1$} ", cells[0], widths[0])?;
        }
        out.write_all(mode_text(row.attributes.item.mode.get()).as_bytes())?;
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            write!(out, " {cell:>width$}")?;
        }
        out.write_all(b" ")?;
        names.write(out, &row.name)?;
        if let Some(target) = &row.target {
            out.write_all(b" -> ")?;
            names.write(out, target)?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}
