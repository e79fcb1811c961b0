//! What holds for new files of a whole subvolume, whatever directory they are made in.
//!
//! It is an attribute of the subvolume's top directory, words with commas between them:
//! `compression=zstd:3`, or `nodatasum`, or `nodatacow`. See `docs/decisions/0015-properties-of-subvolumes.md`.
//!
//! # Invariants
//! * Compression goes with neither of the others.

use std::fmt;

use butterfs_format::compression::Choice;
use butterfs_format::items::InodeFlags;

use crate::error::{Error, Result};
use crate::file::DataRule;

/// The attribute's name.
pub const RULE_ATTRIBUTE: &[u8] = b"user.butterfs.new_files";

/// What a directory says for itself, if any of these is set.
const OWN: InodeFlags = InodeFlags::COMPRESS.union(InodeFlags::NOCOMPRESS).union(InodeFlags::NODATACOW);

/// What holds for new files of a subvolume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubvolumeRule {
    /// A value of the property `btrfs.compression`.
    pub compression: Option<String>,
    /// How data is kept.
    pub data: DataRule,
}

impl SubvolumeRule {
    /// Reads the attribute's value.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no rule.
    pub fn parse(value: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(value).map_err(|_| Error::Invalid("a rule that is not text"))?;
        let mut rule = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                None if word == "nodatasum" => rule.data = DataRule::NoChecksums,
                None if word == "nodatacow" => rule.data = DataRule::InPlace,
                Some(("compression", value)) => rule.compression = Some(value.into()),
                _ => return Err(Error::Invalid("a rule is made of compression=METHOD, nodatasum and nodatacow")),
            }
        }
        rule.check()?;
        Ok(rule)
    }

    fn check(&self) -> Result<()> {
        if self.compression.is_some() && self.choice().is_none() {
            return Err(Error::Invalid("compression is zlib, lzo or zstd, with a level or not, or none"));
        }
        if self.compression.is_some() && self.data != DataRule::Usual {
            return Err(Error::Invalid("what is not copied on write, or has no checksums, is not compressed"));
        }
        Ok(())
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the compression is.
    pub fn choice(&self) -> Option<Choice> {
        self.compression.as_ref().and_then(|value| Choice::of_property(value.as_bytes()))
    }

    /// The flags of a directory that asks for this, as far as the kernel knows of it.
    pub fn dir_flags(&self) -> InodeFlags {
        let compression = match self.choice() {
            Some(Choice::With(_)) => InodeFlags::COMPRESS,
            Some(Choice::Never) => InodeFlags::NOCOMPRESS,
            None => InodeFlags::empty(),
        };
        compression | (self.data.flags() & InodeFlags::NODATACOW)
    }

    /// The flags of a new file that asks for this.
    pub fn file_flags(&self) -> InodeFlags {
        self.dir_flags() | self.data.flags()
    }

    /// The part of the rule that counts in a directory with these flags: none, if it says something for itself.
    pub fn below(&self, dir: InodeFlags) -> Option<&Self> {
        (!self.is_empty() && !dir.intersects(OWN)).then_some(self)
    }
}

impl fmt::Display for SubvolumeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = match self.data {
            DataRule::Usual => None,
            DataRule::NoChecksums => Some("nodatasum".to_owned()),
            DataRule::InPlace => Some("nodatacow".to_owned()),
        };
        let compression = self.compression.as_ref().map(|value| format!("compression={value}"));
        f.write_str(&[compression, data].into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_round_trip_and_others_are_refused() {
        for text in ["", "compression=zstd:3", "compression=none", "nodatasum", "nodatacow"] {
            assert_eq!(SubvolumeRule::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for text in ["compression=gzip", "compression=lzo,nodatacow", "nodatacow=1", "fast", "compression="] {
            assert!(matches!(SubvolumeRule::parse(text.as_bytes()), Err(Error::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn a_directory_that_says_something_itself_has_its_own_way() {
        let rule = SubvolumeRule::parse(b"nodatacow").unwrap();
        assert_eq!(rule.file_flags(), InodeFlags::NODATACOW | InodeFlags::NODATASUM);
        assert_eq!(rule.dir_flags(), InodeFlags::NODATACOW);
        assert!(rule.below(InodeFlags::NODUMP).is_some() && rule.below(InodeFlags::COMPRESS).is_none());
    }
}
