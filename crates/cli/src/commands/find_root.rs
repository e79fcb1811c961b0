//! `butterfs find-root`: root blocks of trees of any age, found by looking at all metadata. Its options and words are
//! those of `btrfs-find-root`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_format::{Generation, Logical, TreeId};
use butterfs_salvage::{Source, roots};
use serde_json::{Value, json};

use super::{Format, restore};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// What `find-root` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// An image file or a block device, not mounted; of a filesystem on several devices, all of them.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// List others too though the one that the superblock means was found.
    #[arg(short)]
    all: bool,
    /// The tree, by its number.
    #[arg(short, value_name = "OBJECTID", default_value_t = TreeId::ROOT.0)]
    objectid: u64,
    /// Only blocks of this level and above.
    #[arg(short, value_name = "LEVEL", default_value_t = 0)]
    level: u8,
    /// Only blocks of this generation and later.
    #[arg(short, value_name = "GENERATION", default_value_t = 0)]
    generation: u64,
    /// How to print: for people or for programs.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// A block that may be a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    at: Logical,
    generation: Generation,
    level: u8,
}

/// What the filesystem itself says of the tree.
struct Wanted {
    generation: Option<Generation>,
    level: Option<u8>,
}

/// Runs the command; `before` is the format that was given before it.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let source = restore::open(&arguments.images, None)?;
    source.notes.iter().for_each(|note| eprintln!("butterfs find-root: warning: {note}"));
    let tree = TreeId(arguments.objectid);
    let wanted = wanted(&source, tree);
    let candidates = candidates(&source, arguments);
    match arguments.format.unwrap_or(before) {
        Format::Text => text(arguments, &wanted, &candidates),
        Format::Json => output::line(Value::Array(candidates.iter().map(|one| data(one, &wanted)).collect())),
    }
    if candidates.is_empty() {
        return Err(Failure::new(exit::USAGE, format!("no block of tree {tree} was found")));
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(source: &Source, tree: TreeId) -> Wanted {
    let sb = source.superblock();
    if tree == TreeId::ROOT {
        return Wanted { generation: Some(sb.generation()), level: Some(sb.root_level) };
    }
    if tree == TreeId::CHUNK {
        let generation = Generation(sb.chunk_root_generation.get());
        return Wanted { generation: Some(generation), level: Some(sb.chunk_root_level) };
    }
    let start = roots::find(source, None).ok().and_then(|roots| roots.start(tree));
    Wanted { generation: start.map(|start| start.name.1), level: start.map(|start| start.level) }
}

/// Of each generation the highest blocks: a root is above all else that was written with it. The newest come first.
fn candidates(source: &Source, arguments: &Arguments) -> Vec<Candidate> {
    let mut found: BTreeMap<Generation, Vec<Candidate>> = BTreeMap::new();
    for ((at, generation), block) in source.blocks().iter() {
        let fits = block.owner.0 == arguments.objectid
            && block.level >= arguments.level
            && generation.0 >= arguments.generation;
        if !fits {
            continue;
        }
        let of_same = found.entry(generation).or_default();
        let highest = of_same.first().map_or(0, |one| one.level);
        if block.level > highest {
            of_same.clear();
        }
        if block.level >= highest {
            of_same.push(Candidate { at, generation, level: block.level });
        }
    }
    let mut all: Vec<Candidate> = found.into_values().flatten().collect();
    all.sort_by_key(|one| (std::cmp::Reverse(one.generation), one.at));
    all
}

impl Wanted {
    fn is(&self, candidate: &Candidate) -> bool {
        self.generation == Some(candidate.generation) && self.level == Some(candidate.level)
    }
}

fn text(arguments: &Arguments, wanted: &Wanted, candidates: &[Candidate]) {
    let tree = arguments.objectid;
    match (wanted.generation, wanted.level) {
        (Some(generation), Some(level)) => {
            output::line(format!("Superblock thinks the generation is {generation}"));
            output::line(format!("Superblock thinks the level is {level}"));
        }
        _ => output::line(format!("There is no root item for tree {tree}")),
    }
    let found = candidates.iter().find(|one| wanted.is(one));
    if let Some(one) = found.filter(|_| !arguments.all) {
        output::line(format!("Found tree root at {} gen {} level {}", one.at, one.generation, one.level));
        return;
    }
    candidates.iter().for_each(|one| output::line(line(one, wanted)));
}

fn line(one: &Candidate, wanted: &Wanted) -> String {
    let block = format!("Well block {}(gen: {} level: {}) seems good", one.at, one.generation, one.level);
    match (wanted.generation, wanted.level) {
        _ if wanted.is(one) => format!("{block}, and it matches superblock"),
        (Some(generation), Some(level)) => {
            format!("{block}, but generation/level doesn't match, want gen: {generation} level: {level}")
        }
        _ => format!("{block}, but we are unsure about the correct generation/level"),
    }
}

fn data(one: &Candidate, wanted: &Wanted) -> Value {
    json!({
        "bytenr": one.at.0,
        "generation": one.generation.0,
        "level": one.level,
        "wanted": wanted.is(one),
    })
}
