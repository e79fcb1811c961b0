//! The counters of a mount's devices.

use std::io;
use std::os::fd::BorrowedFd;

use butterfs_os::flat_ioctl::flat_ioctl;

use super::wire;

const GET_DEV_STATS: u32 = 0xc408_9434;
const COUNTERS: usize = 5;

/// Whether counters are set to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsReset {
    /// They are.
    Yes,
    /// They stay.
    No,
}

/// How often something went wrong with a device: writes, reads, flushes, corruption, generation.
pub fn device_stats(file: BorrowedFd<'_>, devid: u64, reset: StatsReset) -> io::Result<[u64; COUNTERS]> {
    let mut args = vec![0; wire::size_of_command(GET_DEV_STATS)];
    let head = [devid, COUNTERS as u64, u64::from(reset == StatsReset::Yes)];
    args.chunks_mut(8).zip(head).for_each(|(bytes, number)| bytes.copy_from_slice(&number.to_ne_bytes()));
    flat_ioctl(file, GET_DEV_STATS, &mut args)?;
    let (values, _) = args[24..].as_chunks::<8>();
    Ok(std::array::from_fn(|at| u64::from_ne_bytes(values[at])))
}
