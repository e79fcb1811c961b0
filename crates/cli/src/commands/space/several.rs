//! The warning that block groups of one type have several profiles, as an interrupted conversion leaves them. The commands
//! that say it are those of btrfs-progs: `filesystem df`, `device usage`, `device add` and `remove`, and `balance pause` and
//! `cancel`.

use butterfs_fuse::control::{self, SpaceInfo};

use super::sums::several_profiles;
use crate::commands::work_target::{WorkTarget, ask};
use crate::output;

/// Says so, if it is so.
pub fn warn_of_several(spaces: &[SpaceInfo]) {
    let several = several_profiles(spaces);
    if several.is_empty() {
        return;
    }
    let warn = |text: String| output::say_as("WARNING", text);
    warn("Multiple block group profiles detected, see 'man btrfs(5)'".into());
    for (name, profiles) in several {
        warn(format!("   {name}: {}", profiles.join(", ")));
    }
}

/// The same of what a command worked on. Who cannot be asked was no filesystem, or its command said what is wrong.
pub fn warn_of_several_in(target: &WorkTarget) {
    let spaces = match target {
        WorkTarget::Mount(file) => control::space_infos(ask(file)).ok(),
        WorkTarget::Image(fs) => fs.space_infos().ok(),
    };
    warn_of_several(&spaces.unwrap_or_default());
}
