//! The profiles that `-d` and `-m` name.

use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::Profile;

/// How stripes are laid over devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProfileName {
    /// Once.
    #[value(alias = "SINGLE")]
    Single,
    /// Twice, on one device.
    #[value(alias = "DUP")]
    Dup,
    /// Once, over all devices.
    #[value(alias = "RAID0")]
    Raid0,
    /// On two devices.
    #[value(alias = "RAID1")]
    Raid1,
    /// On three devices.
    #[value(alias = "RAID1C3")]
    Raid1c3,
    /// On four devices.
    #[value(alias = "RAID1C4")]
    Raid1c4,
    /// Twice, over all devices.
    #[value(alias = "RAID10")]
    Raid10,
    /// With one stripe of parity, over all devices.
    #[value(alias = "RAID5")]
    Raid5,
    /// With two stripes of parity, over all devices.
    #[value(alias = "RAID6")]
    Raid6,
}

impl ProfileName {
    /// What `mkfs.btrfs` takes for metadata where nothing is said.
    pub(super) fn of_metadata(devices: usize) -> Self {
        if devices > 1 { Self::Raid1 } else { Self::Dup }
    }

    fn flags(self) -> BlockGroupFlags {
        match self {
            Self::Single => BlockGroupFlags::empty(),
            Self::Dup => BlockGroupFlags::DUP,
            Self::Raid0 => BlockGroupFlags::RAID0,
            Self::Raid1 => BlockGroupFlags::RAID1,
            Self::Raid1c3 => BlockGroupFlags::RAID1C3,
            Self::Raid1c4 => BlockGroupFlags::RAID1C4,
            Self::Raid10 => BlockGroupFlags::RAID10,
            Self::Raid5 => BlockGroupFlags::RAID5,
            Self::Raid6 => BlockGroupFlags::RAID6,
        }
    }

    /// The bits of the profile, if it can be made on so many devices; `what` it is for is named if not.
    pub(super) fn on(self, devices: usize, what: &str) -> Result<BlockGroupFlags, String> {
        let flags = self.flags();
        let name = shown(flags);
        let Some(profile) = Profile::of(flags) else { return Err(format!("unknown profile {name}")) };
        if devices < profile.min_devices {
            let needed = profile.min_devices;
            return Err(format!(
                "unable to create FS with {what} profile {name} (have {devices} devices but {needed} devices are \
                 required)"
            ));
        }
        Ok(flags)
    }
}

/// The name of a profile as btrfs-progs print it.
pub(super) fn shown(flags: BlockGroupFlags) -> String {
    if flags.is_empty() { flags.profile_name().into() } else { flags.profile_name().to_uppercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_needs_its_devices() {
        assert_eq!(ProfileName::Raid1c3.on(3, "data").unwrap(), BlockGroupFlags::RAID1C3);
        let refused = ProfileName::Raid1c3.on(2, "metadata").unwrap_err();
        assert!(refused.contains("metadata profile RAID1C3 (have 2 devices but 3"), "{refused}");
        assert_eq!(ProfileName::Raid5.on(2, "data").unwrap(), BlockGroupFlags::RAID5);
        assert!(ProfileName::Raid6.on(2, "data").unwrap_err().contains("3 devices are required"));
        assert_eq!(ProfileName::of_metadata(1).on(1, "metadata").unwrap(), BlockGroupFlags::DUP);
        assert_eq!(ProfileName::of_metadata(2).on(2, "metadata").unwrap(), BlockGroupFlags::RAID1);
    }
}
