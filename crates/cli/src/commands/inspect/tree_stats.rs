//! `inspect-internal tree-stats`: how large trees are, and how their blocks lie.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use butterfs_format::items::{FILE_EXTENT_INLINE_HEADER, FileExtent, FileExtentBody};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, TreeBlock, TreeId};
use serde_json::{Value, json};

use super::image::{Image, child};
use super::report::{failure, output_failure};
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::commands::units::Units;
use crate::failure::Result;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal tree-stats disk.img
  butterfs inspect-internal tree-stats -b -t 256 disk.img

A seek is a step from a block to one that does not follow it on disk; a cluster is a run of blocks that do.
Inline data is counted in trees of files only, or with -t.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// An image file or a block device; of a filesystem on several devices, all of them.
    #[arg(required = true)]
    devices: Vec<PathBuf>,
    /// Sizes as numbers of bytes.
    #[arg(short = 'b')]
    bytes: bool,
    /// Only this tree; without it the root, extent, checksum and top-level subvolume's trees.
    #[arg(short = 't', value_name = "ROOTID")]
    tree: Option<u64>,
    #[command(flatten)]
    units: Units,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let image = Image::open(&arguments.devices)?;
    let units = if arguments.bytes { arguments.units.raw() } else { arguments.units };
    let format = arguments.output.or(before);
    let mut entries = Vec::new();
    let mut problem = None;
    output::stream(|out| {
        for (title, id) in trees(arguments) {
            if format == Format::Text {
                writeln!(out, "Calculating size of {title}")?;
            }
            let Some(root) = image.tree(id) else {
                problem = Some(format!("there is no tree {id}"));
                break;
            };
            let with_inline = arguments.tree.is_some() || id == TreeId::FS;
            match Stats::of(&image, &root, with_inline) {
                Ok(stats) if format == Format::Text => stats.print(out, units)?,
                Ok(stats) => entries.push(stats.json(id)),
                Err(error) => {
                    problem = Some(error);
                    break;
                }
            }
        }
        if format == Format::Json { json::list(out, "inspect-tree-stats", &entries) } else { Ok(()) }
    })
    .map_err(|error| output_failure(&error))?;
    match problem {
        Some(problem) => Err(failure(&arguments.devices[0], problem)),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn trees(arguments: &Arguments) -> Vec<(String, TreeId)> {
    match arguments.tree {
        Some(id) => vec![(format!("tree ({id})"), TreeId(id))],
        None => [("root", TreeId::ROOT), ("extent", TreeId::EXTENT), ("csum", TreeId::CSUM), ("fs", TreeId::FS)]
            .map(|(name, id)| (format!("{name} tree"), id))
            .to_vec(),
    }
}

/// What is known of a tree.
#[derive(Default)]
struct Stats {
    nodesize: u64,
    levels: Vec<u64>,
    inline: u64,
    forward: u64,
    backward: u64,
    seek_bytes: u64,
    longest_seek: u64,
    /// How often each distance was met.
    seeks: BTreeMap<u64, u64>,
    clusters: u64,
    cluster_bytes: u64,
    smallest_cluster: Option<u64>,
    largest_cluster: u64,
    lowest: u64,
    highest: u64,
    time: Duration,
    /// Nodes that were met, so that a damaged tree is not counted for ever.
    seen: HashSet<u64>,
}

impl Stats {
    /// Reads a tree. Leaves are read only if inline data is counted; else their parents say enough.
    fn of(image: &Image, root: &Expected, with_inline: bool) -> std::result::Result<Self, String> {
        let block = image.block(root)?;
        let (nodesize, at) = (u64::from(image.geometry().nodesize), block.bytenr().0);
        let levels = vec![0; usize::from(block.level()) + 1];
        let mut stats =
            Self { nodesize, levels, lowest: at, highest: at, largest_cluster: nodesize, ..Self::default() };
        let start = Instant::now();
        if block.is_leaf() {
            stats.leaf(Some(&block), with_inline);
        } else {
            stats.node(image, &block, with_inline);
            stats.time = start.elapsed();
        }
        Ok(stats)
    }

    fn leaf(&mut self, leaf: Option<&TreeBlock>, with_inline: bool) {
        self.levels[0] += 1;
        for leaf in leaf.into_iter().filter(|_| with_inline) {
            self.inline += (0..leaf.len()).map(|slot| inline_bytes(leaf, slot)).sum::<u64>();
        }
    }

    fn node(&mut self, image: &Image, node: &TreeBlock, with_inline: bool) {
        self.levels[usize::from(node.level())] += 1;
        let mut cluster = self.nodesize;
        let mut last = node.bytenr().0;
        for slot in 0..node.len() {
            let at = child(node, slot);
            if node.level() > 1 || with_inline {
                match image.block(&at) {
                    Ok(block) if block.is_leaf() => self.leaf(Some(&block), with_inline),
                    Ok(block) if self.seen.insert(block.bytenr().0) => self.node(image, &block, with_inline),
                    Ok(_) => {
                        image.lose(format_args!("tree block {}: is referred to twice", at.bytenr));
                        continue;
                    }
                    Err(problem) => {
                        image.lose(problem);
                        continue;
                    }
                }
            } else {
                self.leaf(None, with_inline);
            }
            let at = at.bytenr.0;
            if last.wrapping_add(self.nodesize) == at {
                cluster += self.nodesize;
            } else {
                self.seek(last, at);
                self.cluster(cluster);
                cluster = self.nodesize;
            }
            last = at;
            self.lowest = self.lowest.min(at);
            self.highest = self.highest.max(at);
        }
    }

    /// A step to a block that does not follow.
    fn seek(&mut self, from: u64, to: u64) {
        let distance = from.wrapping_add(self.nodesize).abs_diff(to);
        self.seek_bytes = self.seek_bytes.saturating_add(distance);
        self.longest_seek = self.longest_seek.max(distance);
        *self.seeks.entry(distance).or_default() += 1;
        *if from < to { &mut self.forward } else { &mut self.backward } += 1;
    }

    /// The end of a run of blocks that follow each other; one block is none.
    fn cluster(&mut self, bytes: u64) {
        if bytes == self.nodesize {
            return;
        }
        self.cluster_bytes += bytes;
        self.clusters += 1;
        self.smallest_cluster = Some(self.smallest_cluster.map_or(bytes, |least| least.min(bytes)));
        self.largest_cluster = self.largest_cluster.max(bytes);
    }

    fn blocks(&self) -> u64 {
        self.levels.iter().sum()
    }

    fn total_seeks(&self) -> u64 {
        self.forward + self.backward
    }

    /// Of a tree without clusters, one is told.
    fn total_clusters(&self) -> u64 {
        self.clusters.max(1)
    }

    fn average_seek(&self) -> u64 {
        self.seek_bytes.checked_div(self.total_seeks()).unwrap_or(0)
    }

    fn print(&self, out: &mut dyn Write, units: Units) -> io::Result<()> {
        writeln!(out, "\tTotal size: {}", units.show(self.blocks() * self.nodesize))?;
        writeln!(out, "\t\tInline data: {}", units.show(self.inline))?;
        writeln!(out, "\tTotal seeks: {}", self.total_seeks())?;
        writeln!(out, "\t\tForward seeks: {}", self.forward)?;
        writeln!(out, "\t\tBackward seeks: {}", self.backward)?;
        writeln!(out, "\t\tAvg seek len: {}", units.show(self.average_seek()))?;
        self.histogram(out)?;
        writeln!(out, "\tTotal clusters: {}", self.total_clusters())?;
        writeln!(out, "\t\tAvg cluster size: {}", units.show(self.cluster_bytes / self.total_clusters()))?;
        writeln!(out, "\t\tMin cluster size: {}", units.show(self.smallest_cluster.unwrap_or(0)))?;
        writeln!(out, "\t\tMax cluster size: {}", units.show(self.largest_cluster))?;
        writeln!(out, "\tTotal disk spread: {}", units.show(self.highest - self.lowest))?;
        writeln!(out, "\tTotal read time: {} s {} us", self.time.as_secs(), self.time.subsec_micros())?;
        writeln!(out, "\tLevels: {}", self.levels.len())?;
        writeln!(out, "\tTotal nodes: {}", self.blocks())?;
        for (level, count) in self.levels.iter().enumerate() {
            write!(out, "\t\tOn level {level}: {count:8}")?;
            if let Some(below) = level.checked_sub(1) {
                write!(out, "  (avg fanout {})", self.levels[below].checked_div(*count).unwrap_or(0))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// Distances that are frequent stand alone; the others are put together from one such to the next.
    fn histogram(&self, out: &mut dyn Write) -> io::Result<()> {
        const FEWEST: u64 = 20;
        if self.total_seeks() < FEWEST {
            return Ok(());
        }
        let tick = self.total_seeks() / FEWEST;
        let digits = self.longest_seek.to_string().len();
        let mut group: Option<(u64, u64, u64)> = None;
        let mut lines = vec![];
        for (distance, count) in &self.seeks {
            let frequent = |count: u64| count / tick > 2;
            if !frequent(*count) && !group.is_some_and(|(_, _, count)| frequent(count)) {
                let (from, _, sum) = group.unwrap_or((*distance, 0, 0));
                group = Some((from, *distance, sum + count));
                continue;
            }
            lines.extend(group.take());
            if frequent(*count) {
                lines.push((*distance, *distance, *count));
            }
        }
        lines.extend(group);
        writeln!(out, "\tSeek histogram")?;
        lines.into_iter().try_for_each(|(from, to, count)| {
            let ticks = "#".repeat((count / tick) as usize);
            let ticks = if ticks.is_empty() { "|" } else { &ticks };
            writeln!(out, "\t\t{from:digits$} - {to:digits$}: {count:digits$} {ticks}")
        })
    }

    fn json(&self, id: TreeId) -> Value {
        json!({
            "rootid": id.0,
            "total_bytes": self.blocks() * self.nodesize,
            "inline_bytes": self.inline,
            "forward_seeks": self.forward,
            "backward_seeks": self.backward,
            "avg_seek_len": self.average_seek(),
            "clusters": self.clusters,
            "cluster_bytes": self.cluster_bytes,
            "min_cluster_size": self.smallest_cluster.unwrap_or(0),
            "max_cluster_size": self.largest_cluster,
            "disk_spread": self.highest - self.lowest,
            "read_time_us": u64::try_from(self.time.as_micros()).unwrap_or(u64::MAX),
            "blocks_by_level": self.levels,
        })
    }
}

/// Bytes of inline data in an item, as they are stored.
fn inline_bytes(leaf: &TreeBlock, slot: usize) -> u64 {
    if leaf.key(slot).item_type != ItemType::EXTENT_DATA {
        return 0;
    }
    match FileExtent::parse(leaf.data(slot)).map(|extent| extent.body) {
        Ok(FileExtentBody::Inline(_)) => (leaf.data(slot).len() - FILE_EXTENT_INLINE_HEADER) as u64,
        _ => 0,
    }
}
