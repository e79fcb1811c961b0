//! Butterfs: Btrfs in user space. One program for all commands; under another name (`mkfs.btrfs`,
//! `mount.butterfs`...) it is that program.
//!
//! Errors are printed here and nowhere else: one line that says what is wrong and what to do.

mod commands;
mod devices;
mod exit;
mod failure;
mod host;
mod image;
mod invocation;
mod logging;
mod mount_options;
mod names;
mod output;
mod run_dir;
mod size;
mod target;
mod transfer;
mod wall_clock;

use std::process::ExitCode;

use clap::Parser;
use commands::Cli;
use invocation::Invocation;

fn main() -> ExitCode {
    let arguments = match invocation::read(std::env::args_os().collect()) {
        Invocation::Run(arguments) => arguments,
        Invocation::Nothing => return ExitCode::SUCCESS,
    };
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => {
            let name = cli.command.name();
            cli.command.run(cli.format).unwrap_or_else(|failure| failure.print(name))
        }
        Err(error) => failure::usage(&error, &arguments),
    }
}
