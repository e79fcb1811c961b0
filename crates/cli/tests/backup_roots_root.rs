//! Backup roots in superblocks: the same slots in the same order as the kernel's, with the same fields.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::oracle;
use common::{GIB, kernel, setup, subject};
use std::collections::BTreeMap;
use std::path::Path;

/// The fields of one backup, as `dump-super -f` names them; a root's address, generation and level are fields of their
/// own.
type Backup = BTreeMap<String, u64>;

/// A superblock's generation, and its four backups.
struct Seen {
    generation: u64,
    backups: Vec<Backup>,
}

impl Seen {
    fn of(image: &Path) -> Self {
        let dump = run_program("btrfs", &["inspect-internal", "dump-super", "-f", image.to_str().expect("UTF-8")]).ok();
        let mut backups = Vec::new();
        for line in dump.stdout.lines().map(str::trim) {
            if line.starts_with("backup ") {
                backups.push(Backup::new());
            }
            if let (Some((name, values)), Some(backup)) =
                (line.strip_prefix("backup_").and_then(|l| l.split_once(':')), backups.last_mut())
            {
                // `backup_tree_root:	30408704	gen: 5	level: 0`
                let parts = values.split_whitespace().filter_map(|part| part.parse().ok());
                backup.extend(
                    ["", ".gen", ".level"].iter().zip(parts).map(|(part, value)| (format!("{name}{part}"), value)),
                );
            }
        }
        assert_eq!(backups.len(), 4, "{}", dump.stdout);
        let generation = oracle::superblock(image)["generation"].parse().expect("a number");
        Self { generation, backups }
    }

    /// Where the roots of this superblock's own generation are.
    fn newest(&self) -> usize {
        let newest: Vec<usize> =
            (0..4).filter(|slot| self.backups[*slot]["tree_root.gen"] == self.generation).collect();
        assert_eq!(newest.len(), 1, "generation {} is in the slots {newest:?}", self.generation);
        newest[0]
    }

    /// The names of fields that are not zero. Levels are zero or not by the tree's size.
    fn set_fields(&self) -> Vec<&str> {
        let newest = self.backups[self.newest()].iter();
        newest
            .filter(|(name, value)| **value != 0 && !name.ends_with(".level"))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// Six commits, each seen. Every backup is where the one before it says, and never changes while it lasts.
fn six_commits(mounter: &Mounter, image: &Path, mnt: &Path) -> Vec<Seen> {
    let mut seen = vec![Seen::of(image)];
    let mounted = mounter.mount(image, mnt, "");
    for commit in 0..6 {
        std::fs::write(mounted.join(format!("f{}-{commit}", seen[0].generation)), vec![commit; 10_000])
            .expect("a file");
        mounted.sync();
        seen.push(Seen::of(image));
    }
    mounted.unmount();
    seen.push(Seen::of(image));
    for pair in seen.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let steps = after.generation - before.generation;
        assert_eq!(after.newest(), (before.newest() + steps as usize) % 4, "after {steps} commits");
        for slot in (0..4).filter(|slot| after.backups[*slot]["tree_root.gen"] <= before.generation) {
            assert_eq!(after.backups[slot], before.backups[slot], "slot {slot}");
        }
    }
    seen
}

#[test]
fn backup_roots_are_written_as_the_kernel_writes_them() {
    let Some(work) = setup("backup_roots") else { return };
    let mnt = work.dir("mnt");
    for options in [&[][..], &["-O", "block-group-tree"]] {
        let (theirs, ours) = (work.file("theirs"), work.file("ours"));
        kernel().mkfs(&theirs, GIB, options);
        std::fs::copy(&theirs, &ours).expect("copy");
        let by_kernel = six_commits(&kernel(), &theirs, &mnt);
        let by_us = six_commits(&subject(), &ours, &mnt);
        let (last, wanted) = (&by_us[by_us.len() - 1], &by_kernel[by_kernel.len() - 1]);
        assert_eq!(last.set_fields(), wanted.set_fields());
        let constant = |seen: &Seen| ["total_bytes", "num_devices"].map(|name| seen.backups[seen.newest()][name]);
        assert_eq!(constant(last), constant(wanted));
        let fields = oracle::superblock(&ours);
        let newest = &last.backups[last.newest()];
        for (field, backup) in [("root", "tree_root"), ("chunk_root", "chunk_root"), ("bytes_used", "bytes_used")] {
            assert_eq!(fields[field], newest[backup].to_string(), "{field}");
        }
        // Each goes on where the other left off.
        six_commits(&kernel(), &ours, &mnt);
        six_commits(&subject(), &theirs, &mnt);
        for image in [&theirs, &ours] {
            oracle::assert_clean(image);
            std::fs::remove_file(image).expect("the image");
        }
    }
}
