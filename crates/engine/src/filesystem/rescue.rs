//! What may be left aside to read a damaged filesystem: the words of `rescue=`, as the kernel has them.

use butterfs_format::validate::Checksum;
use butterfs_volume::BadChunks;

bitflags::bitflags! {
    /// What may be left aside. All of it is for reading only.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rescue: u32 {
        /// If the trees cannot be read, those of an older commit that the superblock keeps are used.
        const USE_BACKUP_ROOT = 1 << 0;
        /// A log tree is not replayed.
        const NO_LOG_REPLAY = 1 << 1;
        /// Trees that are not needed to find files may be unreadable: extents, checksums, block groups.
        const IGNORE_BAD_ROOTS = 1 << 2;
        /// Data is given out though no copy has the right checksum.
        const IGNORE_DATA_CSUMS = 1 << 3;
        /// So are tree blocks, if all else about them is right.
        const IGNORE_META_CSUMS = 1 << 4;
        /// The superblock may say that a conversion was interrupted.
        const IGNORE_SUPER_FLAGS = 1 << 5;
    }
}

/// The words, long and short. As for the kernel, `all` leaves the backup roots out.
const WORDS: [(&str, Rescue); 11] = [
    ("usebackuproot", Rescue::USE_BACKUP_ROOT),
    ("nologreplay", Rescue::NO_LOG_REPLAY),
    ("ignorebadroots", Rescue::IGNORE_BAD_ROOTS),
    ("ibadroots", Rescue::IGNORE_BAD_ROOTS),
    ("ignoredatacsums", Rescue::IGNORE_DATA_CSUMS),
    ("idatacsums", Rescue::IGNORE_DATA_CSUMS),
    ("ignoremetacsums", Rescue::IGNORE_META_CSUMS),
    ("imetacsums", Rescue::IGNORE_META_CSUMS),
    ("ignoresuperflags", Rescue::IGNORE_SUPER_FLAGS),
    ("isuperflags", Rescue::IGNORE_SUPER_FLAGS),
    ("all", Rescue::all().difference(Rescue::USE_BACKUP_ROOT)),
];

impl Rescue {
    /// Reads words separated by colons.
    ///
    /// # Errors
    /// The word that is not known, in a sentence, with those that are.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(':').try_fold(Self::empty(), |sum, word| {
            let known = WORDS.iter().find(|(name, _)| *name == word);
            known.map(|(_, rescue)| sum | *rescue).ok_or_else(|| {
                let allowed = WORDS.map(|(name, _)| name).join(", ");
                format!("unknown word '{word}'; allowed are: {allowed}")
            })
        })
    }

    /// What this means for chunks that cannot be: without them it is read only if roots may be bad, too.
    pub fn bad_chunks(self) -> BadChunks {
        if self.contains(Self::IGNORE_BAD_ROOTS) { BadChunks::LeaveOut } else { BadChunks::Refuse }
    }

    /// What this means for the volume that the filesystem is opened on.
    pub fn block_checksums(self) -> Checksum {
        if self.contains(Self::IGNORE_META_CSUMS) { Checksum::Skip } else { Checksum::Verify }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_add_up() {
        assert_eq!(Rescue::parse("ibadroots:imetacsums"), Ok(Rescue::IGNORE_BAD_ROOTS | Rescue::IGNORE_META_CSUMS));
        let all = Rescue::parse("all:usebackuproot").unwrap();
        assert!(all.is_all() && all.block_checksums() == Checksum::Skip);
        assert!(!Rescue::parse("all").unwrap().contains(Rescue::USE_BACKUP_ROOT));
        assert!(Rescue::parse("all:what").unwrap_err().contains("'what'; allowed are: usebackuproot, "));
        assert!(Rescue::parse("").is_err());
    }
}
