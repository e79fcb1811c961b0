//! The words of the mount option `discard`.

use butterfs_engine::tx::DiscardRule;

/// Reads one; `discard` alone is `discard=sync`, as in the kernel.
pub fn parse(word: &str) -> Option<DiscardRule> {
    match word {
        "discard" | "discard=sync" => Some(DiscardRule::Sync),
        "discard=async" => Some(DiscardRule::Async),
        "nodiscard" => Some(DiscardRule::Never),
        _ => None,
    }
}
