//! Opens a filesystem read-only, visits everything and reads every byte: `walk [-o rescue=WORDS] DEVICE...`.
//!
//! Prints what was there and the first problems. The status is 0 if all was had, 1 if not, 2 if it cannot be opened.

use std::process::ExitCode;
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, Rescue};
use butterfs_testkit::everything::{self, Limits};
use butterfs_volume::{BlockDevice, FileDevice, Missing, OpenMode, Volume};

const LIMITS: Limits = Limits { objects: 10_000_000, bytes: 64 << 30 };
const PROBLEMS: usize = 5;

fn open(paths: &[String], rescue: Rescue) -> Result<Filesystem, String> {
    let device = |path: &String| -> Result<Arc<dyn BlockDevice>, String> {
        Ok(Arc::new(FileDevice::open_read_only(path).map_err(|error| error.to_string())?))
    };
    let devices = paths.iter().map(device).collect::<Result<Vec<_>, _>>()?;
    let how = butterfs_volume::OpenOptions {
        missing: Missing::Accept,
        block_checksums: rescue.block_checksums(),
        ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
    };
    let volume = Volume::open_with(devices, &how).map_err(|error| error.to_string())?;
    let options = OpenOptions { access: Access::ReadOnly, rescue, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let rescue = match words.first().is_some_and(|word| word == "-o") {
        true if words.len() > 1 => words.drain(..2).nth(1).unwrap_or_default(),
        _ => String::new(),
    };
    let rescue = rescue.strip_prefix("rescue=").map_or(Ok(Rescue::empty()), Rescue::parse);
    let (Ok(rescue), false) = (rescue, words.is_empty()) else {
        eprintln!("usage: walk [-o rescue=WORDS] DEVICE...");
        return ExitCode::from(2);
    };
    match open(&words, rescue) {
        Ok(fs) => {
            let found = everything::read(&fs, LIMITS);
            let cut = if found.cut { ", cut off" } else { "" };
            println!("{} objects, {} bytes, {} problems{cut}", found.objects, found.bytes, found.problem_count);
            found.problems.iter().take(PROBLEMS).for_each(|problem| println!("{problem}"));
            ExitCode::from(u8::from(found.problem_count > 0 || found.cut))
        }
        Err(problem) => {
            println!("{problem}");
            ExitCode::from(2)
        }
    }
}
