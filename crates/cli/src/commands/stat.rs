//! `butterfs stat`: all that an inode of an image has.

use std::io::{self, Write};
use std::process::ExitCode;

use butterfs_engine::file::{MappedExtent, MappedKind, map};
use butterfs_engine::filesystem::{Attributes, Filesystem};
use butterfs_engine::{Error, Result as EngineResult};
use butterfs_format::items::{FileType, InodeFlags, Timespec};
use serde_json::{Map, Value, json};

use super::{Format, OutputFormat};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::image::describe::{
    allocated, attributes_json, device, is_subvolume, mode_text, time_json, time_text, type_name,
};
use crate::image::path::{Last, resolve};
use crate::image::{Image, Targets};
use crate::names::Shown;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs stat disk.img:/etc/fstab
  butterfs stat --xattr --extents disk.img:home/anna/film
  butterfs --format json stat 'disk.img:/home/*'

Symbolic links are shown themselves, unless -L is given. Nothing is written.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    targets: Targets,
    /// Follow a symbolic link at the end of a path.
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Also show extended attributes.
    #[arg(long, visible_alias = "xattrs")]
    xattr: bool,
    /// Also show where the data is.
    #[arg(long)]
    extents: bool,
    #[command(flatten)]
    output: OutputFormat,
}

/// What is shown of an inode.
struct Found {
    attributes: Attributes,
    target: Option<Vec<u8>>,
    xattrs: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    extents: Option<Vec<MappedExtent>>,
}

/// Runs the command; `before` is the format that was given before the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let image = arguments.targets.open()?;
    let mut lost = false;
    let mut found = image.paths.iter().filter_map(|path| match look(arguments, &image.fs, path) {
        Ok(found) => Some((path, found)),
        Err(error) => {
            image.complain("stat", path, &error);
            lost = true;
            None
        }
    });
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => found.try_for_each(|(path, found)| text(&image, path, &found, out)),
        Format::Json => {
            let mut list = super::json::List::begin(out, "stat")?;
            found.try_for_each(|(path, found)| list.entry(out, &to_json(path, &found)))?;
            list.end(out, &[])
        }
    })
    .map_err(|error| Failure::new(exit::NOT_COPIED, format!("cannot write the output: {error}")))?;
    Ok(ExitCode::from(if lost { exit::NOT_COPIED } else { 0 }))
}

fn look(arguments: &Arguments, fs: &Filesystem, path: &[u8]) -> EngineResult<Found> {
    let id = resolve(fs, path, if arguments.dereference { Last::Follow } else { Last::Keep })?;
    let attributes = fs.attributes(id)?;
    let target = (attributes.file_type == FileType::Symlink).then(|| fs.read_link(id)).transpose()?;
    let xattrs = || -> EngineResult<_> {
        fs.xattrs(id)?.into_iter().map(|name| Ok((name.clone(), fs.xattr(id, &name)?))).collect()
    };
    let xattrs = arguments.xattr.then(xattrs).transpose()?;
    let extents = (arguments.extents && attributes.file_type == FileType::Regular).then(|| extents(fs, &attributes));
    Ok(Found { attributes, target, xattrs, extents: extents.transpose()? })
}

fn extents(fs: &Filesystem, found: &Attributes) -> EngineResult<Vec<MappedExtent>> {
    let sector = u64::from(fs.usage().sectorsize);
    let end = found.item.size.get().checked_next_multiple_of(sector).ok_or(Error::TooLarge)?;
    fs.shared().gate.view(|tx| map(tx, found.id, 0..end))
}

/// The names of flags, as chattr's words where it has one.
fn flag_names(flags: InodeFlags) -> Vec<String> {
    let mut names: Vec<_> = flags.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-")).collect();
    let unknown = (flags - InodeFlags::all()).bits();
    if unknown != 0 {
        names.push(format!("{unknown:#x}"));
    }
    names
}

fn text(image: &Image, path: &[u8], found: &Found, out: &mut dyn Write) -> io::Result<()> {
    let attributes = &found.attributes;
    let item = &attributes.item;
    write!(out, "  File: {}", Shown(if path.is_empty() { b"/" } else { path }))?;
    if let Some(target) = &found.target {
        write!(out, " -> {}", Shown(target))?;
    }
    let subvolume = if is_subvolume(attributes) { " (top of a subvolume)" } else { "" };
    writeln!(out, "\n  Type: {}{subvolume}", type_name(attributes.file_type))?;
    let blocks = allocated(attributes).div_ceil(512);
    writeln!(out, "  Size: {}  Blocks: {blocks} of 512 bytes  Bytes in extents: {}", item.size, item.nbytes)?;
    writeln!(
        out,
        " Inode: {}  Subvolume: {}{}  Links: {}",
        attributes.id.ino,
        attributes.id.tree,
        name_of(image, attributes),
        item.nlink
    )?;
    let mode = item.mode.get();
    writeln!(out, "Access: {:04o} ({})  Owner: {}  Group: {}", mode & 0o7777, mode_text(mode), item.uid, item.gid)?;
    if let Some(device) = device(attributes) {
        writeln!(out, "Device: {}, {}", device.major, device.minor)?;
    }
    writeln!(out, " Flags: {}", none_or(&flag_names(item.flags())))?;
    writeln!(out, "Generation: {}  Transid: {}  Sequence: {}", item.generation, item.transid, item.sequence)?;
    let times = [("Access", item.atime), ("Modify", item.mtime), ("Change", item.ctime), (" Birth", item.otime)];
    times.into_iter().try_for_each(|(name, time)| writeln!(out, "{name}: {}", moment(time)))?;
    for (name, value) in found.xattrs.iter().flatten() {
        writeln!(out, " Xattr: {}=\"{}\"", Shown(name), Shown(value))?;
    }
    found.extents.iter().flatten().try_for_each(|extent| writeln!(out, "Extent: {}", extent_text(extent)))
}

/// The path of the subvolume, if it has one.
fn name_of(image: &Image, found: &Attributes) -> String {
    let info = image.fs.subvolume(found.id.tree).ok();
    info.filter(|info| !info.path.is_empty()).map_or(String::new(), |info| format!(" ({})", Shown(&info.path)))
}

fn none_or(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn moment(time: Timespec) -> String {
    let [date, clock] = time_text(time.seconds());
    format!("{date} {clock}.{:09}", time.nanoseconds())
}

fn kind_name(kind: &MappedKind) -> &'static str {
    match kind {
        MappedKind::Hole => "hole",
        MappedKind::Inline(_) => "inline",
        MappedKind::Prealloc(_) => "prealloc",
        MappedKind::Regular(_) => "regular",
    }
}

fn extent_text(extent: &MappedExtent) -> String {
    let (start, end) = (extent.file_offset, extent.file_offset.saturating_add(extent.len));
    let head = format!("{start}..{end} {}", kind_name(&extent.kind));
    match &extent.kind {
        MappedKind::Hole => head,
        MappedKind::Inline(inline) => {
            format!("{head}, {} bytes stored, compression {}", inline.data.len(), inline.compression)
        }
        MappedKind::Prealloc(data) | MappedKind::Regular(data) => format!(
            "{head}, at {} (of {} bytes, from {} of {}), compression {}, generation {}",
            data.disk_bytenr, data.disk_num_bytes, data.offset, data.ram_bytes, data.compression, data.generation
        ),
    }
}

fn to_json(path: &[u8], found: &Found) -> Value {
    let item = &found.attributes.item;
    let path = if path.is_empty() { b"/" } else { path };
    let mut out = attributes_json("path", path, &found.attributes, found.target.as_deref());
    let fields = [
        ("nbytes", json!(item.nbytes.get())),
        ("blocks", json!(allocated(&found.attributes).div_ceil(512))),
        ("flags", json!(flag_names(item.flags()))),
        ("generation", json!(item.generation.get())),
        ("transid", json!(item.transid.get())),
        ("sequence", json!(item.sequence.get())),
        ("atime", time_json(item.atime)),
        ("ctime", time_json(item.ctime)),
        ("otime", time_json(item.otime)),
    ];
    out.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    if let Some(xattrs) = &found.xattrs {
        out.insert("xattrs".into(), xattrs.iter().map(|(name, value)| xattr_json(name, value)).collect());
    }
    if let Some(extents) = &found.extents {
        out.insert("extents".into(), extents.iter().map(extent_json).collect());
    }
    Value::Object(out)
}

fn xattr_json(name: &[u8], value: &[u8]) -> Value {
    let mut out = Map::new();
    super::json::text(&mut out, "name", name);
    super::json::text(&mut out, "value", value);
    Value::Object(out)
}

fn extent_json(extent: &MappedExtent) -> Value {
    let mut out = Map::new();
    out.insert("offset".into(), extent.file_offset.into());
    out.insert("length".into(), extent.len.into());
    out.insert("kind".into(), kind_name(&extent.kind).into());
    match &extent.kind {
        MappedKind::Hole => {}
        MappedKind::Inline(inline) => {
            out.insert("compression".into(), inline.compression.to_string().into());
            out.insert("stored_bytes".into(), inline.data.len().into());
        }
        MappedKind::Prealloc(data) | MappedKind::Regular(data) => {
            let fields = [
                ("disk_bytenr", data.disk_bytenr),
                ("disk_num_bytes", data.disk_num_bytes),
                ("extent_offset", data.offset),
                ("ram_bytes", data.ram_bytes),
                ("generation", data.generation),
            ];
            out.extend(fields.map(|(name, value)| (name.to_owned(), value.into())));
            out.insert("compression".into(), data.compression.to_string().into());
        }
    }
    Value::Object(out)
}
