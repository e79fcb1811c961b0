//! `butterfs man` and `butterfs completions`: the manual and a shell's completions, made of what `--help` says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::builder::Resettable;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;
use crate::failure::{self, Result};
use crate::mount_options::{self, Listed};
use crate::{exit, output};

/// System administration, where btrfs(8) and mount(8) are.
const SECTION: &str = "8";

/// What `man` is told.
#[derive(Debug, clap::Args)]
pub struct ManArguments {
    /// A directory for the pages, one for each command; it is made if it does not exist.
    #[arg(value_name = "DIRECTORY")]
    into: PathBuf,
}

/// What `completions` is told.
#[derive(Debug, clap::Args)]
pub struct CompletionsArguments {
    /// The shell; what it is to read is printed.
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the pages.
pub fn man(arguments: &ManArguments) -> Result<()> {
    let failed = |path: &Path, error: &io::Error| failure::io(exit::USAGE, path, error);
    let into = arguments.into.as_path();
    fs::create_dir_all(into).map_err(|error| failed(into, &error))?;
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    for (name, page) in pages(all).map_err(|error| failed(into, &error))? {
        let path = into.join(name);
        fs::write(&path, page).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

/// Prints the completions.
pub fn completions(arguments: &CompletionsArguments) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "butterfs", &mut text);
    output::stream(|out| out.write_all(&text)).map_err(|error| failure::io(exit::USAGE, Path::new("stdout"), &error))
}

/// The pages of a command and of those below it, with their file names.
fn pages(command: clap::Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let below: Vec<_> = command.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
    let mut found = vec![page(command)?];
    for one in below {
        found.extend(pages(one)?);
    }
    Ok(found)
}

fn page(command: clap::Command) -> io::Result<(String, Vec<u8>)> {
    let is_mount = command.get_name() == "mount";
    let after = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    let command = command.after_help(Resettable::Reset).after_long_help(Resettable::Reset);
    let has_subcommands = command.has_subcommands();
    let man =
        Man::new(command).section(SECTION).source(concat!("Butterfs ", env!("CARGO_PKG_VERSION"))).manual("Butterfs");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if has_subcommands {
        man.render_subcommands_section(&mut out)?;
    }
    let mut more = Roff::new();
    match after {
        Some(_) if is_mount => mount_option_section(&mut more),
        Some(text) => notes(&mut more, &text),
        None => {}
    }
    more.to_writer(&mut out)?;
    Ok((man.get_filename(), out))
}

/// The mount options, each with its meaning.
fn mount_option_section(page: &mut Roff) {
    page.control("SH", ["MOUNT OPTIONS"]);
    for listed in mount_options::listed() {
        match listed {
            Listed::Title(title) => page.control("SS", [title]),
            Listed::Option { name, text } => page.control("TP", []).text([bold(name)]).text([roman(text)]),
        };
    }
}

/// What the help says at its end: paragraphs, and indented lines that stay as they are.
fn notes(page: &mut Roff, text: &str) {
    let (title, text) = match text.strip_prefix("Examples:\n") {
        Some(rest) => ("EXAMPLES", rest),
        None => ("NOTES", text),
    };
    page.control("SH", [title]);
    let mut is_kept = false;
    for line in text.lines() {
        if line.starts_with("  ") != is_kept {
            is_kept = !is_kept;
            page.control(if is_kept { "nf" } else { "fi" }, []);
        }
        match line {
            "" => page.control("PP", []),
            line => page.text([roman(line)]),
        };
    }
    if is_kept {
        page.control("fi", []);
    }
}
