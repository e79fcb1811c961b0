//! What a user chose of how space is given out and given back.

/// How the space of a filesystem is managed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceRules {
    /// For every so many data block groups there is one for metadata at least (`metadata_ratio=`); 0: no matter.
    pub metadata_ratio: u32,
    /// When the devices are told what is not needed any more.
    pub discard: DiscardRule,
}

/// When the devices are told what is not needed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscardRule {
    /// When somebody asks (`nodiscard`).
    #[default]
    Never,
    /// In the commit that frees it, once that is durable (`discard=sync`).
    Sync,
    /// Later, a bounded number of ranges at a time (`discard=async`).
    Async,
}
