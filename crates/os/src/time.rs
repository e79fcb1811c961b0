//! What the clock on the wall says: the C library knows the time zone (`TZ`, /etc/localtime).

use std::mem::MaybeUninit;

/// A moment in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Year, as written: 2026.
    pub year: i64,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, minute, second.
    pub clock: [u8; 3],
    /// Seconds that local time is ahead of coordinated universal time.
    pub ahead: i32,
}

/// Seconds since 1970 in local time; `None` if the year is beyond what the C library can count.
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    let mut tm = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call; the result is read only if the call says that it
    // was written.
    let tm = unsafe {
        if libc::localtime_r(&seconds, tm.as_mut_ptr()).is_null() {
            return None;
        }
        tm.assume_init()
    };
    Some(LocalTime {
        year: i64::from(tm.tm_year) + 1900,
        month: tm.tm_mon as u8 + 1,
        day: tm.tm_mday as u8,
        clock: [tm.tm_hour as u8, tm.tm_min as u8, tm.tm_sec as u8],
        ahead: tm.tm_gmtoff as i32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_are_counted_as_far_as_they_go() {
        let day = local_time(86_400 * 365).unwrap();
        assert!(day.year == 1971 || (day.year == 1970 && day.month == 12), "{day:?}");
        assert_eq!(local_time(i64::MAX), None);
    }
}
