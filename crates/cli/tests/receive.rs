//! `receive` without a kernel: what it refuses, and what it says of broken streams.

use butterfs_testkit::command::run;
use butterfs_testkit::fuzz::send::seeds;
use butterfs_testkit::workdir::WorkDir;
use std::process::Command;

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// Runs `receive` with these arguments and a file that holds `stream`; status, text and message.
fn receive(work: &WorkDir, arguments: &[&str], stream: &[u8]) -> (Option<i32>, String, String) {
    let path = work.file("stream");
    std::fs::write(&path, stream).expect("a file");
    let finished = run(Command::new(OURS).arg("receive").args(arguments).arg("-f").arg(&path).env("TZ", "UTC0"));
    let message = finished.stderr.replace(&path.display().to_string(), "STREAM");
    (finished.status.code(), finished.stdout, message)
}

#[test]
fn receiving_is_refused_in_words() {
    let work = WorkDir::new("receive");
    let stream = &seeds()[0];
    for arguments in [&["/mnt"][..], &[]] {
        let (status, text, message) = receive(&work, arguments, stream);
        assert_eq!((status, text.as_str()), (Some(1), ""));
        assert!(message.starts_with("butterfs receive: receiving into a filesystem is not supported yet"), "{message}");
    }
    let (status, _, message) = receive(&work, &["--dump", "/mnt"], stream);
    assert_eq!(status, Some(1));
    assert!(message.contains("cannot be used with"), "{message}");
}

/// With `-E`, one wrong command costs no other.
#[test]
fn wrong_commands_are_counted() {
    let work = WorkDir::new("receive-errors");
    let mut stream = seeds().remove(1);
    let (status, whole, message) = receive(&work, &["--dump"], &stream);
    assert_eq!((status, message.as_str()), (Some(0), ""));
    // In the value of the first attribute of the first command: the path of the snapshot.
    stream[31] ^= 1;
    let wrong = "send stream offset 17, command snapshot: crc32 mismatch in command: 0x";
    for (arguments, lines) in [(&["--dump"][..], 0), (&["--dump", "-E", "2"], 30), (&["--dump", "-e", "-E", "0"], 30)] {
        let (status, text, message) = receive(&work, arguments, &stream);
        assert_eq!(status, Some(1), "{message}");
        assert!(message.contains(wrong) && message.contains("STREAM: failed to dump the send stream: "), "{message}");
        assert_eq!(text.lines().count().min(30), lines.min(whole.lines().count() - 1), "{text}");
    }
}
