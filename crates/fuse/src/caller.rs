//! Who makes a request.
//!
//! Where idmapped mounts are allowed, the kernel names user and group only to those that make inodes, and there as the
//! mount maps them. What else needs them asks `/proc` for the calling thread.

use crate::abi;
use crate::request::Operation;
use crate::types::Caller;

/// In place of a user or group: not told.
const NOT_TOLD: u32 = u32::MAX;

/// The caller of a request. What cannot be found out stays an id that owns nothing.
pub(crate) fn of(header: &abi::InHeader, operation: &Operation<'_>) -> Caller {
    let told = Caller { uid: header.uid, gid: header.gid, pid: header.pid };
    if header.uid == NOT_TOLD && matters(operation) { ask(told).unwrap_or(told) } else { told }
}

/// Whether the front end checks the caller's rights itself.
fn matters(operation: &Operation<'_>) -> bool {
    matches!(
        operation,
        Operation::Ioctl { .. }
            | Operation::CopyFileRange { .. }
            | Operation::Fallocate(_)
            | Operation::Setxattr { .. }
            | Operation::Removexattr { .. }
    )
}

fn ask(caller: Caller) -> Option<Caller> {
    let status = status(&caller)?;
    Some(Caller { uid: filesystem_id(&status, "Uid:")?, gid: filesystem_id(&status, "Gid:")?, pid: caller.pid })
}

/// What `/proc` says of a caller, if he can be seen there.
pub(crate) fn status(caller: &Caller) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).ok()
}

/// What a status has in the line that begins so.
pub(crate) fn line<'s>(status: &'s str, field: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim)
}

/// The last of the four ids in a line: the one for file access.
fn filesystem_id(status: &str, field: &str) -> Option<u32> {
    line(status, field)?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(uid: u32) -> abi::InHeader {
        let mut header: abi::InHeader = zerocopy::FromZeros::new_zeroed();
        (header.uid, header.gid, header.pid) = (uid, uid, std::process::id());
        header
    }

    #[test]
    fn proc_knows_who_the_kernel_does_not_name() {
        let own = rustix::process::geteuid().as_raw();
        let ioctl = Operation::Removexattr { name: b"user.a" };
        assert_eq!(of(&header(NOT_TOLD), &ioctl).uid, own);
        assert_eq!(of(&header(7), &ioctl).uid, 7);
        assert_eq!(of(&header(NOT_TOLD), &Operation::Readlink).uid, NOT_TOLD);
    }

    #[test]
    fn the_last_id_is_for_files() {
        let status = "Name:\ta\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!((filesystem_id(status, "Uid:"), filesystem_id(status, "Gid:")), (Some(4), Some(8)));
        assert_eq!(filesystem_id("Uid:\t1", "Uid:"), None);
    }
}
