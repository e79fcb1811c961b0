//! The features that `-O` chooses from.

use butterfs_engine::mkfs::MakeOptions;
use butterfs_format::superblock::{CompatRo, Incompat};

use crate::output;

/// A feature that can be chosen.
pub(super) struct Feature {
    pub(super) name: &'static str,
    short: &'static str,
    about: &'static str,
    bits: Bits,
}

#[derive(Clone, Copy)]
enum Bits {
    Incompat(Incompat),
    CompatRo(CompatRo),
}

pub(super) const FEATURES: [Feature; 6] = [
    Feature {
        name: "mixed-bg",
        short: "mixed-bg",
        about: "data and metadata in the same block groups, as -M; off by default",
        bits: Bits::Incompat(Incompat::MIXED_GROUPS),
    },
    Feature {
        name: "extref",
        short: "extended-iref",
        about: "more hard links of a file in one directory",
        bits: Bits::Incompat(Incompat::EXTENDED_IREF),
    },
    Feature {
        name: "skinny-metadata",
        short: "skinny",
        about: "smaller entries for tree blocks in the extent tree",
        bits: Bits::Incompat(Incompat::SKINNY_METADATA),
    },
    Feature {
        name: "no-holes",
        short: "noholes",
        about: "no entries for holes in files",
        bits: Bits::Incompat(Incompat::NO_HOLES),
    },
    Feature {
        name: "free-space-tree",
        short: "fst",
        about: "free space kept in a tree",
        bits: Bits::CompatRo(CompatRo::FREE_SPACE_TREE.union(CompatRo::FREE_SPACE_TREE_VALID)),
    },
    Feature {
        name: "block-group-tree",
        short: "bgt",
        about: "block groups in a tree of their own",
        bits: Bits::CompatRo(CompatRo::BLOCK_GROUP_TREE),
    },
];

impl Feature {
    pub(super) fn is_in(&self, options: &MakeOptions) -> bool {
        match self.bits {
            Bits::Incompat(bits) => options.incompat.contains(bits),
            Bits::CompatRo(bits) => options.compat_ro.contains(bits),
        }
    }

    fn set(&self, options: &mut MakeOptions, on: bool) {
        match self.bits {
            Bits::Incompat(bits) => options.incompat.set(bits, on),
            Bits::CompatRo(bits) => options.compat_ro.set(bits, on),
        }
    }
}

/// Applies `-O`. What needs a feature goes with it, unless it was asked for.
pub(super) fn choose_features(options: &mut MakeOptions, lists: &[String]) -> std::result::Result<(), String> {
    let mut asked_for_bgt = false;
    for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        let (name, on) = word.strip_prefix('^').map_or((word, true), |name| (name, false));
        let feature = FEATURES.iter().find(|feature| feature.name == name || feature.short == name);
        let feature = feature.ok_or_else(|| format!("unknown feature '{name}'; see -O list-all"))?;
        feature.set(options, on);
        asked_for_bgt |= on && feature.short == "bgt";
    }
    let modern = options.incompat.contains(Incompat::NO_HOLES) && options.compat_ro.contains(CompatRo::FREE_SPACE_TREE);
    if !modern && !asked_for_bgt {
        options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
    }
    Ok(())
}

/// Prints them.
pub(super) fn list_features() {
    output::line("Features, on by default unless said; ^NAME turns one off:");
    for feature in &FEATURES {
        let also = if feature.short == feature.name { String::new() } else { format!(" (also {})", feature.short) };
        output::line(format!("{:20} {}{also}", feature.name, feature.about));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_engine::environment::SystemEnvironment;

    fn features(list: &str) -> std::result::Result<MakeOptions, String> {
        let mut options = MakeOptions::new(1 << 30, &SystemEnvironment);
        choose_features(&mut options, &[list.into()]).map(|()| options)
    }

    #[test]
    fn each_feature_can_be_turned_off() {
        for feature in &FEATURES {
            let options = features(&format!("^{}", feature.name)).unwrap();
            assert!(!feature.is_in(&options), "{}", feature.name);
        }
        assert!(features("raid56").unwrap_err().contains("'raid56'"));
    }

    /// Without the free space tree there is no block group tree, unless someone insists.
    #[test]
    fn block_group_tree_goes_with_what_it_needs() {
        assert!(!features("^fst").unwrap().compat_ro.contains(CompatRo::BLOCK_GROUP_TREE));
        assert!(features("^fst,bgt").unwrap().compat_ro.contains(CompatRo::BLOCK_GROUP_TREE));
    }
}
