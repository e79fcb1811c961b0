//! What to compress with, in the words of mount options and of the `btrfs.compression` property.
//!
//! A level outside its range is the nearest one in it, and 0 is the default, as for the kernel.

use std::fmt;
use std::str::FromStr;

use crate::items::Compression;

/// An algorithm and its level. The default is what a bare `compress` means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Method {
    /// `zlib`, `zlib:1` to `zlib:9`.
    Zlib(ZlibLevel),
    /// `lzo`, which has no levels.
    Lzo,
    /// `zstd`, `zstd:-15` to `zstd:15`.
    Zstd(ZstdLevel),
}

impl Method {
    /// What file extents say about it.
    pub fn compression(self) -> Compression {
        match self {
            Self::Zlib(_) => Compression::Zlib,
            Self::Lzo => Compression::Lzo,
            Self::Zstd(_) => Compression::Zstd,
        }
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::Zlib(ZlibLevel::DEFAULT)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zlib(level) => write!(f, "zlib:{}", level.number()),
            Self::Lzo => f.write_str("lzo"),
            Self::Zstd(level) => write!(f, "zstd:{}", level.number()),
        }
    }
}

/// A level of zlib: more is smaller and slower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ZlibLevel(u8);

impl ZlibLevel {
    /// What the kernel uses when nobody says otherwise.
    pub const DEFAULT: Self = Self(3);

    /// The nearest level there is; 0 is the default.
    pub fn nearest(level: i32) -> Self {
        if level == 0 { Self::DEFAULT } else { Self(level.clamp(1, 9) as u8) }
    }

    /// The level as zlib counts.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// A level of zstd: more is smaller and slower, and the fastest are below zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ZstdLevel(i8);

impl ZstdLevel {
    /// What the kernel uses when nobody says otherwise.
    pub const DEFAULT: Self = Self(3);

    /// The nearest level there is; 0 is the default.
    pub fn nearest(level: i32) -> Self {
        if level == 0 { Self::DEFAULT } else { Self(level.clamp(-15, 15) as i8) }
    }

    /// The level as zstd counts.
    pub fn number(self) -> i8 {
        self.0
    }
}

/// The value of `compress=`, of `compress-force=` or of the property.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Choice {
    /// `no`, `none`.
    Never,
    /// Compress with this.
    With(Method),
}

impl Choice {
    /// The same as parsing, for who is to be told of a level that there is not; 0 is the default.
    ///
    /// # Errors
    /// For what is no choice, and for a level outside its method's range.
    pub fn parse_exactly(value: &str) -> Result<Self, UnknownChoice> {
        let choice = value.parse()?;
        let Some((_, level)) = value.split_once(':') else { return Ok(choice) };
        let taken = match choice {
            Self::With(Method::Zlib(level)) => Some(level.number().into()),
            Self::With(Method::Zstd(level)) => Some(level.number().into()),
            Self::With(Method::Lzo) | Self::Never => None,
        };
        match level.parse::<i32>() {
            Ok(level) if taken.is_some_and(|taken| level == 0 || level == taken) => Ok(choice),
            _ => Err(UnknownChoice { value: value.to_owned() }),
        }
    }

    /// What a stored `btrfs.compression` property means; `None` when it means nothing.
    ///
    /// The kernel takes, and stores, any value that begins with an algorithm's name. What follows is a
    /// level here if it can be read as one, and else ignored.
    pub fn of_property(value: &[u8]) -> Option<Self> {
        let begins = |name: &&str| value.starts_with(name.as_bytes());
        match value {
            b"no" | b"none" => Some(Self::Never),
            _ => {
                let name = ["zlib", "lzo", "zstd"].into_iter().find(begins)?;
                let whole = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                whole.or_else(|| name.parse().ok())
            }
        }
    }
}

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(value: &str) -> Result<Self, UnknownChoice> {
        let unknown = || UnknownChoice { value: value.to_owned() };
        let (name, level) = match value.split_once(':') {
            // A plus sign and zeros in front are a number for the kernel too.
            Some((name, level)) => (name, Some(level.parse::<i32>().map_err(|_| unknown())?)),
            None => (value, None),
        };
        match (name, level) {
            ("no" | "none", None) => Ok(Self::Never),
            ("zlib", level) => Ok(Self::With(Method::Zlib(ZlibLevel::nearest(level.unwrap_or(0))))),
            ("lzo", _) => Ok(Self::With(Method::Lzo)),
            ("zstd", level) => Ok(Self::With(Method::Zstd(ZstdLevel::nearest(level.unwrap_or(0))))),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("none"),
            Self::With(method) => method.fmt(f),
        }
    }
}

/// A value that names no way to compress.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown compression '{value}'; use zlib, zlib:1 to zlib:9, lzo, zstd, zstd:-15 to zstd:15, no or none")]
pub struct UnknownChoice {
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_there_is_not_is_refused_where_it_matters() {
        for value in ["zlib", "zlib:9", "zlib:0", "lzo", "zstd:-15", "zstd:15", "none"] {
            assert_eq!(Choice::parse_exactly(value), value.parse(), "{value}");
        }
        for value in ["zlib:10", "zlib:-1", "lzo:1", "zstd:99", "zstd:-16", "zstd:x", "zstdx", "gzip", ""] {
            let error = Choice::parse_exactly(value).unwrap_err().to_string();
            assert!(error.contains(&format!("'{value}'; use ")) && error.contains("zstd:-15 to zstd:15"), "{error}");
        }
    }

    /// What Linux 6.18 shows in `/proc/mounts` for `compress=` with each value.
    #[test]
    fn values_mean_what_they_mean_to_the_kernel() {
        for (value, shown) in [
            ("zlib", "zlib:3"),
            ("zlib:0", "zlib:3"),
            ("zlib:9", "zlib:9"),
            ("zlib:10", "zlib:9"),
            ("zlib:-3", "zlib:1"),
            ("zlib:+4", "zlib:4"),
            ("zlib:04", "zlib:4"),
            ("lzo", "lzo"),
            ("lzo:1", "lzo"),
            ("zstd", "zstd:3"),
            ("zstd:0", "zstd:3"),
            ("zstd:99", "zstd:15"),
            ("zstd:-5", "zstd:-5"),
            ("zstd:-99", "zstd:-15"),
            ("no", "none"),
            ("none", "none"),
        ] {
            assert_eq!(value.parse::<Choice>().unwrap().to_string(), shown, "{value}");
        }
        assert_eq!(Method::default().to_string(), "zlib:3");
    }

    #[test]
    fn what_the_kernel_refuses_is_refused_with_the_choices() {
        for value in [
            "",
            "yes",
            "zlib:",
            "zlib:x",
            "zlib:0x5",
            "zlib: 5",
            "zlibx",
            "ZSTD",
            "zstdx",
            "zstd:99999999999",
            "lzo:",
            "lzo:x",
            "no:1",
            "none:",
            ":3",
        ] {
            let error = value.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{value}'")) && error.contains("zstd:-15 to zstd:15"), "{error}");
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for level in -20..20 {
            for method in
                [Method::Zlib(ZlibLevel::nearest(level)), Method::Lzo, Method::Zstd(ZstdLevel::nearest(level))]
            {
                assert_eq!(method.to_string().parse(), Ok(Choice::With(method)));
            }
        }
        assert_eq!(Choice::Never.to_string().parse(), Ok(Choice::Never));
    }

    /// Linux 6.18 stores these, and compresses with what they begin with.
    #[test]
    fn stored_properties_mean_what_they_begin_with() {
        let of = |value: &str| Choice::of_property(value.as_bytes()).map(|choice| choice.to_string());
        for (value, meaning) in [
            ("zlib", "zlib:3"),
            ("zlib:9", "zlib:9"),
            ("zlibfoo", "zlib:3"),
            ("zlib:x", "zlib:3"),
            ("lzo:3", "lzo"),
            ("zstd:-5", "zstd:-5"),
            ("zstd:", "zstd:3"),
            ("no", "none"),
            ("none", "none"),
        ] {
            assert_eq!(of(value).as_deref(), Some(meaning), "{value}");
        }
        for value in ["", "zl", "yes", "ZLIB", "nono"] {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(Choice::of_property(b"zstd\xff"), Some(Choice::With(Method::Zstd(ZstdLevel::DEFAULT))));
    }

    #[test]
    fn a_method_is_what_its_extents_say() {
        let of = |value: &str| match value.parse() {
            Ok(Choice::With(method)) => method.compression(),
            _ => Compression::None,
        };
        assert_eq!(["zlib", "lzo", "zstd:9", "no"].map(of).map(|c| c as u8), [1, 2, 3, 0]);
    }
}
