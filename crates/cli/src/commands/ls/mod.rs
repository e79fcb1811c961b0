//! `butterfs ls`: what is in directories of an image.

mod columns;
mod json;
mod long;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use butterfs_engine::Result as EngineResult;
use butterfs_engine::filesystem::Attributes;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;

use super::{Format, OutputFormat};
use crate::failure::{Failure, Result};
use crate::image::path::{self, Last, resolve};
use crate::image::walk::Visited;
use crate::image::{Image, Targets, list};
use crate::names::Shown;
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  butterfs ls disk.img
  butterfs ls -l 'disk.img:/home/*/.config'
  butterfs ls -lR --subvol backups/monday disk.img:home
  butterfs --format json ls disk.img:/etc

Subvolumes and snapshots are directories. Owners are numbers: their names are those of the
system that the image belongs to. Names are in the order of their bytes; on a terminal, what
cannot be printed is escaped. Nothing is written.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, disable_help_flag = true)]
pub struct Arguments {
    #[command(flatten)]
    targets: Targets,
    /// Type and permissions, links, owner, group, size, time of the last change, and where symbolic links lead.
    #[arg(short, long)]
    long: bool,
    /// Show names that begin with a dot, too, and `.` and `..`.
    #[arg(short, long)]
    all: bool,
    /// Show names that begin with a dot, too.
    #[arg(short = 'A', long)]
    almost_all: bool,
    /// Show directories themselves, not what is in them.
    #[arg(short, long)]
    directory: bool,
    /// Show what is in directories below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show the numbers of inodes.
    #[arg(short, long)]
    inode: bool,
    /// Sizes with letters: 4.0K, 12M.
    #[arg(short, long)]
    human_readable: bool,
    /// One name a line, on a terminal, too.
    #[arg(short = '1')]
    one: bool,
    #[command(flatten)]
    output: OutputFormat,
    /// Print help.
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
}

/// Something that is listed.
struct Row {
    /// As it is shown.
    name: Vec<u8>,
    /// Its path in the image.
    path: Vec<u8>,
    id: InodeId,
    attributes: Attributes,
    /// Where a symbolic link leads.
    target: Option<Vec<u8>>,
}

/// Whether names are printed as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Raw,
    Escaped,
}

impl Names {
    fn write(self, out: &mut dyn Write, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw => out.write_all(name),
            Self::Escaped => write!(out, "{}", Shown(name)),
        }
    }
}

/// A listing under way.
struct Listing<'a> {
    arguments: &'a Arguments,
    image: &'a Image,
    names: Names,
    /// Elements of JSON, if that is wanted.
    json: Option<super::json::List>,
    /// Something was printed before.
    begun: bool,
    lost: bool,
}

/// Runs the command; `before` is the format that was given before the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let image = arguments.targets.open()?;
    let names = if io::stdout().is_terminal() { Names::Escaped } else { Names::Raw };
    let mut listing = Listing { arguments, image: &image, names, json: None, begun: false, lost: false };
    let format = arguments.output.or(before);
    output::stream(|out| {
        if format == Format::Json {
            listing.json = Some(super::json::List::begin(out, "ls")?);
        }
        listing.all(out)?;
        listing.json.take().map_or(Ok(()), |list| list.end(out, &[]))
    })
    .map_err(|error| Failure::new(exit::NOT_COPIED, format!("cannot write the output: {error}")))?;
    Ok(ExitCode::from(if listing.lost { exit::NOT_COPIED } else { 0 }))
}

impl Listing<'_> {
    /// What is no directory comes first, together; then each directory.
    fn all(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let arguments = self.arguments;
        // As ls does it: a link to a directory that is named is followed, unless it is itself of interest.
        let last = if arguments.long || arguments.directory { Last::Keep } else { Last::Follow };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for path in &self.image.paths {
            let shown = if path.is_empty() { b"/" } else { path.as_slice() };
            let found = resolve(&self.image.fs, path, last).or_else(|error| match last {
                // A link that leads nowhere is shown itself.
                Last::Follow => resolve(&self.image.fs, path, Last::Keep).map_err(|_| error),
                Last::Keep => Err(error),
            });
            match found.and_then(|id| self.row(id, shown, shown.to_vec())) {
                Ok(row) if row.attributes.file_type == FileType::Directory && !arguments.directory => {
                    directories.push(row);
                }
                Ok(row) => files.push(row),
                Err(error) => self.lose(shown, &error),
            }
        }
        let titled = arguments.recursive || directories.len() > 1 || !files.is_empty();
        if !files.is_empty() {
            self.rows(out, &files)?;
            self.begun = true;
        }
        directories.into_iter().try_for_each(|top| self.directory(out, top, titled.into()))
    }

    fn row(&self, id: InodeId, name: &[u8], path: Vec<u8>) -> EngineResult<Row> {
        let attributes = self.image.fs.attributes(id)?;
        let target = match attributes.file_type {
            FileType::Symlink => Some(self.image.fs.read_link(id)?),
            _ => None,
        };
        Ok(Row { name: name.to_vec(), path, id, attributes, target })
    }

    /// A directory, and with -R those below it, each before those that are in it.
    fn directory(&mut self, out: &mut dyn Write, top: Row, title: Title) -> io::Result<()> {
        let mut visited = Visited::default();
        let mut waiting = vec![(top.id, top.path, 0)];
        while let Some((id, path, depth)) = waiting.pop() {
            let rows = match visited.enter(id, depth).and_then(|()| self.read(id, &path)) {
                Ok(rows) => rows,
                Err(error) => {
                    self.lose(&path, &error);
                    continue;
                }
            };
            if title == Title::Shown && self.json.is_none() {
                out.write_all(if self.begun { b"\n" } else { b"" })?;
                self.names.write(out, &path)?;
                out.write_all(b":\n")?;
            }
            self.begun = true;
            if self.arguments.long && self.json.is_none() {
                writeln!(out, "total {}", long::total(&rows, self.arguments))?;
            }
            self.rows(out, &rows)?;
            if self.arguments.recursive {
                let below = rows.into_iter().rev().filter(|row| {
                    row.attributes.file_type == FileType::Directory && row.name != b"." && row.name != b".."
                });
                waiting.extend(below.map(|row| (row.id, row.path, depth + 1)));
            }
        }
        Ok(())
    }

    /// The rows of a directory; what is wrong with one of them is told of.
    fn read(&mut self, dir: InodeId, at: &[u8]) -> EngineResult<Vec<Row>> {
        let arguments = self.arguments;
        let mut rows = Vec::new();
        if arguments.all {
            rows.push(self.row(dir, b".", path::join(at, b"."))?);
            rows.push(self.row(self.image.fs.parent(dir)?, b"..", path::join(at, b".."))?);
        }
        for entry in list::entries(&self.image.fs, dir)? {
            if entry.name.starts_with(b".") && !arguments.all && !arguments.almost_all {
                continue;
            }
            let path = path::join(at, &entry.name);
            match self.row(entry.id, &entry.name, path.clone()) {
                Ok(row) => rows.push(row),
                Err(error) => self.lose(&path, &error),
            }
        }
        Ok(rows)
    }

    fn rows(&mut self, out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
        if let Some(list) = &mut self.json {
            return rows.iter().try_for_each(|row| list.entry(out, &json::row(row)));
        }
        match self.arguments {
            Arguments { long: true, .. } => long::print(out, rows, self.arguments, self.names),
            Arguments { one: false, .. } if self.names == Names::Escaped => columns::print(out, rows, self.arguments),
            _ => rows.iter().try_for_each(|row| {
                if self.arguments.inode {
                    write!(out, "{} ", row.id.ino)?;
                }
                self.names.write(out, &row.name)?;
                out.write_all(b"\n")
            }),
        }
    }

    fn lose(&mut self, path: &[u8], error: &butterfs_engine::Error) {
        self.image.complain("ls", path, error);
        self.lost = true;
    }
}

/// Whether a directory's path stands above what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Title {
    Shown,
    Left,
}

impl From<bool> for Title {
    fn from(shown: bool) -> Self {
        if shown { Self::Shown } else { Self::Left }
    }
}
