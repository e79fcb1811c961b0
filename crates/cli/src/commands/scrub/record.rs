//! The record of scrubs, `/var/lib/btrfs/scrub.status.UUID`: the file that `btrfs scrub` keeps, too.
//!
//! A line for each device: its filesystem's UUID and its number, then names and numbers, between bars. The file is
//! replaced whole. Where it cannot be written, a scrub does without.

use std::io::Write;
use std::path::{Path, PathBuf};

use butterfs_engine::scrub::ScrubProgress;

const DIRECTORY: &str = "/var/lib/btrfs";
const HEAD: &str = "scrub status:1";
/// The numbers of the progress in the order of the file, with their places in [`ScrubProgress::values`].
pub const NAMES: [(&str, usize); 14] = [
    ("data_extents_scrubbed", 0),
    ("tree_extents_scrubbed", 1),
    ("data_bytes_scrubbed", 2),
    ("tree_bytes_scrubbed", 3),
    ("read_errors", 4),
    ("csum_errors", 5),
    ("verify_errors", 6),
    ("no_csum", 7),
    ("csum_discards", 8),
    ("super_errors", 9),
    ("malloc_errors", 10),
    ("uncorrectable_errors", 11),
    ("corrected_errors", 12),
    ("last_physical", 13),
];

/// What is known of the scrub of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The device.
    pub devid: u64,
    /// What was done.
    pub progress: ScrubProgress,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// When it was resumed; 0 if it was not.
    pub resumed: u64,
    /// How long it ran, in seconds.
    pub duration: u64,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// Whether it has ended.
    pub finished: bool,
}

impl Record {
    /// Whether it stopped before its end.
    pub fn can_be_resumed(&self) -> bool {
        self.cancelled || !self.finished
    }

    fn line(&self, fsid: &str) -> String {
        let values = self.progress.values();
        let numbers = NAMES.iter().map(|(name, at)| (*name, values[*at]));
        let times = [("t_start", self.started), ("t_resumed", self.resumed), ("duration", self.duration)];
        let flags = [("canceled", u64::from(self.cancelled)), ("finished", u64::from(self.finished))];
        let fields = numbers.chain(times).chain(flags).map(|(name, value)| format!("|{name}:{value}"));
        format!("{fsid}:{}{}", self.devid, fields.collect::<String>())
    }

    fn parse(line: &str, fsid: &str) -> Option<Self> {
        let mut fields = line.strip_prefix(fsid)?.strip_prefix(':')?.split('|');
        let mut record = Self { devid: fields.next()?.parse().ok()?, ..Self::default() };
        let mut values = record.progress.values();
        for (name, value) in fields.filter_map(|field| field.split_once(':')) {
            let value: u64 = value.parse().ok()?;
            match (name, NAMES.iter().find(|(known, _)| *known == name)) {
                (_, Some((_, at))) => values[*at] = value,
                ("t_start", _) => record.started = value,
                ("t_resumed", _) => record.resumed = value,
                ("duration", _) => record.duration = value,
                ("canceled", _) => record.cancelled = value != 0,
                ("finished", _) => record.finished = value != 0,
                _ => {}
            }
        }
        record.progress = ScrubProgress::from_values(values);
        // The file has no place for it: it is what was seen to and is nothing else.
        let progress = &mut record.progress;
        let known = [progress.read_errors, progress.csum_errors, progress.verify_errors];
        let known = known.into_iter().fold(0, u64::saturating_add);
        let seen_to = progress.corrected_errors.saturating_add(progress.uncorrectable_errors);
        progress.unverified_errors = seen_to.saturating_sub(known);
        Some(record)
    }
}

/// A UUID as it is usually written.
pub fn text_of(fsid: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*fsid).to_string()
}

fn path_of(fsid: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("scrub.status.{fsid}"))
}

/// The records of a filesystem, by device.
pub fn read(fsid: &[u8; 16]) -> Vec<Record> {
    let fsid = text_of(fsid);
    let text = std::fs::read_to_string(path_of(&fsid)).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Vec::new();
    }
    lines.filter_map(|line| Record::parse(line, &fsid)).collect()
}

/// Replaces the records of these devices; those of others stay.
pub fn write(fsid: &[u8; 16], records: &[Record]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let others = read(fsid).into_iter().filter(|old| records.iter().all(|new| new.devid != old.devid));
    let mut all: Vec<Record> = others.chain(records.iter().copied()).collect();
    all.sort_by_key(|record| record.devid);
    let fsid = text_of(fsid);
    let lines: String = all.iter().map(|record| record.line(&fsid) + "\n").collect();
    std::fs::create_dir_all(DIRECTORY)?;
    let path = path_of(&fsid);
    let new = path.with_extension(format!("{fsid}_{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(format!("{HEAD}\n{lines}").as_bytes())?;
    std::fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_btrfs() {
        let fsid = "97ccd12f-8fb4-458d-bbb9-d311e9f3e229";
        let line = "97ccd12f-8fb4-458d-bbb9-d311e9f3e229:2|data_extents_scrubbed:640|tree_extents_scrubbed:12|\
                    data_bytes_scrubbed:41943040|tree_bytes_scrubbed:196608|read_errors:0|csum_errors:3|\
                    verify_errors:0|no_csum:0|csum_discards:0|super_errors:0|malloc_errors:0|\
                    uncorrectable_errors:1|corrected_errors:2|last_physical:110100480|t_start:1795826976|\
                    t_resumed:0|duration:7|canceled:1|finished:1";
        let record = Record::parse(line, fsid).unwrap();
        assert_eq!((record.devid, record.started, record.duration), (2, 1_795_826_976, 7));
        assert_eq!((record.progress.csum_errors, record.progress.last_physical), (3, 110_100_480));
        assert!(record.cancelled && record.finished && record.can_be_resumed());
        assert_eq!(record.line(fsid), line);
        assert_eq!((record.progress.unverified_errors, Record::parse(line, "0")), (0, None));
        let line = line.replace("corrected_errors:2", "corrected_errors:86");
        assert_eq!(Record::parse(&line, fsid).unwrap().progress.unverified_errors, 84, "beside those three");
    }
}
