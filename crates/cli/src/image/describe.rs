//! What an inode is, in words and as JSON.

use butterfs_engine::filesystem::Attributes;
use butterfs_format::Ino;
use butterfs_format::items::{FileType, Timespec};
use butterfs_fuse::DeviceNumber;
use serde_json::{Map, Value, json};

use crate::commands::json;

/// A type in one word.
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "character-device",
        FileType::BlockDevice => "block-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Unknown | FileType::Xattr => "unknown",
    }
}

/// Type and permissions as `ls -l` has them.
pub fn mode_text(mode: u32) -> String {
    let letter = match FileType::from_mode(mode) {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Unknown | FileType::Xattr => '?',
    };
    let mut text = String::from(letter);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Bytes that it takes on the devices, as the kernel counts them for `stat`.
pub fn allocated(found: &Attributes) -> u64 {
    found.item.nbytes.get().saturating_add(found.unwritten)
}

/// The device that a device node stands for.
pub fn device(found: &Attributes) -> Option<DeviceNumber> {
    matches!(found.file_type, FileType::CharDevice | FileType::BlockDevice)
        .then(|| DeviceNumber::from_kernel(found.item.rdev.get()))
}

/// Whether it is the top directory of a subvolume.
pub fn is_subvolume(found: &Attributes) -> bool {
    found.id.ino == Ino::ROOT_DIR && found.file_type == FileType::Directory
}

/// Local time: date and time of day.
pub fn time_text(seconds: i64) -> [String; 2] {
    match butterfs_os::time::local_time(seconds) {
        Some(time) => {
            let [hour, minute, second] = time.clock;
            let date = format!("{}-{:02}-{:02}", time.year, time.month, time.day);
            [date, format!("{hour:02}:{minute:02}:{second:02}")]
        }
        None => [seconds.to_string(), "s since 1970".into()],
    }
}

/// A number of bytes in three digits and a letter, as `ls -h`: `4.0K`, `123M`. Rounded up.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let mut unit = 0;
    let mut scale: u128 = 1;
    while u128::from(bytes) >= scale * 1024 && unit + 1 < UNITS.len() {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return bytes.to_string();
    }
    let tenths = (u128::from(bytes) * 10).div_ceil(scale);
    match tenths {
        0..100 => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => {
            let whole = u128::from(bytes).div_ceil(scale);
            if whole == 1024 && unit + 1 < UNITS.len() {
                format!("1.0{}", UNITS[unit + 1])
            } else {
                format!("{whole}{}", UNITS[unit])
            }
        }
    }
}

/// A time as JSON.
pub fn time_json(time: Timespec) -> Value {
    json!({ "sec": time.seconds(), "nsec": time.nanoseconds() })
}

/// The fields of an inode that all listings have; `path` and `target` may be any bytes.
pub fn attributes_json(name: &str, path: &[u8], found: &Attributes, target: Option<&[u8]>) -> Map<String, Value> {
    let item = &found.item;
    let mut out = Map::new();
    json::text(&mut out, name, path);
    let fields = [
        ("type", json!(type_name(found.file_type))),
        ("subvolume", json!(found.id.tree.0)),
        ("inode", json!(found.id.ino.0)),
        ("is_subvolume", json!(is_subvolume(found))),
        ("mode", json!(item.mode.get())),
        ("permissions", json!(format!("{:04o}", item.mode.get() & 0o7777))),
        ("nlink", json!(item.nlink.get())),
        ("uid", json!(item.uid.get())),
        ("gid", json!(item.gid.get())),
        ("size", json!(item.size.get())),
        ("allocated", json!(allocated(found))),
        ("mtime", time_json(item.mtime)),
    ];
    out.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    if let Some(device) = device(found) {
        out.insert("device".into(), json!({ "major": device.major, "minor": device.minor }));
    }
    if let Some(target) = target {
        json::text(&mut out, "target", target);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_does() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_644, "-rwSr-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o120_777, "lrwxrwxrwx"),
            (0, "?---------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    #[test]
    fn sizes_are_written_as_ls_does() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10_239, "10K"),
            (10_241, "11K"),
            (1 << 20, "1.0M"),
            ((1 << 20) - 1, "1.0M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
