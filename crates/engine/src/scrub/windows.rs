//! A device's parts of chunks, a stretch at a time, by its addresses.

use std::ops::Range;

use butterfs_format::DevId;
use butterfs_volume::{DeviceExtent, Volume};

/// So much of a device is looked at together: a multiple of a stripe's 64 KiB.
pub(super) const WINDOW: u64 = 4 << 20;

/// The windows of a device, of the same length everywhere.
pub(super) fn windows(
    volume: &Volume,
    devid: DevId,
    range: Range<u64>,
) -> impl Iterator<Item = (DeviceExtent, Range<u64>)> {
    windows_by(volume, devid, range, |_| WINDOW)
}

/// The windows of a device that reach into a range of its addresses, as offsets in their device extents. They begin where the
/// extent does, or a whole number of windows later.
pub(super) fn windows_by(
    volume: &Volume,
    devid: DevId,
    range: Range<u64>,
    window: impl Fn(&DeviceExtent) -> u64,
) -> impl Iterator<Item = (DeviceExtent, Range<u64>)> {
    volume.device_extents(devid).into_iter().flat_map(move |extent| {
        let window = window(&extent);
        let first = range.start.saturating_sub(extent.physical) / window * window;
        let last = range.end.saturating_sub(extent.physical).min(extent.length);
        (first..last).step_by(window as usize).map(move |from| (extent, from..(from + window).min(last)))
    })
}
