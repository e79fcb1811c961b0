//! The superblocks of one device: which of the copies counts.

use std::io;
use std::sync::Arc;

use butterfs_format::superblock::{MAGIC, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Corruption, Superblock};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::member::Seen;
use crate::signatures;
use crate::volume::OpenMode;

/// Where the magic is within a superblock.
const MAGIC_AT: std::ops::Range<usize> = 64..72;

impl Seen {
    /// What the bytes at `offset` of a device are.
    pub(crate) fn of_bytes(bytes: &[u8], offset: u64) -> Self {
        match Superblock::parse(bytes, offset) {
            Ok(sb) => Self::Valid { generation: sb.generation.get(), csum: sb.csum },
            Err(_) => Self::Invalid,
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("superblock unknown"),
            Self::Invalid => f.write_str("no valid superblock"),
            Self::Valid { generation, .. } => write!(f, "generation {generation}"),
        }
    }
}

/// Reads the primary superblock.
pub(crate) fn look_at_primary(device: &dyn BlockDevice) -> io::Result<Seen> {
    let offset = SUPERBLOCK_OFFSETS[0];
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    device.read_at(offset, &mut bytes)?;
    Ok(Seen::of_bytes(&bytes, offset))
}

/// A device and what its superblocks say.
pub(crate) struct Found {
    pub device: Arc<dyn BlockDevice>,
    pub superblock: Superblock,
    pub seen: Seen,
}

/// One superblock place of a device.
pub(crate) enum Copy {
    /// The device ends before, or could not be read.
    Unread(Option<io::Error>),
    /// Other bytes.
    Foreign,
    /// A superblock that breaks a rule.
    Bad(Corruption),
    Good(Box<Superblock>),
}

pub(crate) fn read_copy(device: &dyn BlockDevice, offset: u64) -> Copy {
    if offset + SUPERBLOCK_SIZE as u64 > device.len() {
        return Copy::Unread(None);
    }
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    if let Err(error) = device.read_at(offset, &mut bytes) {
        return Copy::Unread(Some(error));
    }
    if bytes[MAGIC_AT] != MAGIC {
        return Copy::Foreign;
    }
    match Superblock::parse(&bytes, offset) {
        Ok(sb) => Copy::Good(Box::new(sb)),
        Err(corruption) => Copy::Bad(corruption),
    }
}

/// Finds the superblock to use. A good primary is always it, as for the kernel: a newer copy
/// elsewhere may be what is left of an older filesystem.
pub(crate) fn find(device: Arc<dyn BlockDevice>, mode: OpenMode) -> Result<Found> {
    let primary = read_copy(&*device, SUPERBLOCK_OFFSETS[0]);
    if let Copy::Good(sb) = primary {
        let seen = Seen::Valid { generation: sb.generation.get(), csum: sb.csum };
        return Ok(Found { device, superblock: *sb, seen });
    }
    let others = SUPERBLOCK_OFFSETS[1..].iter().filter_map(|offset| match read_copy(&*device, *offset) {
        Copy::Good(sb) => Some(*sb),
        _ => None,
    });
    let Some(superblock) = others.max_by_key(|sb| sb.generation.get()) else {
        return Err(no_superblock(&*device, primary));
    };
    if mode == OpenMode::ReadWrite && matches!(primary, Copy::Foreign) {
        return Err(Error::NotWritable(format!(
            "{}: there is no Btrfs superblock at 64 KiB, only a copy further on (was the device wiped or reused?); \
             open it read-only, or restore the superblock first",
            device.name()
        )));
    }
    tracing::warn!(
        device = device.name(),
        offset = superblock.bytenr.get(),
        "primary superblock is bad; using another copy"
    );
    Ok(Found { device, superblock, seen: Seen::Invalid })
}

/// Zeros whatever is in the places of superblocks, and makes that durable: whoever is about to overwrite what they lead
/// to begins with this. Places that hold nothing are left alone; it is made durable that they hold nothing, too, for
/// somebody else may have put the zeros there a moment ago.
///
/// # Errors
/// Those of the device.
pub fn erase_superblocks(device: &dyn BlockDevice) -> Result<()> {
    let failed = |source| Error::Device { name: device.name(), devid: None, source };
    for offset in SUPERBLOCK_OFFSETS.into_iter().filter(|offset| offset + SUPERBLOCK_SIZE as u64 <= device.len()) {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        device.read_at(offset, &mut bytes).map_err(failed)?;
        if bytes != [0; SUPERBLOCK_SIZE] {
            device.write_at(offset, &[0; SUPERBLOCK_SIZE]).map_err(failed)?;
        }
    }
    device.flush().map_err(failed)
}

/// Nobody takes a device for what it was any more, and that is durable: what it holds is about to be overwritten.
///
/// # Errors
/// Those of the device.
pub fn make_unknown(device: &dyn BlockDevice) -> Result<()> {
    let failed = |source| Error::Device { name: device.name(), devid: None, source };
    signatures::erase_others(device).map_err(failed)?;
    erase_superblocks(device)
}

fn no_superblock(device: &dyn BlockDevice, primary: Copy) -> Error {
    let name = device.name();
    match primary {
        Copy::Unread(Some(source)) => Error::Device { name, devid: None, source },
        Copy::Bad(Corruption { place, problem }) => Corruption::new(format!("{name}: {place}"), problem).into(),
        _ => Error::NotBtrfs { name },
    }
}
