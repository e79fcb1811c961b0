//! Mends: repairs of what users stored, and of the root items that lead to it. Everything derived is worked out
//! anew afterwards ([`crate::derive`]), so a mend edits its tree and nothing else.

use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

/// Mends what can be mended; gives what was done.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(_workspace: &mut Workspace) -> Result<Vec<Step>> {
    Ok(Vec::new())
}
