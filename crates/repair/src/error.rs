//! Why a repair ends without a plan, or a plan is not carried out.

use butterfs_format::Corruption;

/// Why a repair failed. Whatever it is, the devices are as they were, unless [`Error::Interrupted`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk lies, and there is no repair for how.
    #[error("corrupt: {0}")]
    Corruption(#[from] Corruption),
    /// A device failed, is missing, or cannot be used.
    #[error(transparent)]
    Volume(butterfs_volume::Error),
    /// An edit of a tree failed.
    #[error(transparent)]
    Engine(butterfs_engine::Error),
    /// A repair that this version cannot do; the text says what and what to do instead.
    #[error("{0}")]
    Refused(String),
    /// The undo file cannot be made, read or trusted.
    #[error("undo file {name}: {problem}")]
    Undo {
        /// Its path.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Writing stopped half-way. The undo file brings everything back.
    #[error("the repair was interrupted ({cause}); undo it with the undo file {undo}")]
    Interrupted {
        /// What stopped it.
        cause: String,
        /// The undo file's path.
        undo: String,
    },
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<butterfs_volume::Error> for Error {
    fn from(error: butterfs_volume::Error) -> Self {
        match error {
            butterfs_volume::Error::Corruption(corruption) => Self::Corruption(corruption),
            other => Self::Volume(other),
        }
    }
}

impl From<butterfs_salvage::Error> for Error {
    fn from(error: butterfs_salvage::Error) -> Self {
        match error {
            butterfs_salvage::Error::Corruption(corruption) => Self::Corruption(corruption),
            butterfs_salvage::Error::Volume(volume) => volume.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<butterfs_engine::Error> for Error {
    fn from(error: butterfs_engine::Error) -> Self {
        match error {
            butterfs_engine::Error::Corruption(corruption) => Self::Corruption(corruption),
            butterfs_engine::Error::Volume(volume) => Self::Volume(volume),
            butterfs_engine::Error::NoSpace => Self::Refused(
                "there is no free metadata space for the repaired blocks, and this version makes no new chunks; \
                 free some space with the kernel if it still mounts, or copy the data off"
                    .into(),
            ),
            other => Self::Engine(other),
        }
    }
}
