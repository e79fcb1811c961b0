//! How block groups come and go by the user's rules.

use std::sync::Arc;

use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::tests::{FILE, judge, top};
use super::{Filesystem, OpenOptions};
use crate::environment::SystemEnvironment;
use crate::mkfs::{self, MakeOptions};
use crate::tx::SpaceRules;

pub(super) fn made(len: u64) -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(len));
    mkfs::make(device.clone(), &MakeOptions::new(len, &SystemEnvironment)).unwrap();
    device
}

pub(super) fn open_with(device: &Arc<MemDevice>, space: SpaceRules) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { space, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

fn groups(fs: &Filesystem, kind: BlockGroupFlags) -> usize {
    fs.shared.gate.view(|tx| Ok(tx.group_count(kind))).unwrap()
}

#[test]
fn metadata_ratio_keeps_groups_for_metadata() {
    for (ratio, wanted) in [(0, 1), (1, 4), (2, 2)] {
        let device = made(640 << 20);
        let fs = open_with(&device, SpaceRules { metadata_ratio: ratio, ..SpaceRules::default() });
        for name in [b"a", b"b", b"c", b"d"] {
            let id = fs.create(top(name), &FILE).unwrap();
            fs.write(id, 0, &vec![7; 56 << 20]).unwrap();
            fs.sync().unwrap();
        }
        fs.sync().unwrap();
        assert_eq!(groups(&fs, BlockGroupFlags::DATA), 4);
        assert_eq!(groups(&fs, BlockGroupFlags::METADATA), wanted, "metadata_ratio={ratio}");
        judge(&device, fs);
    }
}
