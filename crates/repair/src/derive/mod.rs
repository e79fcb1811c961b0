//! Everything that follows from the rest, worked out anew where it is wrong.

use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

/// Derives; gives what was wrong and is set right.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(_workspace: &mut Workspace) -> Result<Vec<Step>> {
    Ok(Vec::new())
}
