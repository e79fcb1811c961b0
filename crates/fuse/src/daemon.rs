//! Going into the background: the program that was called ends once the filesystem is mounted,
//! or with the error that prevented it.
//!
//! # Invariants
//! * The fork happens before any thread is started.
//! * The launcher ends in any case: with the daemon's word, or when the daemon is gone.

use butterfs_os::process::{Fork, fork};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU8;
use std::os::fd::AsFd;

/// Which of the two processes this is now.
#[derive(Debug)]
pub enum Background {
    /// The one that was called. It should print the outcome's message and exit with its code.
    Launcher(Outcome),
    /// The one that stays. It must call one of [`Ready`]'s methods.
    Daemon(Ready),
}

/// How the daemon's start went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; 0: mounted.
    pub code: u8,
    /// What went wrong.
    pub message: Option<String>,
}

/// Starts the daemon. In the launcher it returns when the daemon has spoken or died.
pub fn start() -> io::Result<Background> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Fork::Parent(child) => {
            drop(write);
            listen(File::from(read), child).map(Background::Launcher)
        }
        Fork::Child => {
            drop(read);
            setsid()?;
            Ok(Background::Daemon(Ready { launcher: File::from(write) }))
        }
    }
}

/// The daemon's duty to tell the launcher how it went.
#[derive(Debug)]
#[must_use = "the launcher waits for the daemon's word"]
pub struct Ready {
    launcher: File,
}

impl Ready {
    /// The filesystem is mounted: lets the launcher go, leaves its directory, and turns standard
    /// input, output and error to `log`, or to nothing.
    pub fn mounted(mut self, log: Option<&File>) -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        std::env::set_current_dir("/")?;
        rustix::stdio::dup2_stdin(&null)?;
        let out = log.map_or(null.as_fd(), AsFd::as_fd);
        rustix::stdio::dup2_stdout(out)?;
        rustix::stdio::dup2_stderr(out)?;
        self.launcher.write_all(&[0])
    }

    /// It cannot be mounted: the launcher will say why.
    pub fn failed(mut self, code: NonZeroU8, message: &str) -> io::Result<()> {
        self.launcher.write_all(&[&[code.get()], message.as_bytes()].concat())
    }
}

/// Waits for the daemon's word.
fn listen(mut pipe: File, child: Pid) -> io::Result<Outcome> {
    let mut word = Vec::new();
    pipe.read_to_end(&mut word)?;
    Ok(match word.split_first() {
        Some((0, _)) => Outcome { code: 0, message: None },
        Some((&code, text)) => Outcome { code, message: Some(String::from_utf8_lossy(text).into_owned()) },
        None => silent(child),
    })
}

/// The daemon died without a word.
fn silent(child: Pid) -> Outcome {
    let how = match waitpid(Some(child), WaitOptions::empty()) {
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!(" with exit code {code}"),
            (None, Some(signal)) => format!(" by signal {signal}"),
            (None, None) => String::new(),
        },
        _ => String::new(),
    };
    let message = format!("the daemon ended{how} before the filesystem was mounted");
    Outcome { code: 1, message: Some(message) }
}
