//! How a command fails: an exit status and one line. What lower layers say is completed with what
//! to do about it.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Error, anyhow};
use butterfs_fuse::mount::MountError;
use clap::CommandFactory;

use crate::commands::Cli;
use crate::{exit, output};

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub code: u8,
    /// One line.
    pub error: Error,
}

/// What commands give back.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this text.
    pub fn new(code: u8, text: impl Display) -> Self {
        Self { code, error: anyhow!("{text}") }
    }

    /// A failure that concerns a path; the text names it once.
    pub fn at(code: u8, path: &Path, text: impl Display) -> Self {
        Self::new(code, at(path, &text.to_string()))
    }

    /// The line, without the command's name.
    pub fn line(&self) -> String {
        format!("{:#}", self.error).replace('\n', " ")
    }

    /// Prints the line; gives the exit status.
    pub fn print(&self, command: &str) -> ExitCode {
        output::complain(command, self.line());
        ExitCode::from(self.code)
    }
}

/// The text with the path in front, unless it is there already.
fn at(path: &Path, text: &str) -> String {
    let path = path.display().to_string();
    match text.strip_prefix(&path).and_then(|rest| rest.chars().next()) {
        Some(':' | ' ') => text.into(),
        _ => format!("{path}: {text}"),
    }
}

/// A system error in words, with what to do.
pub fn io_text(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory; check the path",
        io::ErrorKind::PermissionDenied => "permission denied; run as root, or get the right to read and write it",
        io::ErrorKind::IsADirectory => "is a directory, not an image; name an image file or a block device",
        io::ErrorKind::ReadOnlyFilesystem => "lies on a read-only filesystem; use -o ro, or copy it elsewhere",
        io::ErrorKind::StorageFull => "no space left where it is stored; free some",
        _ if error.raw_os_error() == Some(rustix::io::Errno::ROFS.raw_os_error()) => {
            "lies on a read-only filesystem; use -o ro, or copy it elsewhere"
        }
        _ => return error.to_string(),
    };
    advice.into()
}

/// The exit status of a system error: mount(8) tells a few apart, other commands do not.
fn io_code(error: &io::Error, otherwise: u8) -> u8 {
    match error.kind() {
        _ if otherwise != exit::FAILED => otherwise,
        io::ErrorKind::PermissionDenied => exit::USAGE,
        io::ErrorKind::OutOfMemory => exit::SYSTEM,
        _ => otherwise,
    }
}

/// A failure of the system at a path.
pub fn io(code: u8, path: &Path, error: &io::Error) -> Failure {
    Failure::at(io_code(error, code), path, io_text(error))
}

/// A failure of the system at a place that is to be written to.
pub fn destination(code: u8, path: &Path, error: &io::Error) -> Failure {
    Failure::at(io_code(error, code), path, destination_text(error))
}

/// What is wrong with a place that is to be written to, in words, with what to do.
pub fn destination_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "is on a read-only filesystem; name another destination".into(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{error}; free some space, or name another destination")
        }
        _ => io_text(error),
    }
}

/// A failure of the devices.
pub fn volume(code: u8, path: &Path, error: &butterfs_volume::Error) -> Failure {
    use butterfs_volume::Error;
    match error {
        Error::Device { source, .. } => io(code, path, source),
        // One of several.
        Error::NotBtrfs { name, .. } if Path::new(name) != path => {
            Failure::new(code, format!("{error}; leave it out, or name the device that is meant"))
        }
        Error::NotBtrfs { .. } => Failure::at(
            code,
            path,
            format!("{error}; name a Btrfs image, or make one with butterfs mkfs, which erases what is there"),
        ),
        Error::MissingDevices(_) => Failure::at(
            code,
            path,
            format!(
                "{error}; name all its devices, or a directory to look in, or go on without: mount -o degraded (or ro,degraded), \
                 ls --degraded"
            ),
        ),
        Error::Unsupported(text) if text.contains("; ") => Failure::at(code, path, text),
        Error::Unsupported(text) => Failure::at(code, path, format!("{text}; use the kernel's driver for it")),
        Error::Corruption(_) | Error::NoCopy { .. } => {
            Failure::at(code, path, format!("{error}{}", advice(error, "run butterfs check on it")))
        }
        _ => Failure::at(code, path, error),
    }
}

/// Advice, unless the text holds some.
fn advice(text: &impl Display, advice: &str) -> String {
    if text.to_string().contains("; ") { String::new() } else { format!("; {advice}") }
}

/// A failure of the filesystem.
pub fn engine(code: u8, path: &Path, error: &butterfs_engine::Error) -> Failure {
    use butterfs_engine::Error;
    match error {
        Error::Volume(error) => volume(code, path, error),
        Error::Unsupported(text) if text.starts_with("no root tree of generation") => {
            Failure::at(code, path, format!("{text}; butterfs find-root -a lists those that there are"))
        }
        Error::Unsupported(text) => {
            let todo = match text {
                text if text.contains("reading only") => "mount it with -o ro",
                text if text.contains("incompatible features") => {
                    "use the kernel's driver for it, or copy its files out with butterfs restore"
                }
                _ => "use the kernel's driver for it",
            };
            Failure::at(code, path, format!("not supported: {text}; {todo}"))
        }
        Error::Corruption(corruption) if corruption.place.starts_with("log tree") => {
            Failure::at(code, path, format!("{error}; leave the log out with -o ro,norecovery"))
        }
        Error::Corruption(_) => {
            Failure::at(code, path, format!("{error}{}", advice(error, "run butterfs check on it")))
        }
        Error::Invalid(text) => Failure::at(code, path, text),
        _ => Failure::at(code, path, error),
    }
}

/// A failure to mount or to unmount.
pub fn mount(path: &Path, error: &MountError) -> Failure {
    let code = match error {
        MountError::NotPermitted { .. } | MountError::AllowOther => exit::USAGE,
        MountError::NoFuse | MountError::Fuse(_) | MountError::NoFusermount | MountError::Loop { .. } => exit::SYSTEM,
        _ => exit::FAILED,
    };
    let text = match error {
        MountError::Fuse(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            "cannot open /dev/fuse: permission denied; run as root, or give the user access to /dev/fuse".into()
        }
        MountError::Fusermount { message, .. } => format!("{message}; see fusermount3(1)"),
        other => other.to_string(),
    };
    Failure::at(code, path, text)
}

/// Prints what clap says of the command line in one line (help in full); gives the exit status.
pub fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(exit::USAGE);
    }
    let is_command = |name: &str| Cli::command().find_subcommand(name).is_some();
    let command = arguments.get(1).and_then(|name| name.to_str()).filter(|name| is_command(name));
    let text = error.render().to_string();
    let before_usage = text.split("\nUsage:").next().unwrap_or_default().split("\n\n").next();
    let words: Vec<&str> = before_usage.unwrap_or_default().split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line).trim_end_matches('.');
    let name = command.map(|name| format!("butterfs {name}")).unwrap_or("butterfs".into());
    eprintln!("{name}: {line}; see {name} --help");
    ExitCode::from(match command {
        Some("check") => exit::CHECK_USAGE,
        Some("ls" | "cat" | "cp" | "tree" | "stat") => exit::COPY_USAGE,
        _ => exit::USAGE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_once() {
        assert_eq!(at(Path::new("a"), "b"), "a: b");
        assert_eq!(at(Path::new("a"), "a: b"), "a: b");
        assert_eq!(at(Path::new("a"), "a is b"), "a is b");
        assert_eq!(at(Path::new("a"), "ab: c"), "a: ab: c");
    }
}
