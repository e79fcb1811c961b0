//! Times: seconds since 1970, and in parentheses what a clock on the wall said.

use std::fmt::{self, Display, Formatter};

use crate::items::Timespec;

/// A moment as a clock on the wall shows it, somewhere. Prints as `YYYY-MM-DD hh:mm:ss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Year, as written: 2026.
    pub year: i64,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, minute, second.
    pub clock: [u8; 3],
    /// Seconds that this clock is ahead of coordinated universal time.
    pub ahead: i32,
}

impl WallClock {
    /// Seconds since 1970 in coordinated universal time.
    pub fn utc(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        let (year, month, day) = civil(days);
        let clock = [second / 3600, second / 60 % 60, second % 60].map(|part| part as u8);
        Self { year, month: month as u8, day: day as u8, clock, ahead: 0 }
    }
}

impl Display for WallClock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [hour, minute, second] = self.clock;
        write!(f, "{}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}", self.year, self.month, self.day)
    }
}

/// How seconds since 1970 become local time: this crate knows no time zone.
#[derive(Clone, Copy)]
pub struct LocalTime(pub fn(i64) -> WallClock);

impl LocalTime {
    /// Coordinated universal time.
    pub const UTC: Self = Self(WallClock::utc);
}

impl fmt::Debug for LocalTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "LocalTime({})", (self.0)(0))
    }
}

/// Year, month and day of a day since 1970: years begin in March, so that leap days are last, and 400
/// years are one cycle.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next, month, date)
}

/// `1700000000.5 (2023-11-14 22:13:20)`.
pub(super) struct TimeText<'a>(pub &'a Timespec, pub LocalTime);

impl Display for TimeText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ({})", self.0.sec, self.0.nsec, (self.1.0)(self.0.seconds()))
    }
}
