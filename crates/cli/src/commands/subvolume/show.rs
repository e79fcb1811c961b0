//! `butterfs subvolume show`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_fuse::control::{self, Access, ListedSubvolume};
use serde_json::{Value, json};

use super::{Format, OutputFormat, failed, find, open, time_zone_text, uuid_text};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// The number of the top level.
const TOP: u64 = 5;

/// What `subvolume show` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The subvolume with this number; the path is any in its filesystem.
    #[arg(short, long, value_name = "ID", conflicts_with = "uuid")]
    rootid: Option<u64>,
    /// The subvolume with this UUID; the path is any in its filesystem.
    #[arg(short, long, value_name = "UUID")]
    uuid: Option<uuid::Uuid>,
    #[command(flatten)]
    _units: Units,
    /// The subvolume.
    path: PathBuf,
    #[command(flatten)]
    format: OutputFormat,
}

/// Units of sizes, all of which are those of quota groups, of which there are none yet.
#[derive(Debug, clap::Args)]
struct Units {
    /// Sizes of quota groups in bytes.
    #[arg(short = 'b', long = "raw")]
    _raw: bool,
    /// Sizes in units of 1024.
    #[arg(long = "iec")]
    _iec: bool,
    /// Sizes in units of 1000.
    #[arg(short = 'H', long = "si")]
    _si: bool,
    /// Sizes in KiB.
    #[arg(short = 'k', long = "kbytes")]
    _kbytes: bool,
    /// Sizes in MiB.
    #[arg(short = 'm', long = "mbytes")]
    _mbytes: bool,
    /// Sizes in GiB.
    #[arg(short = 'g', long = "gbytes")]
    _gbytes: bool,
    /// Sizes in TiB.
    #[arg(short = 't', long = "tbytes")]
    _tbytes: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<()> {
    let path = arguments.path.as_path();
    let failed = |error: std::io::Error| failed(path, &error);
    let file = open(path)?;
    let all = control::list_subvolumes(file.as_fd()).map_err(failed)?;
    let found = match (arguments.rootid, arguments.uuid) {
        (Some(id), _) => find(&all, id).ok_or_else(|| missing(arguments, &format!("number {id}")))?,
        (None, Some(uuid)) => {
            let found = all.iter().find(|found| found.uuid == *uuid.as_bytes());
            found.ok_or_else(|| missing(arguments, &format!("UUID {uuid}")))?
        }
        (None, None) => {
            control::subvolume_access(file.as_fd()).map_err(failed)?;
            let id = control::subvolume_id(file.as_fd()).map_err(failed)?;
            find(&all, id).ok_or_else(|| missing(arguments, &format!("number {id}")))?
        }
    };
    let mut snapshots = Vec::new();
    if found.uuid != [0; 16] {
        in_order(&all, TOP, &mut |other| {
            if other.parent_uuid == found.uuid {
                snapshots.push(other.path.display().to_string());
            }
        });
    }
    match arguments.format.or(before) {
        Format::Text => print(found, &snapshots),
        Format::Json => output::line(to_json(found, &snapshots)),
    }
    Ok(())
}

fn missing(arguments: &Arguments, what: &str) -> Failure {
    let text = format!("there is no subvolume with {what}; see butterfs subvolume list");
    Failure::at(exit::USAGE, &arguments.path, text)
}

/// Calls `each` with all subvolumes beneath one, each before those beneath it.
fn in_order(all: &[ListedSubvolume], id: u64, each: &mut dyn FnMut(&ListedSubvolume)) {
    for child in all.iter().filter(|found| found.parent == Some(id)) {
        each(child);
        in_order(all, child.id, each);
    }
}

fn name(found: &ListedSubvolume) -> String {
    match found.path.file_name() {
        Some(name) if found.id != TOP => name.to_string_lossy().into_owned(),
        _ => "<FS_TREE>".into(),
    }
}

fn print(found: &ListedSubvolume, snapshots: &[String]) {
    let path = if found.id == TOP { "/".into() } else { found.path.display().to_string() };
    output::line(path);
    let flags = if found.access == Access::ReadOnly { "readonly" } else { "-" };
    let parent = found.parent.unwrap_or(0).to_string();
    for (title, value) in [
        ("Name: \t\t\t", name(found)),
        ("UUID: \t\t\t", uuid_text(&found.uuid)),
        ("Parent UUID: \t\t", uuid_text(&found.parent_uuid)),
        ("Received UUID: \t\t", uuid_text(&found.received_uuid)),
        ("Creation time: \t\t", time_zone_text(found.created.0)),
        ("Subvolume ID: \t\t", found.id.to_string()),
        ("Generation: \t\t", found.generation.to_string()),
        ("Gen at creation: \t", found.created_in.to_string()),
        ("Parent ID: \t\t", parent.clone()),
        ("Top level ID: \t\t", parent),
        ("Flags: \t\t\t", flags.into()),
        ("Send transid: \t\t", found.sent_in.to_string()),
        ("Send time: \t\t", time_zone_text(found.sent)),
        ("Receive transid: \t", found.received_in.to_string()),
        ("Receive time: \t\t", time_zone_text(found.received)),
    ] {
        output::line(format!("\t{title}{value}"));
    }
    output::line("\tSnapshot(s):");
    snapshots.iter().for_each(|path| output::line(format!("\t\t\t\t{path}")));
    output::line("\tQuota group:\t\tn/a");
}

fn to_json(found: &ListedSubvolume, snapshots: &[String]) -> Value {
    let flags: &[&str] = if found.access == Access::ReadOnly { &["readonly"] } else { &[] };
    let path = if found.id == TOP { "/".into() } else { found.path.display().to_string() };
    json!({
        path: {
            "name": name(found),
            "uuid": uuid_text(&found.uuid),
            "parent_uuid": uuid_text(&found.parent_uuid),
            "received_uuid": uuid_text(&found.received_uuid),
            "otime": time_zone_text(found.created.0),
            "id": found.id,
            "gen": found.generation,
            "cgen": found.created_in,
            "parent": found.parent.unwrap_or(0),
            "top_level": found.parent.unwrap_or(0),
            "flags": flags,
            "stransid": found.sent_in,
            "stime": time_zone_text(found.sent),
            "rtransid": found.received_in,
            "rtime": time_zone_text(found.received),
            "snapshots": snapshots,
        }
    })
}
