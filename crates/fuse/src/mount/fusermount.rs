//! Mounting without root: the setuid helper `fusermount3` mounts and sends the descriptor back.

use super::{MountError, MountFlags, MountKind, MountOptions, MountSource, Mounted};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The helper. Found through the search path.
const HELPER: &str = "fusermount3";

/// Mounts. The helper's end of the socket is its standard input, descriptor 0.
pub(super) fn mount(source: &MountSource, target: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    if !Path::new(crate::transport::dev::DEVICE).exists() {
        return Err(MountError::NoFuse);
    }
    let refused = |source: io::Error| MountError::Refused { target: target.to_path_buf(), source };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| refused(errno.into()))?;
    let output = Command::new(HELPER)
        .args(["-o", &option_string(source, options), "--"])
        .arg(target)
        .env("_FUSE_COMMFD", "0")
        .stdin(theirs)
        .stdout(Stdio::null())
        .output()
        .map_err(|error| start_error(target, error))?;
    if !output.status.success() {
        return Err(helper_error(target, &output));
    }
    let device = receive(&ours).map_err(refused)?;
    Ok(Mounted { device, kind: MountKind::Fuse, loop_device: None })
}

/// Unmounts with the helper.
pub(super) fn unmount(target: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output =
        command.arg("--").arg(target).stdin(Stdio::null()).output().map_err(|error| start_error(target, error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(helper_error(target, &output)),
    }
}

/// The options, in the helper's syntax.
fn option_string(source: &MountSource, options: &MountOptions) -> String {
    let pairs = [
        (MountFlags::READ_ONLY, "ro"),
        (MountFlags::NO_ATIME, "noatime"),
        (MountFlags::NO_SUID, "nosuid"),
        (MountFlags::NO_DEV, "nodev"),
        (MountFlags::NO_EXEC, "noexec"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIR_SYNC, "dirsync"),
        (MountFlags::ALLOW_OTHER, "allow_other"),
        (MountFlags::DEFAULT_PERMISSIONS, "default_permissions"),
    ];
    let mut all = vec![format!("fsname={}", escape(&source.name()))];
    all.push(format!("subtype={}", escape(&options.subtype)));
    all.extend(pairs.iter().filter(|(flag, _)| options.has(*flag)).map(|(_, text)| (*text).into()));
    all.join(",")
}

/// Commas and backslashes in a value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// The helper could not be started.
fn start_error(target: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NoFusermount,
        _ => MountError::Fusermount { target: target.to_path_buf(), message: format!("{HELPER}: {error}") },
    }
}

/// The helper failed.
fn helper_error(target: &Path, output: &Output) -> MountError {
    let target = target.to_path_buf();
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    match text {
        _ if text.contains("user_allow_other") => MountError::AllowOther,
        _ if text.contains("failed to open /dev/fuse: Permission denied") => {
            MountError::Fuse(io::ErrorKind::PermissionDenied.into())
        }
        _ if text.contains("busy") => MountError::Busy { target },
        _ if text.contains("not found in") => MountError::NotMounted { target },
        _ if text.contains("Operation not permitted") || text.contains("no write access") => {
            MountError::NotPermitted { target }
        }
        "" => MountError::Fusermount { target, message: format!("{HELPER} ended with {}", output.status) },
        _ => MountError::Fusermount { target, message: text.lines().last().unwrap_or(text).into() },
    }
}

/// Receives the descriptor.
fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other("fusermount3 sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_become_options() {
        let source = MountSource::Named("a,allow_other\\".into());
        let text = option_string(&source, &MountOptions::for_user());
        assert_eq!(text, r"fsname=a\,allow_other\\,subtype=butterfs,nosuid,nodev,default_permissions");
    }
}
