//! The log tree of a filesystem that is otherwise well: replayed in memory, so that what was fsynced last is restored
//! too.

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_engine::tree::{ChildPtr, TreeReader};
use butterfs_format::{TreeBlock, TreeId};
use butterfs_salvage::scan::Name;
use butterfs_salvage::{Devices, Replayed, Source, Start};

use crate::devices::open_degraded;

/// A filesystem whose log was replayed.
struct ByEngine(Filesystem);

impl Replayed for ByEngine {
    fn start(&self, tree: TreeId) -> Option<Start> {
        let root = self.0.shared().gate.view(|tx| tx.root(tree)).ok()?;
        Some(Start { name: (root.bytenr, root.generation), level: root.level })
    }

    fn block(&self, (bytenr, generation): Name, level: u8) -> Option<TreeBlock> {
        let ptr = ChildPtr { bytenr, level, generation, first_key: None };
        let block = self.0.shared().gate.view(|tx| tx.block(TreeId::FS, &ptr)).ok()?;
        let is_it = block.generation() == generation && block.level() == level;
        is_it.then(|| TreeBlock::clone(&block))
    }
}

/// Replays the log, if there is one and it can be; says so if not.
pub fn replay(source: Source, devices: Devices) -> Source {
    if source.superblock().log_root.get() == 0 {
        return source;
    }
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    let volume = open_degraded(devices).map_err(butterfs_engine::Error::from);
    let replayed = volume.and_then(|volume| Filesystem::open(volume, options, Box::new(SystemEnvironment)));
    match replayed {
        Ok(filesystem) => source.with_replayed(Box::new(ByEngine(filesystem))),
        Err(error) => source.with_note(format!("the log tree is left out, and what was fsynced last with it: {error}")),
    }
}
