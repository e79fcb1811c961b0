//! `butterfs subvolume list`.

use std::cmp::Ordering;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_fuse::control::{self, Access, ListedSubvolume};
use serde_json::{Map, Value, json};

use super::{Format, OutputFormat, failed, open_directory, time_text, uuid_text};
use crate::failure::Result;
use crate::output;

/// The number of the top level.
const TOP: u64 = 5;

/// What `subvolume list` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those whose names are in the subvolume of PATH.
    #[arg(short = 'o')]
    only_below: bool,
    /// Mark the paths of those whose names are not in the subvolume of PATH with `<FS_TREE>`.
    #[arg(short = 'a')]
    all: bool,
    /// Print the number of the subvolume that holds the name.
    #[arg(short = 'p')]
    parent: bool,
    /// Print the transaction that made it.
    #[arg(short = 'c')]
    ogeneration: bool,
    /// Print the transaction that last changed it (always).
    #[arg(short = 'g')]
    _generation: bool,
    /// Print the UUID.
    #[arg(short = 'u')]
    uuid: bool,
    /// Print the UUID of what it is a snapshot of.
    #[arg(short = 'q')]
    parent_uuid: bool,
    /// Print the UUID of what it was received from.
    #[arg(short = 'R')]
    received_uuid: bool,
    /// Only snapshots.
    #[arg(short = 's')]
    snapshots: bool,
    /// Only those that cannot be changed.
    #[arg(short = 'r')]
    read_only: bool,
    /// Those that are deleted and not gone yet.
    #[arg(short = 'd')]
    deleted: bool,
    /// Print a table.
    #[arg(short = 't')]
    table: bool,
    /// Only those last changed in this transaction; +N: in it or later; -N: in it or earlier.
    #[arg(short = 'G', value_name = "[+|-]N", allow_hyphen_values = true)]
    by_generation: Option<Bound>,
    /// The same for the transaction that made them.
    #[arg(short = 'C', value_name = "[+|-]N", allow_hyphen_values = true)]
    by_ogeneration: Option<Bound>,
    /// In this order: gen, ogen, rootid, path, separated by commas; - in front turns one around.
    #[arg(long, value_name = "KEYS", value_delimiter = ',', allow_hyphen_values = true)]
    sort: Vec<SortKey>,
    /// Any path in the mounted filesystem.
    path: PathBuf,
    #[command(flatten)]
    format: OutputFormat,
}

/// Which numbers are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Equal(u64),
    AtLeast(u64),
    AtMost(u64),
}

impl std::str::FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (make, digits): (fn(u64) -> Self, _) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(digits), _) => (Self::AtLeast, digits),
            (_, Some(digits)) => (Self::AtMost, digits),
            _ => (Self::Equal, text),
        };
        digits.parse().map(make).map_err(|_| format!("{text} is not a number, or one with + or - in front"))
    }
}

impl Bound {
    fn holds(self, number: u64) -> bool {
        match self {
            Self::Equal(wanted) => number == wanted,
            Self::AtLeast(least) => number >= least,
            Self::AtMost(most) => number <= most,
        }
    }
}

/// What to order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SortKey {
    field: SortField,
    direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SortField {
    Generation,
    Ogeneration,
    Id,
    Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl std::str::FromStr for SortKey {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let direction = if text.starts_with('-') { Direction::Down } else { Direction::Up };
        let field = match text.trim_start_matches(['+', '-']) {
            "gen" => SortField::Generation,
            "ogen" => SortField::Ogeneration,
            "rootid" => SortField::Id,
            "path" => SortField::Path,
            other => return Err(format!("'{other}' is not one of gen, ogen, rootid, path")),
        };
        Ok(Self { field, direction })
    }
}

impl SortKey {
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let order = match self.field {
            SortField::Generation => a.found.generation.cmp(&b.found.generation),
            SortField::Ogeneration => a.found.created_in.cmp(&b.found.created_in),
            SortField::Id => a.found.id.cmp(&b.found.id),
            SortField::Path => a.path.cmp(&b.path),
        };
        if self.direction == Direction::Down { order.reverse() } else { order }
    }
}

/// A subvolume, and its path as it is shown.
struct Row {
    found: ListedSubvolume,
    path: String,
}

/// A column: its name in text and in JSON, and what is in it.
struct Column {
    name: &'static str,
    key: &'static str,
    value: fn(&Row) -> Value,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<()> {
    let rows = rows(arguments)?;
    let columns = columns(arguments);
    match arguments.format.or(before) {
        Format::Json => print_json(&rows, &columns),
        Format::Text if arguments.table => print_table(&rows, &columns),
        Format::Text => rows.iter().for_each(|row| output::line(line(row, &columns))),
    }
    Ok(())
}

fn rows(arguments: &Arguments) -> Result<Vec<Row>> {
    let path = arguments.path.as_path();
    let file = open_directory(path)?;
    let failed = |error: std::io::Error| failed(path, &error);
    let own = control::subvolume_id(file.as_fd()).map_err(failed)?;
    let all = control::list_subvolumes(file.as_fd()).map_err(failed)?;
    let own_path = all.iter().find(|found| found.id == own).map(|found| found.path.clone()).unwrap_or_default();
    let listed = match arguments.deleted {
        true => control::deleted_subvolumes(file.as_fd()).map_err(failed)?,
        false => all.into_iter().filter(|found| found.id != TOP).collect(),
    };
    let mut rows: Vec<Row> = listed
        .into_iter()
        .filter(|found| wanted(arguments, own, found))
        .map(|found| Row { path: shown_path(arguments, own, &own_path, &found), found })
        .collect();
    rows.sort_by(|a, b| {
        let by_keys = arguments.sort.iter().map(|key| key.compare(a, b)).find(|order| order.is_ne());
        by_keys.unwrap_or_else(|| a.found.id.cmp(&b.found.id))
    });
    Ok(rows)
}

fn wanted(arguments: &Arguments, own: u64, found: &ListedSubvolume) -> bool {
    (!arguments.only_below || found.parent == Some(own))
        && (!arguments.snapshots || found.snapshot_in != 0)
        && (!arguments.read_only || found.access == Access::ReadOnly)
        && arguments.by_generation.is_none_or(|bound| bound.holds(found.generation))
        && arguments.by_ogeneration.is_none_or(|bound| bound.holds(found.created_in))
}

/// Paths begin at the top level; below the subvolume that was asked, there, unless all are asked for.
fn shown_path(arguments: &Arguments, own: u64, own_path: &Path, found: &ListedSubvolume) -> String {
    if arguments.deleted {
        return "DELETED".into();
    }
    let path = found.path.display().to_string();
    match (arguments.all, arguments.only_below) {
        (true, _) if found.parent != Some(own) => format!("<FS_TREE>/{path}"),
        (false, false) => match found.path.strip_prefix(own_path) {
            Ok(below) if !below.as_os_str().is_empty() => below.display().to_string(),
            _ => path,
        },
        _ => path,
    }
}

fn columns(arguments: &Arguments) -> Vec<Column> {
    let column = |name, key, value| Column { name, key, value };
    let number = |shown: bool, column: Column| shown.then_some(column);
    let all = [
        Some(column("ID", "id", |row| json!(row.found.id))),
        Some(column("gen", "gen", |row| json!(row.found.generation))),
        number(arguments.ogeneration || arguments.snapshots, column("cgen", "cgen", |row| json!(row.found.created_in))),
        number(arguments.parent, column("parent", "parent", |row| json!(row.found.parent.unwrap_or(0)))),
        Some(column("top level", "top_level", |row| json!(row.found.parent.unwrap_or(0)))),
        number(arguments.snapshots, column("otime", "otime", |row| json!(time_text(row.found.created.0)))),
        number(
            arguments.parent_uuid,
            column("parent_uuid", "parent_uuid", |row| json!(uuid_text(&row.found.parent_uuid))),
        ),
        number(
            arguments.received_uuid,
            column("received_uuid", "received_uuid", |row| json!(uuid_text(&row.found.received_uuid))),
        ),
        number(arguments.uuid, column("uuid", "uuid", |row| json!(uuid_text(&row.found.uuid)))),
        Some(column("path", "path", |row| json!(row.path))),
    ];
    all.into_iter().flatten().collect()
}

/// A value as text. UUIDs are of one width.
fn text(column: &Column, row: &Row) -> String {
    let text = match (column.value)(row) {
        Value::String(text) => text,
        other => other.to_string(),
    };
    if column.name.ends_with("uuid") { format!("{text:<36}") } else { text }
}

fn line(row: &Row, columns: &[Column]) -> String {
    let words = columns.iter().map(|column| format!("{} {}", column.name, text(column, row)));
    words.collect::<Vec<_>>().join(" ")
}

/// Tabs are where btrfs has them: two behind the number of the top level.
fn print_table(rows: &[Row], columns: &[Column]) {
    let head: String = columns.iter().map(|column| format!("{}\t", column.name)).collect();
    let rule: String = columns.iter().map(|column| format!("{}\t", "-".repeat(column.name.len()))).collect();
    output::line(head);
    output::line(rule);
    for row in rows {
        let cells = columns.iter().map(|column| {
            let behind = match column.name {
                "path" => "",
                "top level" => "\t\t",
                _ => "\t",
            };
            format!("{}{behind}", text(column, row))
        });
        output::line(cells.collect::<String>());
    }
}

fn print_json(rows: &[Row], columns: &[Column]) {
    let object = |row| columns.iter().map(|column| (column.key.to_owned(), (column.value)(row))).collect();
    let all: Vec<Map<String, Value>> = rows.iter().map(object).collect();
    output::line(json!({ "subvolume-list": all }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_keys_are_read() {
        assert_eq!("+7".parse(), Ok(Bound::AtLeast(7)));
        assert!("-7".parse::<Bound>().unwrap().holds(7) && !"-7".parse::<Bound>().unwrap().holds(8));
        assert!("x".parse::<Bound>().is_err());
        let key: SortKey = "-ogen".parse().unwrap();
        assert_eq!((key.field, key.direction), (SortField::Ogeneration, Direction::Down));
        assert!("size".parse::<SortKey>().unwrap_err().contains("rootid"));
    }
}
