//! Names in columns, for a terminal.

use std::io::{self, Write};

use super::{Arguments, Row};
use crate::names::Shown;

/// Between two columns.
const GAP: usize = 2;
/// Where it is not known how wide the terminal is.
const WIDTH: usize = 80;

/// Prints names, down first, in as many columns as there is room for.
pub fn print(out: &mut dyn Write, rows: &[Row], arguments: &Arguments) -> io::Result<()> {
    let cell = |row: &Row| match arguments.inode {
        true => format!("{} {}", row.id.ino, Shown(&row.name)),
        false => Shown(&row.name).to_string(),
    };
    let cells: Vec<String> = rows.iter().map(cell).collect();
    let width = rustix::termios::tcgetwinsize(io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col).max(1));
    let height = height(&cells, width);
    for line in 0..height {
        let mut missing = 0;
        for column in cells.chunks(height) {
            let Some(cell) = column.get(line) else { continue };
            write!(out, "{:missing$}{cell}", "")?;
            missing = column_width(column) + GAP - cell.chars().count();
        }
        writeln!(out)?;
    }
    Ok(())
}

fn column_width(column: &[String]) -> usize {
    column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)
}

/// The fewest lines that all columns fit in.
fn height(cells: &[String], width: usize) -> usize {
    let fits = |height: &usize| {
        let widths = cells.chunks(*height).map(|column| column_width(column) + GAP);
        widths.sum::<usize>().saturating_sub(GAP) <= width
    };
    // Many names are never in fewer lines than this, and each line that is tried costs a look at all.
    let shortest = cells.iter().map(|cell| cell.chars().count() + GAP).min().unwrap_or(1);
    let least = (cells.len() * shortest / (width + GAP)).max(1);
    (least..cells.len()).find(fits).unwrap_or(cells.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_few_lines_as_fit() {
        let cells = |count: usize| vec!["1234".to_owned(); count];
        assert_eq!(height(&cells(3), 80), 1);
        assert_eq!(height(&cells(3), 16), 1);
        assert_eq!(height(&cells(3), 15), 2);
        assert_eq!(height(&cells(3), 2), 3);
        assert_eq!(height(&[], 80), 0);
    }
}
