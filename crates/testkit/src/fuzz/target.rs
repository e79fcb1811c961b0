//! Runs inputs. What comes of one is said in words without places and numbers: new words mean something new.

use std::sync::Arc;

use butterfs_check::check;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, Rescue};
use butterfs_format::block::{ITEM_HEADER_SIZE, NewBlock};
use butterfs_format::compression::decompress;
use butterfs_format::print::{self, BlockText, ItemText, LocalTime, SendText, Show, SuperblockText};
use butterfs_format::send::{self, Reader};
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::validate::{Checksum, Expected, check_block, check_structure, item::check_item};
use butterfs_format::{Generation, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::base::Base;
use super::input::{Change, Input, Recipe};
use crate::everything::{self, Limits};

/// A hostile image may claim anything.
const LIMITS: Limits = Limits { objects: 5_000, bytes: 64 << 20 };
/// Memory that a check may take for itself.
const CHECK_MEMORY: u64 = 16 << 20;

/// What came of an input: messages, see [`essence`].
pub type Words = Vec<String>;

/// Runs an input. Any result is right; a panic is not.
pub fn run(input: &Input, bases: &[Base]) -> Words {
    let base = |recipe: &Recipe| {
        let found = bases.iter().find(|base| base.name == recipe.base);
        found.unwrap_or_else(|| panic!("there is no base '{}'", recipe.base))
    };
    let said = match input {
        Input::Superblock(recipe) => superblock(base(recipe), recipe),
        Input::Block(recipe) => block(base(recipe), recipe),
        Input::Item { owner, key, data } => {
            let leaf = leaf_of(*owner, |leaf| leaf.insert_item(0, key, data), data.len());
            leaf.map_or_else(Vec::new, |leaf| item(&leaf, &bases[0]))
        }
        Input::Stream { compression, sectorsize, room, bytes } => {
            let mut output = vec![0; (*room).min(1 << 20)];
            let result = decompress(*compression, bytes, *sectorsize, &mut output);
            vec![result.map_or_else(|problem| problem, |count| format!("{compression}: all {}", count == output.len()))]
        }
        Input::Send(bytes) => send(bytes),
        Input::Image(recipe) => image(base(recipe).changed(recipe)),
    };
    said.iter().map(|text| essence(text)).collect()
}

/// What a message says at its end, behind the places: without keys in parentheses, and with `#` for numbers and
/// hexadecimal words.
pub fn essence(text: &str) -> String {
    let last = text.rsplit(": ").next().unwrap_or_default();
    let (mut out, mut depth) = (String::new(), 0_usize);
    for word in last.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()).take(40) {
        let body = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let number = body.starts_with(|letter: char| letter.is_ascii_digit())
            || body.len() > 3 && body.chars().all(|letter| letter.is_ascii_hexdigit());
        if depth == 0 {
            out.push_str(if number { "#" } else { body });
            out.push_str(&word[body.len()..]);
        }
        depth = (depth + word.matches('(').count()).saturating_sub(word.matches(')').count());
    }
    out
}

fn superblock(base: &Base, recipe: &Recipe) -> Words {
    let bytes = base.changed_superblock(recipe, SUPERBLOCK_OFFSETS[0]);
    if let Some(unchecked) = Superblock::unchecked(&bytes) {
        let text = SuperblockText { superblock: &unchecked, full: Show::Yes }.to_string();
        assert!(text.len() < 1 << 20, "a superblock printed in {} bytes", text.len());
    }
    let parsed = Superblock::parse(&bytes, SUPERBLOCK_OFFSETS[0]).err().map(|error| error.to_string());
    let opened = Volume::open(vec![Arc::new(base.changed(recipe))], OpenMode::ReadOnly).err();
    [parsed, opened.map(|error| error.to_string())].into_iter().flatten().collect()
}

fn block(base: &Base, recipe: &Recipe) -> Words {
    let first = recipe.changes.iter().find_map(|change| match change {
        Change::Block { bytenr, .. } => Some(*bytenr),
        Change::Super { .. } => None,
    });
    let Some(block) = first.and_then(|bytenr| base.changed_block(recipe, bytenr)) else { return Vec::new() };
    let expected = Expected::at(Logical(first.unwrap_or_default()));
    let structure = check_structure(&block, &base.geometry, &expected, Checksum::Verify);
    if structure.is_ok() {
        let options = print::Options::of(&base.superblock);
        let text = BlockText { block: &block, options: &options }.to_string();
        assert!(text.len() < 4 << 20, "a block printed in {} bytes", text.len());
    }
    let whole = check_block(&block, &base.geometry, &expected, Checksum::Verify);
    whole.err().map(|error| error.problem).into_iter().collect()
}

/// A leaf with what `fill` puts in, if that fits.
fn leaf_of(owner: u64, fill: impl FnOnce(&mut TreeBlock), room: usize) -> Option<TreeBlock> {
    const NODESIZE: usize = 16384;
    if room + ITEM_HEADER_SIZE > TreeBlock::leaf_capacity(NODESIZE) {
        return None;
    }
    let new = NewBlock {
        bytenr: Logical(1 << 20),
        generation: Generation(7),
        owner: TreeId(owner),
        level: 0,
        fsid: [1; 16],
        chunk_tree_uuid: [2; 16],
    };
    let mut leaf = TreeBlock::new(NODESIZE, &new);
    fill(&mut leaf);
    Some(leaf)
}

fn item(leaf: &TreeBlock, base: &Base) -> Words {
    let options = print::Options { item_csums: Show::Yes, ..print::Options::of(&base.superblock) };
    let text = ItemText { key: leaf.key(0), data: leaf.data(0), options: &options }.to_string();
    // Each byte may be escaped, and checksums of 4 bytes are printed with their address.
    assert!(text.len() < 20_000 + 30 * leaf.data(0).len(), "an item printed in {} bytes", text.len());
    let problem = check_item(leaf, 0, &base.geometry).err();
    problem.map(|problem| format!("{}: {problem}", leaf.key(0).item_type)).into_iter().collect()
}

fn send(bytes: &[u8]) -> Words {
    let mut reader = match Reader::open(bytes) {
        Ok(Some(reader)) => reader,
        Ok(None) => return vec!["empty".into()],
        Err(error) => return vec![error.to_string()],
    };
    let (mut text, mut words) = (SendText::new(LocalTime::UTC), Vec::new());
    loop {
        match reader.read_command() {
            Ok(Some(command)) => {
                let line = text.line(&command).to_string();
                // Paths are in it twice, below the subvolume's, and each byte may be escaped.
                assert!(line.len() < 1000 + 16 * bytes.len(), "a command printed in {} bytes", line.len());
                assert!(!line.contains('\n'), "a line with an end: {line}");
                words.push(command.action.kind().to_string());
            }
            Ok(None) => return words,
            Err(send::Error::Command(wrong)) => {
                let attribute = wrong.place.rsplit(", ").next().unwrap_or_default();
                words.push(format!("{attribute}, {}", wrong.problem.replace(": ", ", ")));
            }
            Err(error) => {
                words.push(error.to_string());
                return words;
            }
        }
    }
}

fn image(device: MemDevice) -> Words {
    let device: Arc<dyn BlockDevice> = Arc::new(device);
    let mut words = Vec::new();
    for rescue in [Rescue::empty(), Rescue::all()] {
        words.extend(walk(device.clone(), rescue));
    }
    match Volume::open(vec![device.clone()], OpenMode::ReadOnly) {
        Ok(volume) => words.extend(checked(&volume, device)),
        Err(error) => words.push(error.to_string()),
    }
    words
}

fn walk(device: Arc<dyn BlockDevice>, rescue: Rescue) -> Words {
    let how = butterfs_volume::OpenOptions {
        block_checksums: rescue.block_checksums(),
        ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
    };
    let volume = match Volume::open_with(vec![device], &how) {
        Ok(volume) => volume,
        Err(error) => return vec![error.to_string()],
    };
    let options = OpenOptions { access: Access::ReadOnly, rescue, ..OpenOptions::default() };
    match Filesystem::open(volume, options, Box::new(SystemEnvironment)) {
        Ok(fs) => everything::read(&fs, LIMITS).problems,
        Err(error) => vec![error.to_string()],
    }
}

fn checked(volume: &Volume, device: Arc<dyn BlockDevice>) -> Words {
    let options = butterfs_check::Options {
        data_csums: true,
        devices: vec![device],
        memory: CHECK_MEMORY,
        ..butterfs_check::Options::default()
    };
    let report = check(volume, &options);
    assert!(report.to_string().len() < 4 << 20, "a report of many bytes");
    report.findings.iter().map(|finding| finding.problem.clone()).collect()
}
