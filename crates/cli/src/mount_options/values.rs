//! Values of options. An error says what is wrong, and what is allowed.

use std::num::NonZeroUsize;

use butterfs_engine::file::CompressRule;
use butterfs_engine::tx::DiscardRule;
use butterfs_format::TreeId;
use butterfs_format::compression::{Choice, Method};
use butterfs_fuse::session::Transport;

use crate::size;

/// More threads would only wait for each other.
const MOST_THREADS: usize = 256;

/// A number as the kernel reads one: `0x` begins a hexadecimal one, and 0 an octal one.
fn parse_number(value: &str) -> Option<u64> {
    let digits = value.strip_prefix('+').unwrap_or(value);
    let (digits, base) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (digits, if digits.starts_with('0') { 8 } else { 10 }),
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, base).ok() }
}

fn small_number(value: &str) -> Option<u32> {
    parse_number(value).and_then(|number| number.try_into().ok())
}

/// The number of something.
pub(super) fn number(value: &str, of: &str) -> Result<u64, String> {
    parse_number(value).ok_or_else(|| format!("give the number of {of}, for example 257 or 0x101"))
}

/// The path of a subvolume.
pub(super) fn path(value: &str) -> Result<&str, String> {
    if value.is_empty() { Err("give the path of a subvolume; / is the top level".into()) } else { Ok(value) }
}

/// One of a few words.
pub(super) fn one_of(value: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&value) { Ok(()) } else { Err(format!("allowed are: {}", words.join(", "))) }
}

/// Threads, at least one, and no more than are of use.
pub(super) fn threads(value: &str) -> Result<NonZeroUsize, String> {
    small_number(value).and_then(|number| NonZeroUsize::new((number as usize).min(MOST_THREADS))).ok_or_else(|| {
        format!("give a number from 1 to {}; more than {MOST_THREADS} are taken as {MOST_THREADS}", u32::MAX)
    })
}

/// Bytes of memory for caches.
pub(super) fn cache_size(value: &str) -> Result<usize, String> {
    let allowed = 16 << 20..=64 << 30;
    let bytes = size::parse(value).ok().filter(|bytes| allowed.contains(bytes));
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| "give a size from 16M to 64G".into())
}

/// Seconds between commits. As for the kernel, 0 is the default.
pub(super) fn seconds(value: &str) -> Result<Option<u32>, String> {
    match small_number(value) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(seconds)),
        None => Err("give the seconds between commits, a number".into()),
    }
}

pub(super) fn compression(value: &str, rule: impl Fn(Method) -> CompressRule) -> Result<CompressRule, String> {
    match value.parse() {
        Ok(Choice::With(method)) => Ok(rule(method)),
        Ok(Choice::Never) => Ok(CompressRule::Asked),
        Err(error) => Err(format!("{error}")),
    }
}

/// When freed space is discarded.
pub(super) fn discard(value: &str) -> Result<DiscardRule, String> {
    one_of(value, &["sync", "async"])?;
    Ok(if value == "sync" { DiscardRule::Sync } else { DiscardRule::Async })
}

/// How requests come.
pub(super) fn transport(value: &str) -> Result<Transport, String> {
    match value {
        "best" => Ok(Transport::Best),
        "device" => Ok(Transport::Device),
        "uring" => Ok(Transport::Uring),
        _ => Err("allowed are: best, device, uring".into()),
    }
}

/// Data chunks for each metadata chunk.
pub(super) fn ratio(value: &str) -> Result<u32, String> {
    small_number(value).ok_or_else(|| "give a number of data chunks for each metadata chunk".into())
}

/// Subvolume 0 is another name of the top level.
pub(super) fn tree(id: u64) -> TreeId {
    if id == 0 { TreeId::FS } else { TreeId(id) }
}
