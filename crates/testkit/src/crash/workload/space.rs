//! Operations on space that change nothing that anybody sees: block groups are emptied, free space is discarded.

use butterfs_engine::Error;
use butterfs_engine::filesystem::NewLength;
use butterfs_engine::relocate::{GroupFilter, Room};
use butterfs_engine::tx::Trim;
use butterfs_format::items::{BalanceArgs, BalanceFilters, BalanceFlags, BalanceItem, BlockGroupFlags, SINGLE};

use super::{LARGE_LEN, Run};
use crate::crash::history::Durable;

impl Run {
    pub(super) fn relocate(&mut self) {
        let kind = if self.random.percent(50) { BlockGroupFlags::DATA } else { BlockGroupFlags::METADATA };
        let percent = 10 + self.random.below(91) as u8;
        self.step(
            format!("relocate {kind} groups that are used to {percent}%"),
            Durable::Nothing,
            |run| match run.filesystem.relocate(&GroupFilter::used_at_most(kind, percent), Room::NewChunks) {
                // A deleted subvolume is in use.
                Err(Error::Busy(_)) => Ok(0),
                result => result,
            },
            |_, _| {},
        );
    }

    /// To another profile that survives as much; now and then it pauses at once.
    pub(super) fn balance(&mut self) {
        if self.filesystem.balance_status().is_some() {
            return;
        }
        let targets = self.targets();
        if self.devices.away.is_some() || targets.is_empty() {
            return;
        }
        let target = targets[self.random.below(targets.len() as u64) as usize];
        let mut args = BalanceArgs::default();
        if self.random.percent(70) {
            args.use_filters(BalanceFilters::CONVERT);
            args.target = if target.is_empty() { SINGLE } else { target.bits() }.into();
        }
        let flags = BalanceFlags::from_bits_truncate(1 + self.random.below(7)) | BalanceFlags::FORCE;
        let item = BalanceItem {
            flags: flags.bits().into(),
            data: args,
            metadata: args,
            system: args,
            ..BalanceItem::default()
        };
        let pauses = self.random.percent(30);
        let how = if pauses { ", and pause" } else { "" };
        self.step(
            format!("balance {flags:?} to {}{how}", target.profile_name()),
            Durable::Nothing,
            |run| {
                let turn = run.filesystem.begin_balance(&item)?;
                if pauses {
                    run.filesystem.ask_balance_to_pause();
                }
                match run.filesystem.run_balance(turn) {
                    // A deleted subvolume is in use.
                    Ok(_) | Err(Error::Busy(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            },
            |_, _| {},
        );
    }

    /// Profiles that survive as much, also while a device is away.
    fn targets(&self) -> Vec<BlockGroupFlags> {
        use BlockGroupFlags as Flags;
        let devices = self.devices.members.len();
        match (self.devices.least, self.survives) {
            (1, _) => vec![Flags::empty(), Flags::DUP],
            _ if self.devices.all.len() > self.devices.least => {
                let all = [
                    (Flags::RAID1, 1, 2),
                    (Flags::RAID10, 1, 4),
                    (Flags::RAID5, 1, 2),
                    (Flags::RAID1C3, 2, 3),
                    (Flags::RAID6, 2, 3),
                    (Flags::RAID1C4, 3, 4),
                ];
                let fits =
                    |(_, survives, least): &(Flags, usize, usize)| *survives >= self.survives && *least < devices;
                all.into_iter().filter(fits).map(|(profile, ..)| profile).collect()
            }
            (2, _) => vec![Flags::RAID1, Flags::RAID10],
            _ => vec![Flags::RAID1, Flags::RAID10, Flags::RAID1C3],
        }
    }

    pub(super) fn resume_balance(&mut self) {
        if self.filesystem.balance_status().is_none() || self.devices.away.is_some() {
            return;
        }
        self.step(
            "resume the balance".into(),
            Durable::Nothing,
            |run| match run.filesystem.resume_balance() {
                Ok(_) | Err(Error::Busy(_)) => Ok(()),
                Err(error) => Err(error),
            },
            |_, _| {},
        );
    }

    pub(super) fn resize(&mut self) {
        if self.devices.away.is_some() {
            return;
        }
        let chosen = self.random.below(self.devices.members.len() as u64) as usize;
        let devid = self.devices.members[chosen].0;
        let length = match self.random.below(3) {
            0 => NewLength::Max,
            _ => NewLength::Bytes((300 << 20) + self.random.below(LARGE_LEN - (300 << 20))),
        };
        self.step(
            format!("resize device {devid} to {length:?}"),
            Durable::Nothing,
            |run| match run.filesystem.resize_device(devid, length) {
                // A balance is paused, or a deleted subvolume is in use.
                Ok(_) | Err(Error::InProgress(_) | Error::Busy(_)) => Ok(()),
                Err(error) => Err(error),
            },
            |_, _| {},
        );
    }

    pub(super) fn discard(&mut self) {
        // Groups may get parity later: a device that forgets what it read as would break it.
        if self.devices.all.len() > self.devices.least {
            return;
        }
        let trim = Trim { range: 0..u64::MAX, minimum: self.random.below(1 << 20) };
        let all = self.random.percent(30);
        self.step(
            if all { "trim".into() } else { "discard some".into() },
            Durable::Nothing,
            |run| {
                if all {
                    run.filesystem.trim(&trim).map(drop)
                } else {
                    run.filesystem.shared().gate.discard_some(8).map(drop)
                }
            },
            |_, _| {},
        );
    }
}
