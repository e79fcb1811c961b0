//! `butterfs check --repair` and its relatives: a plan, shown; then, if wanted, carried out or taken back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_check::{superblock_copy, with_superblock};
use butterfs_repair::{Bounds, Error as RepairError, Goal, Options, Plan, Renew, Verdict};
use butterfs_volume::OpenMode;
use serde_json::{Value, json};

use super::plan::{confirm, fsid, step_json, undo_file_beside};
use super::{Devices, Format, finding_json, first_image, open_devices, progress, progress_bar, report_json};
use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// What `check` is told about repairing.
#[derive(Clone, Debug, clap::Args)]
pub struct Repair {
    /// Repair: show the plan, ask, write an undo file, and carry the plan out.
    #[arg(long, conflicts_with = "readonly")]
    repair: bool,
    /// Show what --repair would do, and write nothing.
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,
    /// Bring everything back to what it was before the repair that wrote this undo file.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["readonly", "repair", "dry_run", "superblock", "backup"])]
    #[arg(conflicts_with_all = ["init_extent_tree", "init_csum_tree", "force"])]
    undo: Option<PathBuf>,
    /// Where the undo file is written; without it beside the image, under its name with `.butterfs-undo`
    /// (for a block device, in the current directory).
    #[arg(long, value_name = "FILE")]
    undo_file: Option<PathBuf>,
    /// Repair also what does not make the filesystem clean, if fewer errors and no new ones are left.
    #[arg(long)]
    partial: bool,
    /// Make the extent tree anew, whatever it looks like.
    #[arg(long, conflicts_with = "readonly")]
    init_extent_tree: bool,
    /// Make the checksum tree anew from the data as it is: bad data is then taken for good.
    #[arg(long, conflicts_with = "readonly")]
    init_csum_tree: bool,
    /// With a repair: do not ask before writing; needed where there is no terminal to ask on. Without one:
    /// check what is mounted, too.
    #[arg(long, visible_alias = "yes", short_alias = 'y')]
    force: bool,
}

impl Repair {
    /// Whether more than a check is wanted.
    pub fn is_wanted(&self) -> bool {
        self.plans() || self.undo.is_some()
    }

    /// Whether what is in use is checked.
    pub fn is_forced(&self) -> bool {
        self.force
    }

    /// Whether a plan is made.
    fn plans(&self) -> bool {
        self.repair || self.dry_run || self.init_extent_tree || self.init_csum_tree
    }

    /// Options that say how to repair are of no use without one: who gives them expects it.
    ///
    /// # Errors
    /// The first of them that is given without a repair.
    pub fn refuse_idle_options(&self) -> Result<()> {
        let given = [(self.partial, "--partial"), (self.undo_file.is_some(), "--undo-file")];
        match given.into_iter().find(|(given, _)| *given && !self.plans()) {
            Some((_, option)) => Err(Failure::new(
                exit::CHECK_USAGE,
                format!("{option} is of no use without a repair; say --repair too, or leave {option} out"),
            )),
            None => Ok(()),
        }
    }
}

/// A repair's devices: what they are, and how they are shown to it.
struct Opened {
    devices: Devices,
    /// With the superblock that was asked for.
    shown: Devices,
    /// The generation of a first superblock that is passed over.
    instead_of: Option<u64>,
}

/// Runs the command.
pub fn run(arguments: &super::Arguments) -> Result<ExitCode> {
    let repair = &arguments.repair;
    // A plan that is only shown needs no right to write.
    let mode = if repair.dry_run { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let devices = open_devices(&arguments.images, mode)?;
    if let Some(file) = &repair.undo {
        butterfs_repair::undo(file, &devices).map_err(|error| failed(arguments, &error))?;
        output::line(format!("{}: is as it was before the repair", first_image(arguments).display()));
        return Ok(ExitCode::SUCCESS);
    }
    let opened = show(arguments, devices)?;
    let fsid = fsid(&opened.devices);
    let plan = make_plan(arguments, &opened)?;
    if arguments.format == Some(Format::Text) {
        print_plan(arguments, &plan);
    }
    let undo_file = undo_file(arguments);
    let write = matches!(plan.verdict, Verdict::Repaired | Verdict::Better) && !repair.dry_run;
    if write {
        if !repair.force {
            confirm(first_image(arguments), &undo_file, arguments.format.unwrap_or(Format::Text), "--force")?;
        }
        let applied = butterfs_repair::apply(&plan, &opened.devices, &undo_file, fsid);
        applied.map_err(|error| failed(arguments, &error))?;
    }
    print_outcome(arguments, &plan, write.then_some(&*undo_file));
    let clean = if write { plan.after.is_clean() } else { plan.before.is_clean() };
    Ok(ExitCode::from(if clean { 0 } else { exit::FOUND }))
}

fn failed(arguments: &super::Arguments, error: &RepairError) -> Failure {
    match error {
        RepairError::Undo { .. } if arguments.repair.undo.is_none() => {
            Failure::at(exit::NOT_CHECKED, first_image(arguments), format!("{error}; nothing was repaired"))
        }
        RepairError::Volume(error @ butterfs_volume::Error::MissingDevices(_)) => {
            Failure::at(exit::NOT_CHECKED, first_image(arguments), format!("{error}; nothing was written"))
        }
        RepairError::Volume(error) => failure::volume(exit::NOT_CHECKED, first_image(arguments), error),
        RepairError::Refused(_) | RepairError::Corruption(_) | RepairError::Engine(_) => Failure::at(
            exit::FOUND,
            first_image(arguments),
            format!("cannot be repaired: {error}; nothing was written"),
        ),
        _ => Failure::at(exit::NOT_CHECKED, first_image(arguments), error),
    }
}

/// The devices with the superblock that was asked for.
fn show(arguments: &super::Arguments, devices: Devices) -> Result<Opened> {
    if arguments.superblock.is_none() && !arguments.backup {
        return Ok(Opened { shown: devices.clone(), devices, instead_of: None });
    }
    let volume_error = |error| failure::volume(exit::NOT_CHECKED, first_image(arguments), &error);
    let first = devices.first().and_then(|device| superblock_copy(&**device, 0).ok());
    let instead_of = Some(first.map_or(0, |sb| sb.generation.get()));
    let mut shown = Devices::new();
    for device in &devices {
        let sb = match arguments.superblock {
            Some(copy) => superblock_copy(&**device, copy).map_err(volume_error)?,
            None => super::backup_superblock(&devices, &**device).map_err(volume_error)?,
        };
        shown.push(with_superblock(device.clone(), &sb));
    }
    Ok(Opened { devices, shown, instead_of })
}

fn make_plan(arguments: &super::Arguments, opened: &Opened) -> Result<Plan> {
    let repair = &arguments.repair;
    let bar = progress_bar(arguments);
    let options = Options {
        goal: if repair.partial { Goal::Better } else { Goal::Clean },
        renew: Renew { extent_tree: repair.init_extent_tree, checksum_tree: repair.init_csum_tree },
        data_csums: arguments.check_data_csum,
        bounds: Bounds { memory: arguments.memory, threads: arguments.threads },
        instead_of: opened.instead_of,
        progress: progress(bar.as_ref()),
    };
    let plan = butterfs_repair::plan(&opened.shown, &options);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    plan.map_err(|error| failed(arguments, &error))
}

fn undo_file(arguments: &super::Arguments) -> PathBuf {
    arguments.repair.undo_file.clone().unwrap_or_else(|| undo_file_beside(first_image(arguments)))
}

fn print_plan(arguments: &super::Arguments, plan: &Plan) {
    output::line(format!("Repairing {}", first_image(arguments).display()));
    output::line("Found:");
    output::line(&plan.before);
    if !plan.steps.is_empty() {
        output::line("Plan:");
    }
    output::line(plan);
    if !plan.after.is_clean() && !plan.steps.is_empty() {
        output::line("What would be left:");
        output::line(&plan.after);
    }
}

fn print_outcome(arguments: &super::Arguments, plan: &Plan, undo_file: Option<&Path>) {
    if arguments.format == Some(Format::Json) {
        return output::line(plan_json(arguments, plan, undo_file));
    }
    match (undo_file, plan.verdict) {
        (Some(file), _) => {
            let images: Vec<_> = arguments.images.iter().map(|image| image.display().to_string()).collect();
            let (file, images) = (file.display(), images.join(" "));
            output::line(format!("repaired; to undo it: butterfs check --undo {file} {images}"));
        }
        (None, Verdict::NothingToDo) => output::line("no error found"),
        (None, Verdict::Refused) => output::line("NOT REPAIRED: nothing was written"),
        (None, _) => output::line("nothing was written"),
    }
}

fn plan_json(arguments: &super::Arguments, plan: &Plan, undo_file: Option<&Path>) -> Value {
    let verdict = match plan.verdict {
        Verdict::NothingToDo => "nothing-to-do",
        Verdict::Repaired => "repaired",
        Verdict::Better => "better",
        Verdict::Refused => "refused",
    };
    json!({
        "image": first_image(arguments).display().to_string(),
        "steps": plan.steps.iter().map(step_json).collect::<Vec<_>>(),
        "verdict": verdict,
        "stopped": plan.stopped,
        "bytes": plan.bytes(),
        "written": undo_file.is_some(),
        "undo_file": undo_file.map(|file| file.display().to_string()),
        "before": report_json(arguments, None, &plan.before),
        "left": plan.after.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}
