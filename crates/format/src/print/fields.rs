//! Reading the fields of an item one after the other, as far as there are bytes.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::key::{DiskKey, Key};

/// What is left of an item.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// Why printing an item stopped.
pub(super) enum Stop {
    /// The writer failed.
    Format(fmt::Error),
    /// The item has fewer bytes than its kind needs.
    Short,
}

impl From<fmt::Error> for Stop {
    fn from(error: fmt::Error) -> Self {
        Self::Format(error)
    }
}

/// What functions that print an item give back.
pub(super) type Printed = Result<(), Stop>;

impl<'a> Fields<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next structure.
    pub fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Result<T, Stop> {
        let (value, rest) = T::read_from_prefix(self.rest).map_err(|_| Stop::Short)?;
        self.rest = rest;
        Ok(value)
    }

    pub fn u64(&mut self) -> Result<u64, Stop> {
        self.take::<U64>().map(U64::get)
    }

    pub fn u32(&mut self) -> Result<u32, Stop> {
        self.take::<U32>().map(U32::get)
    }

    pub fn u16(&mut self) -> Result<u16, Stop> {
        self.take::<U16>().map(U16::get)
    }

    pub fn key(&mut self) -> Result<Key, Stop> {
        self.take::<DiskKey>().map(Key::from)
    }

    /// The next `len` bytes, or all that are left.
    pub fn up_to(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }
}
