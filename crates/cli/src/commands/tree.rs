//! `butterfs tree`: directories of an image, drawn.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use butterfs_engine::dir::list::Listed;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;
use serde_json::{Map, Value};

use super::{Format, OutputFormat};
use crate::failure::{Failure, Result};
use crate::image::describe::attributes_json;
use crate::image::path::{self, Last, resolve};
use crate::image::walk::{Step, Walk};
use crate::image::{Image, Targets};
use crate::names::Shown;
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  butterfs tree disk.img
  butterfs tree -L 2 -d disk.img:/usr
  butterfs --format json tree disk.img:home

Subvolumes and snapshots are directories. Symbolic links are shown, not followed. Nothing is written.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    targets: Targets,
    /// Go no deeper than this many levels.
    #[arg(short = 'L', long = "level", value_name = "LEVELS", value_parser = clap::value_parser!(u64).range(1..))]
    levels: Option<u64>,
    /// Show names that begin with a dot, too.
    #[arg(short, long)]
    all: bool,
    /// Show directories only.
    #[arg(short, long)]
    directories: bool,
    #[command(flatten)]
    output: OutputFormat,
}

/// How many of each were shown.
#[derive(Debug, Default)]
struct Counts {
    directories: u64,
    files: u64,
    lost: bool,
}

/// Runs the command; `before` is the format that was given before the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let image = arguments.targets.open()?;
    let mut counts = Counts::default();
    let format = arguments.output.or(before);
    output::stream(|out| {
        match format {
            Format::Text => text(arguments, &image, &mut counts, out)?,
            Format::Json => json(arguments, &image, &mut counts, out)?,
        }
        Ok(())
    })
    .map_err(|error| Failure::new(exit::NOT_COPIED, format!("cannot write the output: {error}")))?;
    Ok(ExitCode::from(if counts.lost { exit::NOT_COPIED } else { 0 }))
}

impl Arguments {
    fn wants(&self, entry: &Listed) -> bool {
        (self.all || !entry.name.starts_with(b".")) && (!self.directories || entry.file_type == FileType::Directory)
    }

    fn goes_below(&self, depth: usize) -> bool {
        self.levels.is_none_or(|most| (depth as u64) < most)
    }
}

impl Counts {
    fn add(&mut self, file_type: FileType) {
        match file_type {
            FileType::Directory => self.directories += 1,
            _ => self.files += 1,
        }
    }

    fn lose(&mut self, image: &Image, path: &[u8], error: &butterfs_engine::Error) {
        image.complain("tree", path, error);
        self.lost = true;
    }
}

/// The directory that a path of the command line means.
fn top(image: &Image, path: &[u8], counts: &mut Counts) -> Option<InodeId> {
    match resolve(&image.fs, path, Last::Follow) {
        Ok(id) => Some(id),
        Err(error) => {
            counts.lose(image, path, &error);
            None
        }
    }
}

fn text(arguments: &Arguments, image: &Image, counts: &mut Counts, out: &mut dyn Write) -> io::Result<()> {
    let show = Show { plain: !io::stdout().is_terminal() };
    for path in &image.paths {
        let Some(id) = top(image, path, counts) else { continue };
        show.name(out, if path.is_empty() { b"/" } else { path })?;
        writeln!(out)?;
        draw(arguments, image, (path, id), &show, counts, out)?;
    }
    let plural = |count, one, more| if count == 1 { one } else { more };
    let directories = plural(counts.directories, "directory", "directories");
    write!(out, "\n{} {directories}", counts.directories)?;
    if !arguments.directories {
        write!(out, ", {} {}", counts.files, plural(counts.files, "file", "files"))?;
    }
    writeln!(out)
}

/// How names are printed.
struct Show {
    /// As they are: nobody looks.
    plain: bool,
}

impl Show {
    fn name(&self, out: &mut dyn Write, name: &[u8]) -> io::Result<()> {
        if self.plain { out.write_all(name) } else { write!(out, "{}", Shown(name)) }
    }
}

fn draw(
    arguments: &Arguments,
    image: &Image,
    (path, id): (&[u8], InodeId),
    show: &Show,
    counts: &mut Counts,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut walk = Walk::new(&image.fs, |entry| arguments.wants(entry));
    // The directories that are open, and what is drawn before all that is in them.
    let mut open: Vec<Vec<u8>> = vec![path.to_vec()];
    let mut front: Vec<&str> = Vec::new();
    if let Err(error) = walk.enter(id) {
        counts.lose(image, path, &error);
    }
    while let Some(step) = walk.next() {
        let Step::Entry(visit) = step else {
            open.pop();
            front.pop();
            continue;
        };
        let entry = &visit.entry;
        front.iter().try_for_each(|part| out.write_all(part.as_bytes()))?;
        out.write_all(if visit.is_last { "└── " } else { "├── " }.as_bytes())?;
        show.name(out, &entry.name)?;
        if entry.file_type == FileType::Symlink
            && let Ok(target) = image.fs.read_link(entry.id)
        {
            out.write_all(b" -> ")?;
            show.name(out, &target)?;
        }
        writeln!(out)?;
        counts.add(entry.file_type);
        if entry.file_type == FileType::Directory && arguments.goes_below(visit.depth) {
            let below = path::join(open.last().map_or(b"", Vec::as_slice), &entry.name);
            match walk.enter(entry.id) {
                Ok(()) => {
                    open.push(below);
                    front.push(if visit.is_last { "    " } else { "│   " });
                }
                Err(error) => counts.lose(image, &below, &error),
            }
        }
    }
    Ok(())
}

/// Elements within each other, written as they are met: depth takes memory, size does not.
fn json(arguments: &Arguments, image: &Image, counts: &mut Counts, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{{\n  \"__header\": {{\n    \"version\": \"1\"\n  }},\n  \"tree\": [")?;
    let mut first = true;
    for path in &image.paths {
        let Some(id) = top(image, path, counts) else { continue };
        writeln!(out, "{}", if first { "" } else { "," })?;
        first = false;
        let fields = fields(image, if path.is_empty() { b"/" } else { path }, id, counts);
        nest(arguments, image, (path, id), fields, counts, out)?;
    }
    let report = serde_json::json!({ "directories": counts.directories, "files": counts.files });
    write!(out, "\n  ],\n  \"report\": {report}\n}}\n")
}

fn fields(image: &Image, name: &[u8], id: InodeId, counts: &mut Counts) -> Map<String, Value> {
    let found = image.fs.attributes(id);
    match found {
        Ok(found) => {
            let target = (found.file_type == FileType::Symlink).then(|| image.fs.read_link(id).ok()).flatten();
            attributes_json("name", name, &found, target.as_deref())
        }
        Err(error) => {
            counts.lose(image, name, &error);
            let mut out = Map::new();
            super::json::text(&mut out, "name", name);
            out
        }
    }
}

/// An object without its closing brace, so that `contents` can follow.
fn open_object(out: &mut dyn Write, fields: Map<String, Value>) -> io::Result<()> {
    let text = Value::Object(fields).to_string();
    out.write_all(&text.as_bytes()[..text.len() - 1])
}

fn nest(
    arguments: &Arguments,
    image: &Image,
    (path, id): (&[u8], InodeId),
    fields_of_top: Map<String, Value>,
    counts: &mut Counts,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut walk = Walk::new(&image.fs, |entry| arguments.wants(entry));
    open_object(out, fields_of_top)?;
    match walk.enter(id) {
        Ok(()) => write!(out, ",\"contents\":[")?,
        Err(error) => {
            counts.lose(image, path, &error);
            return write!(out, "}}");
        }
    }
    // For each directory that is open, what comes before its next element.
    let mut commas = vec![""];
    while let Some(step) = walk.next() {
        let Step::Entry(visit) = step else {
            commas.pop();
            write!(out, "]}}")?;
            continue;
        };
        let entry = &visit.entry;
        counts.add(entry.file_type);
        let comma = commas.last_mut().map_or("", |comma| std::mem::replace(comma, ","));
        out.write_all(comma.as_bytes())?;
        open_object(out, fields(image, &entry.name, entry.id, counts))?;
        let goes_in = entry.file_type == FileType::Directory && arguments.goes_below(visit.depth);
        match goes_in.then(|| walk.enter(entry.id)) {
            Some(Ok(())) => {
                commas.push("");
                write!(out, ",\"contents\":[")?;
            }
            Some(Err(error)) => {
                counts.lose(image, &entry.name, &error);
                write!(out, "}}")?;
            }
            None => write!(out, "}}")?,
        }
    }
    Ok(())
}
