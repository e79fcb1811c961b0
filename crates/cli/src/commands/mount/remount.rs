//! `mount -o remount`: other options for a mount that there is.
//!
//! The kernel knows a part of them, the daemon the rest, and neither tells the other: what forbids changes goes to the
//! kernel first, what allows them to the daemon first.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use butterfs_engine::filesystem::Settings;
use butterfs_fuse::adapter::{Changeable, Remounted};
use butterfs_fuse::control;
use butterfs_fuse::mount::{self, MountEntry, MountFlags};

use super::Plan;
use crate::exit;
use crate::failure::{self, Failure, Result};
use crate::mount_options::{Options, Unknown};
use butterfs_engine::filesystem::{Access, OpenOptions};

/// Words that a remount adds and that say nothing of the mount itself.
const NOT_SHOWN: [&str; 1] = ["remount"];

/// Runs the command.
pub fn run(plan: &Plan<'_>) -> Result<()> {
    let failed = |error: &std::io::Error| failure::io(exit::FAILED, plan.directory, error);
    let target = plan.directory.canonicalize().map_err(|error| failed(&error))?;
    let entry = MountEntry::at(&target).map_err(|error| failed(&error))?;
    if !entry.is_some_and(|entry| entry.kind.ends_with(".butterfs")) {
        return Err(Failure::at(exit::FAILED, plan.directory, "not mounted by butterfs; name one of its mount points"));
    }
    let top = File::open(&target).map_err(|error| failed(&error))?;
    let access = asked_access(&plan.shown_options);
    let tell_kernel = || {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let (mut set, mut clear) = (plan.options.set, plan.options.clear);
        match access {
            Some(Access::ReadOnly) => set |= MountFlags::READ_ONLY,
            Some(Access::ReadWrite) => clear |= MountFlags::READ_ONLY,
            None => {}
        }
        mount::remount(&target, set, clear).map_err(|error| kernel_refused(plan, &error))
    };
    if access == Some(Access::ReadOnly) {
        tell_kernel()?;
        return tell_daemon(plan, &top);
    }
    tell_daemon(plan, &top)?;
    tell_kernel()
}

/// What is asked for of `ro` and `rw`; without either it stays as it is.
fn asked_access(options: &str) -> Option<Access> {
    options.split(',').rev().find_map(|word| match word {
        "ro" => Some(Access::ReadOnly),
        "rw" => Some(Access::ReadWrite),
        _ => None,
    })
}

fn kernel_refused(plan: &Plan<'_>, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::ResourceBusy {
        let text = "busy: files are open for writing; close them (see fuser -vm), and try again";
        return Failure::at(exit::FAILED, plan.directory, text);
    }
    failure::io(exit::FAILED, plan.directory, error)
}

fn tell_daemon(plan: &Plan<'_>, top: &File) -> Result<()> {
    match control::remount(top.as_fd(), &plan.shown_options) {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(Failure::at(exit::FAILED, plan.directory, problem)),
        Err(error) => Err(failure::io(exit::FAILED, plan.directory, &error)),
    }
}

/// What of the options the adapter keeps.
pub fn changeable(options: &Options, shown_options: String) -> Changeable {
    let usual = Changeable::default();
    Changeable {
        commit_interval: options.commit.map_or(usual.commit_interval, |n| Duration::from_secs(n.into())),
        subvolume_deletion: options.subvolume_deletion,
        shown_options,
    }
}

fn settings(options: &Options) -> Settings {
    let usual = OpenOptions::default();
    Settings {
        compress: options.compress,
        new_data: options.new_data,
        max_inline: options.max_inline.unwrap_or(usual.max_inline),
        fsync: options.fsync,
        access_times: options.access_times,
        autodefrag: options.autodefrag,
        space: options.space,
    }
}

/// Reads the options of remounts, each on top of those before.
pub struct Reader {
    given: String,
}

impl Reader {
    /// For a mount that is being made.
    pub fn new(plan: &Plan<'_>) -> Self {
        let given = &plan.shown_options;
        // What is mounted read-only though nobody asked for that stays so until somebody asks.
        Self { given: if plan.is_protected { format!("{given},ro") } else { given.clone() } }
    }

    /// The function that a mount calls.
    pub fn into_function(self) -> impl Fn(&str) -> std::result::Result<Remounted, String> + Send + Sync {
        let reader = std::sync::Mutex::new(self);
        move |text| reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner).read(text)
    }

    fn read(&mut self, text: &str) -> std::result::Result<Remounted, String> {
        let parse = |text: &str| Options::parse(&[text.to_owned()], Unknown::Ignore);
        let before = parse(&self.given)?;
        let words = self.given.split(',').chain(text.split(','));
        let all: Vec<&str> = words.filter(|word| !word.is_empty() && !NOT_SHOWN.contains(word)).collect();
        let all = all.join(",");
        let after = parse(&all)?;
        if let Some(name) = after.unchangeable(&before) {
            return Err(format!("{name} cannot be changed by a remount; unmount it, and mount it with other options"));
        }
        self.given.clone_from(&all);
        Ok(Remounted { access: after.access, settings: settings(&after), changeable: changeable(&after, all) })
    }
}

#[cfg(test)]
mod tests {
    use butterfs_engine::file::CompressRule;

    use super::*;

    #[test]
    fn options_add_up() {
        let mut reader = Reader { given: "noatime,subvol=/a".into() };
        let found = reader.read("remount,ro,compress=lzo,subvol=/a").unwrap();
        assert_eq!(found.access, Access::ReadOnly);
        assert!(matches!(found.settings.compress, CompressRule::All(_)));
        assert_eq!(found.changeable.shown_options, "noatime,subvol=/a,ro,compress=lzo,subvol=/a");
        assert_eq!(reader.read("remount,rw,commit=7").unwrap().changeable.commit_interval, Duration::from_secs(7));
        assert!(reader.read("subvol=/b").unwrap_err().contains("subvol"));
        assert!(reader.read("commit=x").unwrap_err().contains("commit=x"));
        // What was refused left no trace.
        assert!(reader.read("noacl").unwrap_err().contains("acl"));
        assert!(reader.read("").is_ok());
    }

    #[test]
    fn what_is_mounted_for_reading_stays_so_until_rw_is_asked_for() {
        let mut reader = Reader { given: "ro".into() };
        assert_eq!(reader.read("remount,compress=zstd").unwrap().access, Access::ReadOnly);
        assert_eq!(reader.read("remount,rw").unwrap().access, Access::ReadWrite);
        let mut reader = Reader { given: "ro,nologreplay".into() };
        assert!(reader.read("remount,rw").is_err(), "an option that is for reading only");
    }
}
