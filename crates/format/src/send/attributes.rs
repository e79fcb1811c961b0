//! The attributes of one command: found by their number, in any order, the last one of a number if there are several
//! (as `btrfs receive` has it).

use zerocopy::FromBytes;

use super::{Attribute, Version};
use crate::items::Timespec;
use crate::{Generation, Ino};

/// What is wrong with the attributes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Bytes from the first attribute's start; none if it is no place but the command that is wrong.
    pub at: Option<usize>,
    /// Which attribute.
    pub attribute: Option<Attribute>,
    /// The rule that is broken.
    pub text: String,
}

/// A value, and where its attribute begins.
#[derive(Clone, Copy)]
struct Value<'a> {
    at: usize,
    bytes: &'a [u8],
}

/// The attributes of a command.
pub struct Attributes<'a>([Option<Value<'a>>; Attribute::COUNT]);

impl<'a> Attributes<'a> {
    /// Finds them in the bytes behind the command's header.
    pub fn parse(body: &'a [u8], version: Version) -> Result<Self, Problem> {
        let mut found = Self([None; Attribute::COUNT]);
        let mut at = 0;
        while at < body.len() {
            let (attribute, bytes, rest) = next(&body[at..], version).map_err(|problem| problem.behind(at))?;
            found.0[attribute.index()] = Some(Value { at, bytes });
            at = body.len() - rest.len();
        }
        Ok(found)
    }

    fn value(&self, attribute: Attribute) -> Result<Value<'a>, Problem> {
        self.0[attribute.index()].ok_or_else(|| Problem {
            at: None,
            attribute: Some(attribute),
            text: format!("attribute {} requested but not present", attribute as u16),
        })
    }

    /// Any bytes.
    pub fn bytes(&self, attribute: Attribute) -> Result<&'a [u8], Problem> {
        self.value(attribute).map(|value| value.bytes)
    }

    /// Bytes without a zero: a path or a name. (`btrfs receive` takes what is before the zero.)
    pub fn text(&self, attribute: Attribute) -> Result<&'a [u8], Problem> {
        let Value { at, bytes } = self.value(attribute)?;
        match bytes.contains(&0) {
            false => Ok(bytes),
            true => {
                Err(Problem { at: Some(at), attribute: Some(attribute), text: "a zero byte in a path or name".into() })
            }
        }
    }

    fn exact<T: FromBytes>(&self, attribute: Attribute) -> Result<T, Problem> {
        let Value { at, bytes } = self.value(attribute)?;
        T::read_from_bytes(bytes).map_err(|_| Problem {
            at: Some(at),
            attribute: Some(attribute),
            text: format!("invalid size for attribute, expected = {}, got = {}", size_of::<T>(), bytes.len()),
        })
    }

    /// A number of 8 bits.
    pub fn u8(&self, attribute: Attribute) -> Result<u8, Problem> {
        self.exact(attribute)
    }

    /// A number of 32 bits.
    pub fn u32(&self, attribute: Attribute) -> Result<u32, Problem> {
        self.exact(attribute).map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub fn u64(&self, attribute: Attribute) -> Result<u64, Problem> {
        self.exact(attribute).map(u64::from_le_bytes)
    }

    /// A generation.
    pub fn generation(&self, attribute: Attribute) -> Result<Generation, Problem> {
        self.u64(attribute).map(Generation)
    }

    /// The inode number at the sender.
    pub fn ino(&self) -> Result<Ino, Problem> {
        self.u64(Attribute::Ino).map(Ino)
    }

    /// A UUID.
    pub fn uuid(&self, attribute: Attribute) -> Result<[u8; 16], Problem> {
        self.exact(attribute)
    }

    /// A time.
    pub fn time(&self, attribute: Attribute) -> Result<Timespec, Problem> {
        self.exact(attribute)
    }

    /// A value, if the attribute is there.
    pub fn optional<T>(
        &self,
        attribute: Attribute,
        get: impl FnOnce(&Self, Attribute) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        self.0[attribute.index()].map(|_| get(self, attribute)).transpose()
    }
}

impl Problem {
    fn behind(self, before: usize) -> Self {
        Self { at: self.at.map(|at| at + before), ..self }
    }
}

/// The first attribute of these bytes, and what follows it: a number of 16 bits, a length of 16 bits, the value. The
/// data of version 2 and later has no length: it is all that is left. Source: `read_cmd` in `common/send-stream.c` of
/// btrfs-progs, `put_data_header` in Linux's `fs/btrfs/send.c`.
fn next(bytes: &[u8], version: Version) -> Result<(Attribute, &[u8], &[u8]), Problem> {
    let problem = |attribute, text| Problem { at: Some(0), attribute, text };
    let Some((number, rest)) = bytes.split_first_chunk() else {
        return Err(problem(None, format!("send stream is truncated: {} byte of an attribute", bytes.len())));
    };
    let number = u16::from_le_bytes(*number);
    let Some(attribute) = Attribute::from_number(number) else {
        return Err(problem(None, format!("invalid tlv in cmd tlv_type = {number}")));
    };
    if attribute == Attribute::Data && version >= Version::V2 {
        return Ok((attribute, rest, &[]));
    }
    let Some((len, rest)) = rest.split_first_chunk() else {
        return Err(problem(Some(attribute), "send stream is truncated: the attribute has no length".into()));
    };
    let len = usize::from(u16::from_le_bytes(*len));
    let (value, rest) = rest.split_at_checked(len).ok_or_else(|| {
        let text = format!("send stream is truncated: {len} bytes of the attribute, {} in the command", rest.len());
        problem(Some(attribute), text)
    })?;
    Ok((attribute, value, rest))
}
