//! Inputs, and their text: one word for the kind, then a line for each change.
//!
//! ```text
//! # A comment.
//! image small
//! block 30490624 101 00ff
//! super 299 01
//! ```

use std::fmt::{self, Display, Formatter, Write};
use std::str::FromStr;

use butterfs_format::items::Compression;
use butterfs_format::{ItemType, Key};

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A superblock with its system chunks: parsed, printed, and the devices opened with it.
    Superblock,
    /// A tree block: checked and printed.
    Block,
    /// An item alone in a leaf: checked and printed.
    Item,
    /// A compressed extent.
    Stream,
    /// A send stream: read and printed.
    Send,
    /// A whole filesystem: opened, walked, every byte read; and checked.
    Image,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Superblock, Self::Block, Self::Item, Self::Stream, Self::Send, Self::Image];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::Block => "block",
            Self::Item => "item",
            Self::Stream => "stream",
            Self::Send => "send",
            Self::Image => "image",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == word).ok_or_else(|| format!("unknown kind '{word}'"))
    }
}

/// Some bytes of a base image that are others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// In every superblock copy, from an offset on.
    Super {
        /// Bytes from the superblock's start.
        at: usize,
        /// What is there.
        bytes: Vec<u8>,
    },
    /// In every copy of a tree block, from an offset on.
    Block {
        /// The block's logical address.
        bytenr: u64,
        /// Bytes from the block's start.
        at: usize,
        /// What is there.
        bytes: Vec<u8>,
    },
}

/// A base image and what is changed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The base's name.
    pub base: String,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// [`Kind::Superblock`]
    Superblock(Recipe),
    /// [`Kind::Block`]: the block of the first change.
    Block(Recipe),
    /// [`Kind::Image`]
    Image(Recipe),
    /// [`Kind::Item`]
    Item {
        /// The tree that the leaf is of.
        owner: u64,
        /// The item's key.
        key: Key,
        /// The item's bytes.
        data: Vec<u8>,
    },
    /// [`Kind::Stream`]
    Stream {
        /// How it is compressed.
        compression: Compression,
        /// The filesystem's sector size.
        sectorsize: u32,
        /// How many bytes are wanted of it.
        room: usize,
        /// The stream.
        bytes: Vec<u8>,
    },
    /// [`Kind::Send`]
    Send(Vec<u8>),
}

impl Input {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Superblock(_) => Kind::Superblock,
            Self::Block(_) => Kind::Block,
            Self::Image(_) => Kind::Image,
            Self::Item { .. } => Kind::Item,
            Self::Stream { .. } => Kind::Stream,
            Self::Send(_) => Kind::Send,
        }
    }

    /// Its recipe, if it has one.
    pub fn recipe(&self) -> Option<&Recipe> {
        match self {
            Self::Superblock(recipe) | Self::Block(recipe) | Self::Image(recipe) => Some(recipe),
            Self::Item { .. } | Self::Stream { .. } | Self::Send(_) => None,
        }
    }

    /// An input of the same kind with another recipe.
    pub fn with_recipe(&self, recipe: Recipe) -> Self {
        match self {
            Self::Superblock(_) => Self::Superblock(recipe),
            Self::Block(_) => Self::Block(recipe),
            Self::Image(_) => Self::Image(recipe),
            other => other.clone(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

impl Display for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = self.kind().name();
        match self {
            Self::Superblock(recipe) | Self::Block(recipe) | Self::Image(recipe) => {
                writeln!(f, "{kind} {}", recipe.base)?;
                recipe.changes.iter().try_for_each(|change| match change {
                    Change::Super { at, bytes } => writeln!(f, "super {at} {}", hex(bytes)),
                    Change::Block { bytenr, at, bytes } => writeln!(f, "block {bytenr} {at} {}", hex(bytes)),
                })
            }
            Self::Item { owner, key, data } => {
                let Key { objectid, item_type, offset } = key;
                writeln!(f, "{kind} {owner} {objectid} {} {offset} {}", item_type.0, hex(data))
            }
            Self::Stream { compression, sectorsize, room, bytes } => {
                writeln!(f, "{kind} {compression} {sectorsize} {room} {}", hex(bytes))
            }
            Self::Send(bytes) => writeln!(f, "{kind} {}", hex(bytes)),
        }
    }
}

/// The words of a line, read one by one.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self(line.split_whitespace())
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "a word is missing".into())
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("'{word}' is no number of this kind"))
    }

    /// Bytes to the line's end; there may be none.
    fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let word = self.0.next().unwrap_or_default();
        let digits: Option<Vec<u8>> = word.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or("bytes are not in hexadecimal")?;
        Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut first = Words::of(lines.next().ok_or("an empty input")?);
        let kind: Kind = first.word()?.parse()?;
        match kind {
            Kind::Item => {
                let (owner, objectid, item_type, offset) =
                    (first.number()?, first.number()?, first.number()?, first.number()?);
                return Ok(Self::Item {
                    owner,
                    key: Key::new(objectid, ItemType(item_type), offset),
                    data: first.bytes()?,
                });
            }
            Kind::Stream => {
                let word = first.word()?;
                let all = [Compression::None, Compression::Zlib, Compression::Lzo, Compression::Zstd];
                let compression = all.into_iter().find(|one| one.to_string() == word);
                let compression = compression.ok_or_else(|| format!("unknown compression '{word}'"))?;
                let (sectorsize, room) = (first.number()?, first.number()?);
                return Ok(Self::Stream { compression, sectorsize, room, bytes: first.bytes()? });
            }
            Kind::Send => return Ok(Self::Send(first.bytes()?)),
            Kind::Superblock | Kind::Block | Kind::Image => {}
        }
        let recipe = Recipe { base: first.word()?.into(), changes: lines.map(change).collect::<Result<_, _>>()? };
        Ok(match kind {
            Kind::Superblock => Self::Superblock(recipe),
            Kind::Block => Self::Block(recipe),
            _ => Self::Image(recipe),
        })
    }
}

fn change(line: &str) -> Result<Change, String> {
    let mut words = Words::of(line);
    match words.word()? {
        "super" => Ok(Change::Super { at: words.number()?, bytes: words.bytes()? }),
        "block" => Ok(Change::Block { bytenr: words.number()?, at: words.number()?, bytes: words.bytes()? }),
        other => Err(format!("unknown change '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_what_their_text_says() {
        let changes = vec![
            Change::Super { at: 7, bytes: vec![1, 0xff] },
            Change::Block { bytenr: 1 << 40, at: 0, bytes: vec![0xab] },
        ];
        let recipe = Recipe { base: "small".into(), changes };
        let key = Key::new(u64::MAX, ItemType(255), 3);
        let inputs = [
            Input::Superblock(recipe.clone()),
            Input::Block(recipe.clone()),
            Input::Image(recipe),
            Input::Item { owner: 5, key, data: vec![] },
            Input::Stream { compression: Compression::Lzo, sectorsize: 4096, room: 9, bytes: vec![1, 2, 3] },
            Input::Send(vec![0, 0xfe]),
        ];
        for input in inputs {
            let text = format!("# a comment\n\n{input}");
            assert_eq!(text.parse::<Input>(), Ok(input), "{text}");
        }
        for bad in ["", "image", "what small", "image small\nblock 1 2 abc", "stream lzo 1", "super 1 00"] {
            assert!(bad.parse::<Input>().is_err(), "{bad}");
        }
    }
}
