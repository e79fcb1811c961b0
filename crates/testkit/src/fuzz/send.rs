//! Send streams: pieces of those that a kernel made, with something wrong about them, and checksums that are right.

use butterfs_format::send::{Attribute, COMMAND_HEADER, MAGIC, STREAM_HEADER, command_checksum};

use super::input::Input;
use super::numbers::{disturb, number};
use crate::random::Random;

/// Streams of Linux 6.18, packed; see `corpus/streams`.
const SEEDS: [&[u8]; 5] = [
    include_bytes!("../../corpus/streams/full.zst"),
    include_bytes!("../../corpus/streams/incremental.zst"),
    include_bytes!("../../corpus/streams/incremental-v2.zst"),
    include_bytes!("../../corpus/streams/compressed.zst"),
    include_bytes!("../../corpus/streams/no-data.zst"),
];
/// A seed is not longer.
const LARGEST_SEED: usize = 1 << 20;
/// Data of files is cut to so many bytes: it is not looked into.
const DATA: usize = 24;
/// Commands that are taken from a seed, at most.
const COMMANDS: u64 = 6;

/// A command, taken apart.
#[derive(Clone)]
struct Piece {
    kind: u16,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A stream, taken apart as far as that goes.
struct Pieces {
    version: u32,
    commands: Vec<Piece>,
}

/// The streams of the kernel, whole.
pub fn seeds() -> Vec<Vec<u8>> {
    SEEDS.iter().map(|packed| unpack(packed)).collect()
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    zstd::bulk::decompress(packed, LARGEST_SEED).expect("a packed stream")
}

/// Some commands of a seed, with something wrong.
pub fn bad(random: &mut Random) -> Input {
    let mut pieces = take_apart(&unpack(random.pick(&SEEDS).expect("there are seeds")));
    let keep = random.between(1, COMMANDS) as usize;
    while pieces.commands.len() > keep {
        let at = below(random, pieces.commands.len());
        pieces.commands.remove(at);
    }
    let mut bytes = put_together(&pieces);
    for _ in 0..random.between(1, 3) {
        damage(random, &mut bytes);
    }
    Input::Send(bytes)
}

/// Damages a stream once more.
pub fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    if random.percent(60) {
        let mut pieces = take_apart(bytes);
        change(random, &mut pieces);
        *bytes = put_together(&pieces);
        return;
    }
    match random.below(8) {
        0 => bytes.truncate(below(random, bytes.len() + 1)),
        1 => disturb(random, &mut bytes[..]),
        _ => {
            let from = STREAM_HEADER.min(bytes.len());
            disturb(random, &mut bytes[from..]);
            make_checksums(bytes);
        }
    }
}

/// A number below another, which may be zero: then zero.
fn below(random: &mut Random, most: usize) -> usize {
    if most == 0 { 0 } else { random.below(most as u64) as usize }
}

/// Changes commands, attributes or the version.
fn change(random: &mut Random, pieces: &mut Pieces) {
    let count = pieces.commands.len();
    if count == 0 {
        return pieces.version = random.below(5) as u32;
    }
    let (one, other) = (below(random, count), below(random, count));
    match random.below(12) {
        0 => pieces.version = number(random, u64::from(pieces.version), 4) as u32,
        1 => pieces.version = random.between(1, 3) as u32,
        2 => pieces.commands.swap(one, other),
        3 => drop(pieces.commands.remove(one)),
        4 => pieces.commands[one].kind = random.below(29) as u16,
        5 => {
            let foreign = pieces.commands[other].attributes.clone();
            pieces.commands[one].attributes.extend(foreign);
        }
        _ => change_attribute(random, &mut pieces.commands[one].attributes),
    }
}

fn change_attribute(random: &mut Random, attributes: &mut Vec<(u16, Vec<u8>)>) {
    let at = below(random, attributes.len());
    let Some((id, value)) = attributes.get_mut(at) else {
        return attributes.push((random.below(38) as u16, random.bytes(8)));
    };
    match random.below(8) {
        0 => drop(attributes.remove(at)),
        1 => *id = random.below(38) as u16,
        2 => value.truncate(below(random, value.len() + 1)),
        3 => value.extend(random.bytes(3)),
        4 => value.insert(0, *random.pick(b"/.\0 \n\xff").expect("there are some")),
        5 => {
            let size = *random.pick(&[1, 4, 8, 12, 16]).expect("there are sizes");
            attributes.push((random.below(38) as u16, random.bytes(size)));
        }
        _ => disturb(random, value),
    }
}

/// What a reader would find, as far as lengths lead.
fn take_apart(bytes: &[u8]) -> Pieces {
    let number = |at: usize, size: usize| {
        let field = bytes.get(at..at + size)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let version = number(MAGIC.len(), 4).unwrap_or(1) as u32;
    let (mut commands, mut at) = (Vec::new(), STREAM_HEADER);
    while let (Some(len), Some(kind)) = (number(at, 4), number(at + 4, 2)) {
        at += COMMAND_HEADER;
        let Some(body) = bytes.get(at..at + len) else { break };
        commands.push(Piece { kind: kind as u16, attributes: attributes_of(body, version) });
        at += len;
    }
    Pieces { version, commands }
}

fn is_bare_data(id: u16, version: u32) -> bool {
    id == Attribute::Data as u16 && version >= 2
}

fn attributes_of(mut body: &[u8], version: u32) -> Vec<(u16, Vec<u8>)> {
    let mut attributes = Vec::new();
    while let Some((id, rest)) = body.split_first_chunk().map(|(id, rest)| (u16::from_le_bytes(*id), rest)) {
        let found = match rest.split_first_chunk() {
            _ if is_bare_data(id, version) => Some((rest, &[][..])),
            Some((len, rest)) => rest.split_at_checked(usize::from(u16::from_le_bytes(*len))),
            None => None,
        };
        let Some((value, rest)) = found else { break };
        let value = if id == Attribute::Data as u16 { &value[..value.len().min(DATA)] } else { value };
        attributes.push((id, value.to_vec()));
        body = rest;
    }
    attributes
}

fn put_together(pieces: &Pieces) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &pieces.version.to_le_bytes()].concat();
    for Piece { kind, attributes } in &pieces.commands {
        let mut body = Vec::new();
        for (id, value) in attributes {
            body.extend(id.to_le_bytes());
            if !is_bare_data(*id, pieces.version) {
                body.extend((value.len() as u16).to_le_bytes());
            }
            body.extend(value);
        }
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
    }
    make_checksums(&mut bytes);
    bytes
}

/// Makes the checksums of all commands right, as far as lengths lead.
fn make_checksums(bytes: &mut [u8]) {
    let mut rest = bytes.get_mut(STREAM_HEADER..).unwrap_or_default();
    while let Some(len) = rest.first_chunk().map(|len| u32::from_le_bytes(*len) as usize + COMMAND_HEADER) {
        let Some((command, after)) = rest.split_at_mut_checked(len) else { break };
        let checksum = command_checksum(command);
        command[6..10].copy_from_slice(&checksum.to_le_bytes());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::send::Reader;

    /// The seeds are good, and what is put together of them is, too: data cut short aside, the same.
    #[test]
    fn seeds_are_read_to_their_end() {
        for seed in seeds() {
            for bytes in [put_together(&take_apart(&seed)), seed] {
                let mut reader = Reader::open(&bytes[..]).unwrap().unwrap();
                let mut commands = 0;
                while reader.read_command().unwrap().is_some() {
                    commands += 1;
                }
                assert!(commands >= 20, "{commands} commands");
            }
        }
    }
}
