//! `butterfs cp`: copies out of an image, or into it.

mod options;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use butterfs_engine::filesystem::{Access, Filesystem};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;

use self::options::Options;
use crate::failure::{self, Failure, Result};
use crate::host::Directory;
use crate::image::path::{Last, last_name, parent, resolve};
use crate::image::{Image, Opening, open};
use crate::names::Shown;
use crate::target::split;
use crate::transfer::interrupt::Interrupt;
use crate::transfer::report::{Report, Verbosity};
use crate::transfer::{Settings, into, out};
use crate::{exit, output};

const EXAMPLES: &str = "\
Examples:
  butterfs cp disk.img:/etc/fstab .
  butterfs cp -r 'disk.img:/home/*/Pictures' pictures/
  butterfs cp -a disk.img:/ everything/
  butterfs cp -a --subvol backups/monday disk.img:home/anna /home/
  butterfs cp -a rootfs/. disk.img:/
  butterfs cp kernel.conf disk.img:/etc/kernel.conf

The side with IMAGE: says which way it goes; a colon alone is the image's top. A source that
is the top of an image, or ends in /., is copied into the destination with what is in it, not
as a directory of its name.

Out of an image: nothing is written to it. Names in it cannot lead outside of the destination:
symbolic links that are in the way are replaced, not followed. Set-user-ID bits are kept only
where the owner is, too.

Into an image: it is written through the engine of the mount, and committed every 30 seconds
and at the end. A file is there whole or not at all. Ctrl-C commits what was copied; what it
was at is left out.

Exit status: 0 all was copied, 1 something was not (it is named, and the rest was), 2 wrong
usage, 130 interrupted.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, override_usage = "\
butterfs cp [OPTIONS] <IMAGE:PATH>... <DESTINATION>
       butterfs cp [OPTIONS] <SOURCE>... <IMAGE:PATH>")]
pub struct Arguments {
    /// What is copied, and last where to. One side is IMAGE:PATH: an image file or a block device, not mounted,
    /// and a path in it. In the paths of sources `*`, `?` and `[...]` stand for names in the image (quote them, or the
    /// shell looks at its own files). Of an image whose name has colons, the longest part that exists is taken.
    #[arg(value_name = "PATH", required = true, num_args = 2..)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Name every file.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    opening: Opening,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let usage = |text: &str| Failure::new(exit::COPY_USAGE, format!("{text}; see butterfs cp --help"));
    let Some((destination, sources)) = arguments.paths.split_last() else { return Err(usage("nothing to copy")) };
    let from_image = sources.iter().filter(|source| split(source).is_some()).count();
    let settings = arguments.options.settings();
    let interrupt = Interrupt::listen().map_err(|error| Failure::new(exit::NOT_COPIED, error))?;
    let verbosity = if arguments.verbose { Verbosity::Each } else { Verbosity::Quiet };
    let report = Report::new("cp", verbosity, interrupt.flag());
    let committed = match (split(destination), from_image) {
        (Some(_), 1..) => return Err(usage("both sides are in images; copy out of one first, then into the other")),
        (Some((image, path)), 0) => copy_in(arguments, sources, (image, path), &settings, &report)?,
        (None, count) if count == sources.len() => copy_out(arguments, sources, destination, &settings, &report)?,
        (None, 0) => return Err(usage(&no_image(&arguments.paths))),
        (None, _) => return Err(usage("some sources are in an image, and others are not")),
    };
    let complete = report.finish() && committed;
    if report.is_stopped() {
        output::complain("cp", "interrupted; what was copied before is whole");
        return Ok(ExitCode::from(exit::INTERRUPTED));
    }
    Ok(ExitCode::from(if complete { 0 } else { exit::NOT_COPIED }))
}

/// Perhaps the image is not there, or has no colon.
fn no_image(paths: &[PathBuf]) -> String {
    let colon = paths.iter().find(|path| path.as_os_str().as_bytes().contains(&b':'));
    match colon {
        Some(path) => format!("{}: there is no such image", path.display()),
        None => "neither side is in an image; write IMAGE:PATH, with a colon, for what is in one".into(),
    }
}

fn copy_out(
    arguments: &Arguments,
    sources: &[PathBuf],
    destination: &Path,
    settings: &Settings,
    report: &Report,
) -> Result<bool> {
    let image = open(sources, &arguments.opening)?;
    let sources = host_places(&image, destination)?;
    raise_file_limit();
    out::copy(&image.fs, &image.devices, &sources, settings, report);
    Ok(true)
}

/// Directories within each other, and files that wait, are open at once.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Few need it.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Where each source goes on the host.
fn host_places(image: &Image, destination: &Path) -> Result<Vec<(Vec<u8>, out::Destination)>> {
    let failed = |error: std::io::Error| failure::io(exit::NOT_COPIED, destination, &error);
    if destination.is_dir() {
        let dir = Arc::new(Directory::open(destination).map_err(failed)?);
        let place = |path: &Vec<u8>| match last_name(path) {
            Some(name) => out::Destination::Named(out::Place { dir: Arc::clone(&dir), name: name.to_vec() }),
            None => out::Destination::Into(Arc::clone(&dir)),
        };
        return Ok(image.paths.iter().map(|path| (path.clone(), place(path))).collect());
    }
    let [path] = image.paths.as_slice() else {
        return Err(Failure::at(exit::COPY_USAGE, destination, "is no directory, but there are several sources"));
    };
    refuse_image(image, destination)?;
    let Some(name) = destination.file_name() else {
        return Err(failed(std::io::ErrorKind::NotFound.into()));
    };
    let above = destination.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Directory::open(above).map_err(|error| failure::io(exit::NOT_COPIED, above, &error))?;
    let place = out::Place { dir: Arc::new(dir), name: name.as_bytes().to_vec() };
    Ok(vec![(path.clone(), out::Destination::Named(place))])
}

/// The image must not be replaced by what is in it.
fn refuse_image(image: &Image, destination: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    match (identity(&image.name), identity(destination)) {
        (Ok(a), Ok(b)) if a == b => {
            Err(Failure::at(exit::COPY_USAGE, destination, "is the image itself; write a colon behind it"))
        }
        _ => Ok(()),
    }
}

/// Gives whether the last commit was done.
fn copy_in(
    arguments: &Arguments,
    sources: &[PathBuf],
    (image, path): (&Path, &[u8]),
    settings: &Settings,
    report: &Report,
) -> Result<bool> {
    let fs = arguments.opening.open(image, Access::ReadWrite)?;
    let sources = image_places(&fs, sources, (image, path))?;
    let images = arguments.opening.images(image);
    match into::copy(&fs, &images, &sources, settings, report) {
        Ok(()) => Ok(true),
        Err(error) => {
            let text = format!("the last commit failed, the image is as it was before that: {error}");
            report.finish();
            Err(Failure::at(exit::NOT_COPIED, image, text))
        }
    }
}

/// Where each source goes in the image.
fn image_places(fs: &Filesystem, sources: &[PathBuf], (image, path): (&Path, &[u8])) -> Result<Vec<into::Source>> {
    let failed =
        |error: butterfs_engine::Error| Failure::at(exit::NOT_COPIED, image, format!("{}: {error}", Shown(path)));
    let is_dir = |id: InodeId| fs.attributes(id).is_ok_and(|found| found.file_type == FileType::Directory);
    let dir = match resolve(fs, path, Last::Follow) {
        Ok(id) if is_dir(id) => id,
        Ok(_) | Err(butterfs_engine::Error::NotFound) => return named_place(fs, sources, path, failed),
        Err(error) => return Err(failed(error)),
    };
    let place = |source: &PathBuf| match last_name(source.as_os_str().as_bytes()) {
        Some(name) => into::Destination::Named(dir, name.to_vec()),
        None => into::Destination::Into(dir),
    };
    Ok(sources.iter().map(|source| (source.clone(), place(source))).collect())
}

/// One source gets a name that is new, or that of something that is no directory.
fn named_place(
    fs: &Filesystem,
    sources: &[PathBuf],
    path: &[u8],
    failed: impl Fn(butterfs_engine::Error) -> Failure,
) -> Result<Vec<into::Source>> {
    let [source] = sources else {
        let text = format!("{}: is no directory, but there are several sources", Shown(path));
        return Err(Failure::new(exit::COPY_USAGE, text));
    };
    let Some(name) = last_name(path) else { return Err(failed(butterfs_engine::Error::NotFound)) };
    let above = resolve(fs, parent(path), Last::Follow).map_err(failed)?;
    Ok(vec![(source.clone(), into::Destination::Named(above, name.to_vec()))])
}
