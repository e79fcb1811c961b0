//! What a failure to open amounts to for a checker.

use butterfs_volume::Error;

use crate::finding::{Finding, Kind, Place, Severity};

/// The finding that a failure to open amounts to: damage, or `None` if the filesystem is not to blame.
pub fn open_failure(error: &Error) -> Option<Finding> {
    let (kind, problem) = match error {
        Error::Corruption(corruption) => (kind_of(&corruption.place), corruption.to_string()),
        Error::NoCopy { problems, .. } => (kind_of(problems), error.to_string()),
        _ => return None,
    };
    Some(Finding { severity: Severity::Error, kind, place: Place::superblock(), problem })
}

/// What is damaged, by what the volume says of it.
fn kind_of(place: &str) -> Kind {
    match place {
        place if place.contains("CHUNK_ITEM") => Kind::Chunk,
        place if place.contains("DEV_ITEM") => Kind::Device,
        place if place.contains("superblock") => Kind::Superblock,
        place if place.contains("tree block") => Kind::TreeBlock,
        place if place.contains("chunk") => Kind::Chunk,
        _ => Kind::Device,
    }
}
