//! `butterfs restore --list-roots`: the trees of a filesystem, as `btrfs restore -l` lists them, and what subvolumes
//! are called.

use std::process::ExitCode;

use butterfs_format::Logical;
use butterfs_salvage::roots::{self, Root, Roots};
use butterfs_salvage::{Source, Start, Trust, shown};
use serde_json::{Value, json};

use crate::commands::Format;
use crate::failure::Result;
use crate::{exit, output};

/// Lists the trees.
pub fn roots(source: &Source, at: Option<Logical>, format: Format) -> Result<ExitCode> {
    let roots = roots::find(source, at).map_err(|error| crate::failure::Failure::new(exit::USAGE, error))?;
    match format {
        Format::Text => roots.trees.values().for_each(|root| output::line(line(root, &roots))),
        Format::Json => output::line(Value::Array(roots.trees.values().map(|root| data(root, &roots)).collect())),
    }
    Ok(ExitCode::SUCCESS)
}

fn line(root: &Root, roots: &Roots) -> String {
    let Start { name: (at, _), level } = root.start;
    let name = roots.hooks.get(&root.id).map(|(_, _, name)| format!(" {}", shown(name)));
    format!(" tree key {} {at} level {level}{}", root.key, name.unwrap_or_default())
}

fn data(root: &Root, roots: &Roots) -> Value {
    let Start { name: (at, generation), level } = root.start;
    let hook = roots.hooks.get(&root.id);
    json!({
        "tree": root.id.0,
        "bytenr": at.0,
        "generation": generation.0,
        "level": level,
        "snapshot": root.is_snapshot(),
        "parent": hook.map(|(parent, ..)| parent.0),
        "name": hook.map(|(_, _, name)| String::from_utf8_lossy(name)),
        "guessed": root.trust == Trust::Older,
    })
}
