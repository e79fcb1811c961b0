//! Where a daemon's log goes: standard error, a file, or the system's log.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Where to.
pub enum Destination {
    /// Standard error.
    Stderr,
    /// A file.
    File(File),
    /// The system's log, if there is one.
    Syslog,
}

/// Begins to log. `verbose` counts: warnings, information, details. `more` are further directives of the filter, such
/// as `enospc=debug`. `BUTTERFS_LOG` overrides all of it.
pub fn start(destination: Destination, verbose: u8, more: &[&str]) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let usual = std::iter::once(level).chain(more.iter().copied()).collect::<Vec<_>>().join(",");
    let filter = EnvFilter::try_from_env("BUTTERFS_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    // A log that cannot be written, because its disk is full, say, must not end the thread that logs.
    let builder = builder.log_internal_errors(false);
    // A second subscriber is refused; there is only ever one.
    let _ = match destination {
        Destination::Stderr => builder.with_writer(io::stderr).try_init(),
        Destination::File(file) => builder.with_writer(Arc::new(file)).try_init(),
        Destination::Syslog => builder.without_time().with_level(false).with_writer(Syslog::connect()).try_init(),
    };
}

/// The socket of the system's log.
struct Syslog {
    socket: Option<UnixDatagram>,
}

impl Syslog {
    fn connect() -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect("/dev/log")?;
            // A log that does not listen must not hold up the filesystem.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self { socket: socket.ok() }
    }
}

/// One message.
struct Message<'a> {
    socket: Option<&'a UnixDatagram>,
    severity: u8,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        Message { socket: self.socket.as_ref(), severity: 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Message<'a> {
        let severity = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Message { socket: self.socket.as_ref(), severity }
    }
}

impl Write for Message<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        const DAEMON: u8 = 3 << 3;
        if let Some(socket) = self.socket {
            let head = format!("<{}>butterfs[{}]: ", DAEMON | self.severity, std::process::id());
            let _ = socket.send(&[head.as_bytes(), text.trim_ascii_end()].concat());
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
