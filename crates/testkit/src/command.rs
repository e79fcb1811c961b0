//! Runs a program and keeps what it said.

use std::process::{Command, ExitStatus, Stdio};

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as text.
    pub stdout: String,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Panics unless the program exited with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end without input.
pub fn run(command: &mut Command) -> Finished {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    Finished {
        command: line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `program` with `arguments`; see [`run`].
pub fn run_program<A: AsRef<std::ffi::OsStr>>(program: &str, arguments: &[A]) -> Finished {
    run(Command::new(program).args(arguments))
}
