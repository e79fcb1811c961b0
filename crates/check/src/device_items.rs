//! Items of the device and root trees that outlive a mount: statistics of devices, the state of a
//! replacement, the state of a balance.

use butterfs_format::ids::objectid;
use butterfs_format::{Key, TreeId};

use crate::chunks::Chunks;
use crate::context::Context;
use crate::finding::{Kind, Place};

/// What the kernel counts for a device, in the order of the item.
const COUNTERS: [&str; 5] =
    ["write errors", "read errors", "flush errors", "corrupted blocks", "blocks of a wrong generation"];
/// Sizes of the items, in bytes.
const REPLACE_SIZE: usize = 72;
const BALANCE_SIZE: usize = 448;
/// Where a replacement keeps its state, and the states that are not at an end.
const REPLACE_STATE_AT: usize = 32;
const REPLACE_STARTED: u64 = 1;
const REPLACE_SUSPENDED: u64 = 4;

fn number(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// DEV_STATS: five counters or more.
pub(crate) fn check_statistics(context: &mut Context<'_>, key: &Key, data: &[u8], chunks: &Chunks) {
    if key.objectid != 0 {
        return;
    }
    let place = Place { devid: Some(key.offset.into()), ..Place::item(TreeId::DEV, key) };
    if data.len() < COUNTERS.len() * 8 || !data.len().is_multiple_of(8) {
        context.error(Kind::DeviceItem, place, format!("statistics of {} bytes", data.len()));
        return;
    }
    // Device 0 is the target of a replacement.
    if key.offset != 0 && !chunks.devices.contains_key(&key.offset) {
        context.warn(Kind::DeviceItem, place.clone(), "statistics of a device that there is not");
    }
    for (index, name) in COUNTERS.iter().enumerate() {
        let count = number(data, index * 8).unwrap_or(0);
        if count > 0 {
            context.note(Kind::DeviceItem, place.clone(), format!("the device had {count} {name}"));
        }
    }
}

/// DEV_REPLACE: a replacement that is under way, or was once.
pub(crate) fn check_replace(context: &mut Context<'_>, key: &Key, data: &[u8]) {
    let place = Place::item(TreeId::DEV, key);
    if data.len() != REPLACE_SIZE {
        context.error(Kind::DeviceItem, place, format!("replacement of {} bytes, want {REPLACE_SIZE}", data.len()));
        return;
    }
    match number(data, REPLACE_STATE_AT) {
        Some(REPLACE_STARTED | REPLACE_SUSPENDED) => {
            context.note(Kind::DeviceItem, place, "the replacement of a device was interrupted");
        }
        Some(0..=REPLACE_SUSPENDED) => {}
        state => {
            let problem = format!("replacement in unknown state {}", state.unwrap_or(u64::MAX));
            context.error(Kind::DeviceItem, place, problem);
        }
    }
}

/// A TEMPORARY_ITEM of the root tree.
pub(crate) fn check_temporary(context: &mut Context<'_>, key: &Key, data: &[u8]) {
    if key.objectid != objectid::BALANCE {
        return;
    }
    let place = Place::item(TreeId::ROOT, key);
    if data.len() != BALANCE_SIZE {
        context.error(Kind::Balance, place, format!("item of {} bytes, want {BALANCE_SIZE}", data.len()));
    } else {
        context.note(Kind::Balance, place, "a balance was interrupted; the next mount goes on with it");
    }
}
