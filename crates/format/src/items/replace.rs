//! The item that tells of a device which is being replaced by another.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

use crate::key::{ItemType, Key};

/// What a replacement is about to be, or came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceState {
    /// None was ever begun.
    Never,
    /// It is under way.
    Started,
    /// The target is the device.
    Finished,
    /// It was ended; the device is what it was.
    Canceled,
    /// It goes on with the next mount.
    Suspended,
}

impl ReplaceState {
    const ALL: [Self; 5] = [Self::Never, Self::Started, Self::Finished, Self::Canceled, Self::Suspended];

    /// Its number, on disk and in ioctls.
    pub fn number(self) -> u64 {
        self as u64
    }
}

/// Whether the source is read though other devices have what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadSource {
    /// It is.
    #[default]
    Always,
    /// Only what nobody else has.
    Avoid,
}

/// A device that is being replaced, or was; the key is (0, DEV_REPLACE, 0) in the device tree.
///
/// The device that comes, the *target*, has the number 0 in its own superblock while that lasts.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevReplaceItem {
    /// The device that goes; all ones at the end.
    pub src_devid: U64,
    /// Up to here the target has what the source has.
    pub cursor_left: U64,
    /// The end of what is being copied.
    pub cursor_right: U64,
    /// See [`ReadSource`].
    pub read_mode: U64,
    /// See [`ReplaceState`].
    pub replace_state: U64,
    /// When it began, in seconds since 1970.
    pub time_started: U64,
    /// When it ended or was suspended.
    pub time_stopped: U64,
    /// Writes to the target that failed.
    pub write_errors: U64,
    /// Sectors that could not be read anywhere.
    pub read_errors: U64,
}
const _: () = assert!(size_of::<DevReplaceItem>() == 72);

impl Default for DevReplaceItem {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl DevReplaceItem {
    /// Where it is in the device tree.
    pub const KEY: Key = Key { objectid: 0, item_type: ItemType::DEV_REPLACE, offset: 0 };
    /// The number of the target in its own superblock.
    pub const TARGET: u64 = 0;

    /// An item of another size counts as none, as for the kernel.
    pub fn parse(data: &[u8]) -> Option<Self> {
        Self::read_from_bytes(data).ok()
    }

    /// A state that nobody knows counts as none.
    pub fn state(&self) -> ReplaceState {
        let known = ReplaceState::ALL.into_iter().find(|state| state.number() == self.replace_state.get());
        known.unwrap_or(ReplaceState::Never)
    }

    /// Sets the state.
    #[must_use]
    pub fn with_state(self, state: ReplaceState) -> Self {
        Self { replace_state: state.number().into(), ..self }
    }

    /// Whether it is under way or suspended: there is a target.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state(), ReplaceState::Started | ReplaceState::Suspended)
    }

    /// Whether the source is read.
    pub fn read_source(&self) -> ReadSource {
        if self.read_mode.get() == ReadSource::Avoid as u64 { ReadSource::Avoid } else { ReadSource::Always }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_kernels_numbers() {
        for (number, state) in ReplaceState::ALL.into_iter().enumerate() {
            let item = DevReplaceItem::default().with_state(state);
            assert_eq!((item.replace_state.get(), item.state()), (number as u64, state));
            assert_eq!(item.is_under_way(), number == 1 || number == 4);
        }
        let unknown = DevReplaceItem { replace_state: 9.into(), ..DevReplaceItem::default() };
        assert_eq!(unknown.state(), ReplaceState::Never);
        assert_eq!(DevReplaceItem::parse(&[0; 71]), None);
    }
}
