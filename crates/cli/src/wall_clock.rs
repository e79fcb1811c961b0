//! Times for people: what the clock on the wall says where the program runs.

use butterfs_format::print::{LocalTime, WallClock};

/// The time zone of the environment; UTC for years that the C library cannot count.
pub const WALL_CLOCK: LocalTime = LocalTime(wall_clock);

fn wall_clock(seconds: i64) -> WallClock {
    match butterfs_os::time::local_time(seconds) {
        Some(butterfs_os::time::LocalTime { year, month, day, clock, ahead }) => {
            WallClock { year, month, day, clock, ahead }
        }
        None => WallClock::utc(seconds),
    }
}
