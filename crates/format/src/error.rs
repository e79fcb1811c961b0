//! The one error of this crate: the disk lies.

/// Bytes that break a rule of the format, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Corruption {
    /// What was being read, with its coordinates, e.g. `tree block 30408704 slot 5 key (256 INODE_ITEM 0)`.
    pub place: String,
    /// The rule that is broken, with the values found.
    pub problem: String,
}

impl Corruption {
    /// A corruption at `place`: `problem` says which rule is broken.
    pub fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Corruption>;
