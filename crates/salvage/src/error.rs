//! Why nothing at all could be salvaged.

use butterfs_format::Corruption;

/// Why a filesystem cannot be looked at. What is lost of one that can be is no error: see [`crate::Report`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk lies, and there is no way around it.
    #[error("corrupt: {0}")]
    Corruption(#[from] Corruption),
    /// A device failed, or cannot be used.
    #[error(transparent)]
    Volume(#[from] butterfs_volume::Error),
    /// It cannot be known what is needed; the text says what, and what to do.
    #[error("{0}")]
    Unknown(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
