//! The report of a restore, for people and for programs.

use butterfs_format::Key;
use butterfs_salvage::{Loss, LostBlock, Report};
use serde_json::{Map, Value, json};

use super::{Doing, Places};
use crate::output;

/// Prints what was lost, then how much was had.
pub fn text(report: &Report, doing: Doing) {
    report.blocks.iter().for_each(|block| output::line(format!("lost: {block}")));
    report.losses.iter().for_each(output::line);
    if report.more_losses > 0 {
        output::line(format!("and {} losses more", report.more_losses));
    }
    output::line(summary(report, doing));
    for (kind, count) in report.tally() {
        output::line(format!("{count} {}: {}", kind.name(), kind.text()));
    }
    output::line(match (report.stopped, report.is_whole()) {
        (true, _) => "stopped before the end; run it again to go on",
        (false, true) => "nothing that was asked for is lost",
        (false, false) => "SOMETHING IS LOST: see above",
    });
}

fn summary(report: &Report, doing: Doing) -> String {
    let counts = report.counts.named();
    let told = counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}"));
    let told: Vec<_> = told.collect();
    let what = if doing == Doing::Show { "would be restored" } else { "restored" };
    format!("{what}: {}", if told.is_empty() { "nothing".into() } else { told.join(", ") })
}

/// All of it as data.
pub fn json(report: &Report, places: &Places<'_>, doing: Doing) -> Value {
    let counts: Map<String, Value> =
        report.counts.named().into_iter().map(|(name, count)| (name.into(), count.into())).collect();
    json!({
        "image": super::first(places.images).display().to_string(),
        "destination": places.destination.map(|path| path.display().to_string()),
        "dry_run": doing == Doing::Show,
        "whole": report.is_whole(),
        "stopped": report.stopped,
        "counts": counts,
        "losses": report.losses.iter().map(loss).collect::<Vec<_>>(),
        "more_losses": report.more_losses,
        "blocks": report.blocks.iter().map(block).collect::<Vec<_>>(),
        "notes": report.notes,
    })
}

fn loss(loss: &Loss) -> Value {
    json!({
        "kind": loss.kind.name(),
        "tree": loss.tree.0,
        "inode": loss.ino.0,
        "path": String::from_utf8_lossy(&loss.path),
        "path_escaped": std::str::from_utf8(&loss.path).is_err().then(|| loss.path.escape_ascii().to_string()),
        "ranges": loss.ranges.iter().map(|range| json!([range.start, range.end])).collect::<Vec<_>>(),
        "cause": loss.cause,
    })
}

fn block(block: &LostBlock) -> Value {
    let key = |key: Key| json!([key.objectid, key.item_type.0, key.offset]);
    json!({
        "tree": block.tree.0,
        "bytenr": block.name.0.0,
        "generation": block.name.1.0,
        "level": block.level,
        "first_key": key(block.keys.start),
        "end_key": key(block.keys.end),
        "made_up": block.made_up.name(),
        "problem": block.problem,
    })
}
