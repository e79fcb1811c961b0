//! Why an fsync commits instead of writing the log.

/// A reason, each with a name of its own so that tests see which way was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhyCommit {
    /// It was asked for (`notreelog`).
    Asked,
    /// A chunk was made since the last commit, which does not know it.
    NewChunk,
    /// Too much changed to be remembered, or to be logged cheaply.
    TooMuch,
    /// The subvolume is newer than the last commit.
    NewSubvolume,
    /// The name of a subvolume came or went: replay knows inodes only.
    SubvolumeName,
    /// The inode has no name: what counts is its orphan item.
    NoName,
    /// An older inode without names got one again: replay would leave its orphan item.
    Revived,
    /// A file with preallocated space got or lost a name and was not synced itself: replay would drop the
    /// space past its end.
    Preallocated,
    /// Data was compressed in a way that the superblock of the last commit does not tell of.
    NewFeature,
    /// Extents were moved: the last commit has them elsewhere.
    Moved,
    /// There is no metadata space for the log.
    NoSpace,
    /// Something failed while the log was written.
    Failed,
}
