//! Carrying out a plan of repair or rescue: where its undo file lies, asking, and steps for programs.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use butterfs_check::superblock_copy;
use butterfs_repair::{Devices, Step};
use serde_json::{Value, json};

use super::place_json;
use crate::commands::Format;
use crate::exit;
use crate::failure::{Failure, Result};

/// Beside the image; for a device in the current directory, since what lies beside it is no disk.
pub fn undo_file_beside(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(".butterfs-undo");
    let is_device = std::fs::metadata(image).is_ok_and(|meta| meta.file_type().is_block_device());
    if is_device { name.into() } else { image.with_file_name(name) }
}

/// Asks on the terminal. Where there is none, an option, `yes`, must say so.
pub fn confirm(image: &Path, undo_file: &Path, format: Format, yes: &str) -> Result<()> {
    let no = |text: &str| Err(Failure::at(exit::FOUND, image, text));
    if !stdin().is_terminal() || format == Format::Json {
        return no(&format!("nobody to ask whether to go on: say {yes}; nothing was written"));
    }
    print!("Carry this out? What is overwritten goes to {} first. [y/N] ", undo_file.display());
    let mut answer = String::new();
    let asked = stdout().flush().and_then(|()| stdin().read_line(&mut answer));
    if asked.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
        return no("not wanted; nothing was written");
    }
    Ok(())
}

/// The UUID of the filesystem on these devices.
pub fn fsid(devices: &Devices) -> [u8; 16] {
    let copies = devices.iter().flat_map(|device| (0..3).filter_map(|copy| superblock_copy(&**device, copy).ok()));
    copies.map(|sb| sb.fsid).next().unwrap_or_default()
}

/// A step for programs.
pub fn step_json(step: &Step) -> Value {
    json!({
        "name": step.name,
        "place": place_json(&step.place),
        "where": step.place.to_string(),
        "action": step.action,
    })
}
