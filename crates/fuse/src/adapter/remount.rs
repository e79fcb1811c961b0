//! What can be chosen anew for a mount, and who reads the options.

use super::SubvolumeDeletion;
use butterfs_engine::filesystem::{Access, Settings};
use std::sync::Arc;
use std::time::Duration;

/// What can be chosen anew, besides the settings of the filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changeable {
    /// Time between commits (mount option `commit`).
    pub commit_interval: Duration,
    /// Who may delete subvolumes.
    pub subvolume_deletion: SubvolumeDeletion,
    /// The options that the user gave, for [`crate::control::status()`].
    pub shown_options: String,
}

impl Default for Changeable {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(30),
            subvolume_deletion: SubvolumeDeletion::Privileged,
            shown_options: String::new(),
        }
    }
}

/// What the options of a remount come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remounted {
    /// Whether the filesystem can be changed.
    pub access: Access,
    /// Settings of the filesystem.
    pub settings: Settings,
    /// The rest.
    pub changeable: Changeable,
}

type Reader = dyn Fn(&str) -> Result<Remounted, String> + Send + Sync;

/// Reads the options of a remount; without one there is none.
#[derive(Clone, Default)]
pub struct OnRemount(Option<Arc<Reader>>);

impl OnRemount {
    /// Calls `read`, which says what the options come to, or what is wrong with them.
    pub fn new(read: impl Fn(&str) -> Result<Remounted, String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(read)))
    }

    pub(super) fn read(&self, options: &str) -> Result<Remounted, String> {
        match &self.0 {
            Some(read) => read(options),
            None => Err("the options of this mount cannot be changed".into()),
        }
    }
}

impl std::fmt::Debug for OnRemount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "OnRemount(..)" } else { "OnRemount" })
    }
}
