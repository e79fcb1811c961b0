//! One file through O_DIRECT, beside its content in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::memory::{Aligned, map};
use super::side::open;
use crate::random::Random;

/// Random aligned reads, writes and truncations of one file through O_DIRECT, beside its content in memory; now and
/// then a buffered or a mapped read looks at the same bytes.
pub fn exercise_direct(path: &Path, seed: u64, operations: usize) -> Result<(), String> {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 64;
    let mut random = Random::new(seed);
    let mut content: Vec<u8> = Vec::new();
    File::create(path).map_err(|error| error.to_string())?;
    let direct = open(path, OFlags::RDWR | OFlags::DIRECT).map_err(|error| format!("O_DIRECT: {error}"))?;
    let buffered = open(path, OFlags::RDWR).map_err(|error| error.to_string())?;
    for number in 0..operations {
        let fail = |what: &str, error: &dyn std::fmt::Display| format!("operation {number}, {what}: {error}");
        let offset = PAGE * random.below(PAGES);
        let length = (PAGE * random.between(1, 16)).min(PAGES * PAGE - offset) as usize;
        match random.below(100) {
            0..45 => {
                let mut buffer = Aligned::new(length);
                buffer.bytes().copy_from_slice(&random.bytes(length));
                direct.write_all_at(buffer.bytes(), offset).map_err(|error| fail("direct write", &error))?;
                let end = offset as usize + length;
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(buffer.bytes());
            }
            45..85 => {
                let mut buffer = Aligned::new(length);
                let read = direct.read_at(buffer.bytes(), offset).map_err(|error| fail("direct read", &error))?;
                expect(&content, offset, length, &buffer.bytes()[..read]).map_err(|text| fail("direct read", &text))?;
            }
            85..92 => {
                let mut buffer = vec![0; length];
                let read = buffered.read_at(&mut buffer, offset).map_err(|error| fail("buffered read", &error))?;
                expect(&content, offset, length, &buffer[..read]).map_err(|text| fail("buffered read", &text))?;
            }
            92..95 => {
                let data = random.bytes(length.min(5000));
                let offset = (offset + random.below(PAGE)).min(content.len() as u64);
                buffered.write_all_at(&data, offset).map_err(|error| fail("buffered write", &error))?;
                let end = offset as usize + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(&data);
            }
            95..97 if !content.is_empty() => {
                let pages = map(&buffered).map_err(|error| fail("map", &error))?;
                expect(&content, 0, content.len(), &pages).map_err(|text| fail("mapped read", &text))?;
            }
            _ => {
                let length = random.below(PAGES * PAGE);
                rustix::fs::ftruncate(&direct, length).map_err(|error| fail("truncate", &error))?;
                content.resize(length as usize, 0);
            }
        }
    }
    let found = std::fs::read(path).map_err(|error| error.to_string())?;
    expect(&content, 0, content.len().max(found.len()), &found)
}

fn expect(content: &[u8], offset: u64, length: usize, found: &[u8]) -> Result<(), String> {
    let start = (offset as usize).min(content.len());
    let end = (offset as usize + length).min(content.len());
    let expected = &content[start..end];
    if expected == found {
        return Ok(());
    }
    let place = expected.iter().zip(found).position(|(a, b)| a != b);
    let place = place.unwrap_or(expected.len().min(found.len())) + start;
    Err(format!("expected {} bytes, got {}, first difference at {place}", expected.len(), found.len()))
}
