//! A table: columns as wide as what is in them.

use std::io::{self, Write};

/// A cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// At the left edge.
    Left(String),
    /// At the right edge.
    Right(String),
    /// A line across.
    Rule,
}

impl Cell {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Left(String::new())
    }

    fn width(&self) -> usize {
        match self {
            Self::Left(text) | Self::Right(text) => text.len(),
            Self::Rule => 0,
        }
    }

    fn show(&self, width: usize) -> String {
        match self {
            Self::Left(text) => format!("{text:<width$}"),
            Self::Right(text) => format!("{text:>width$}"),
            Self::Rule => "-".repeat(width),
        }
    }
}

/// Prints rows of equally many cells, with a space between.
pub fn print(out: &mut dyn Write, rows: &[Vec<Cell>]) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or(0)).collect();
    rows.iter().try_for_each(|row| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| cell.show(*width)).collect();
        writeln!(out, "{}", cells.join(" "))
    })
}
