//! INIT: what kernel and server agree on.

use crate::abi::{self, InitFlags};
use crate::mount::MountFlags;
use crate::session::{Caching, PosixAcl, SessionOptions};
use std::io;

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The kernel's minor version of the protocol.
    pub kernel_minor: u32,
    /// What both sides do.
    pub flags: InitFlags,
    /// The longest WRITE.
    pub max_write: u32,
}

/// What is always wanted. See `facts/FUSE.md` section 6.
///
/// Not wanted: `ATOMIC_O_TRUNC` (with files that are not opened, the kernel would take the
/// truncation as done), locks (the kernel does them), `ASYNC_DIO` (when an
/// asynchronous direct write is done, the kernel does not drop what a reader has cached meanwhile, and that stays).
const WANTED: InitFlags = InitFlags::ASYNC_READ
    .union(InitFlags::EXPORT_SUPPORT)
    .union(InitFlags::BIG_WRITES)
    .union(InitFlags::DONT_MASK)
    .union(InitFlags::HAS_IOCTL_DIR)
    .union(InitFlags::DO_READDIRPLUS)
    .union(InitFlags::READDIRPLUS_AUTO)
    .union(InitFlags::NO_OPEN_SUPPORT)
    .union(InitFlags::PARALLEL_DIROPS)
    .union(InitFlags::POSIX_ACL)
    .union(InitFlags::ABORT_ERROR)
    .union(InitFlags::MAX_PAGES)
    .union(InitFlags::CACHE_SYMLINKS)
    .union(InitFlags::NO_OPENDIR_SUPPORT)
    .union(InitFlags::EXPLICIT_INVAL_DATA)
    .union(InitFlags::HANDLE_KILLPRIV_V2)
    .union(InitFlags::INIT_EXT)
    .union(InitFlags::HAS_EXPIRE_ONLY);

/// Decides on the kernel's offer; `transport` is what is possible of how requests come. An error means that the versions do not fit.
pub(crate) fn negotiate(
    offer: &abi::InitIn,
    options: &SessionOptions,
    mount: MountFlags,
    transport: InitFlags,
) -> io::Result<(Negotiated, abi::InitOut)> {
    if offer.major != abi::VERSION_MAJOR || offer.minor < abi::VERSION_MINOR_OLDEST {
        let text = format!("FUSE protocol {}.{} is not supported", offer.major, offer.minor);
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let offered = InitFlags::from_bits_truncate(u64::from(offer.flags) | u64::from(offer.flags2) << 32);
    let flags = offered & (wanted(options, mount) | transport);
    let negotiated = Negotiated { kernel_minor: offer.minor, flags, max_write: abi::MAX_WRITE };
    Ok((negotiated, init_out(offer, flags, options)))
}

/// All that we want with these options. Only root makes idmapped mounts, and the kernel refuses them where it does not
/// check permissions itself.
fn wanted(options: &SessionOptions, mount: MountFlags) -> InitFlags {
    let for_idmap = MountFlags::ALLOW_OTHER | MountFlags::DEFAULT_PERMISSIONS;
    let mut wanted = WANTED;
    wanted.set(InitFlags::ALLOW_IDMAP, mount.contains(for_idmap));
    wanted.set(InitFlags::WRITEBACK_CACHE, options.caching == Caching::Writeback);
    wanted.set(InitFlags::POSIX_ACL, options.acl == PosixAcl::Enforced);
    wanted
}

/// The answer to INIT.
fn init_out(offer: &abi::InitIn, flags: InitFlags, options: &SessionOptions) -> abi::InitOut {
    abi::InitOut {
        major: abi::VERSION_MAJOR,
        minor: abi::VERSION_MINOR,
        max_readahead: offer.max_readahead,
        flags: flags.bits() as u32,
        max_background: options.max_background,
        congestion_threshold: options.max_background / 4 * 3,
        max_write: abi::MAX_WRITE,
        time_gran: 1,
        max_pages: (abi::MAX_WRITE / 4096) as u16,
        map_alignment: 0,
        flags2: (flags.bits() >> 32) as u32,
        max_stack_depth: 0,
        request_timeout: 0,
        unused: [0; 11],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: u32) -> abi::InitIn {
        abi::InitIn { major: 7, minor, max_readahead: 0x20000, flags, flags2: u32::MAX, unused: [0; 11] }
    }

    #[test]
    fn nothing_is_claimed_that_was_not_offered() {
        let offered = InitFlags::BIG_WRITES | InitFlags::POSIX_LOCKS;
        let (negotiated, out) = negotiate(
            &offer(45, offered.bits() as u32),
            &SessionOptions::default(),
            MountFlags::empty(),
            InitFlags::empty(),
        )
        .unwrap();
        assert_eq!(out.flags, InitFlags::BIG_WRITES.bits() as u32);
        assert!(!negotiated.flags.contains(InitFlags::POSIX_LOCKS));
    }

    #[test]
    fn idmapped_mounts_need_the_kernels_checks() {
        let agreed = |flags| {
            let (negotiated, _) =
                negotiate(&offer(45, u32::MAX), &SessionOptions::default(), flags, InitFlags::empty()).unwrap();
            negotiated.flags.contains(InitFlags::ALLOW_IDMAP)
        };
        assert!(agreed(MountFlags::ALLOW_OTHER | MountFlags::DEFAULT_PERMISSIONS));
        assert!(!agreed(MountFlags::ALLOW_OTHER));
        assert!(!agreed(MountFlags::DEFAULT_PERMISSIONS));
    }

    #[test]
    fn old_protocols_are_refused() {
        let agree = |minor| {
            negotiate(&offer(minor, u32::MAX), &SessionOptions::default(), MountFlags::empty(), InitFlags::empty())
        };
        assert!(agree(30).is_err());
        assert!(agree(31).is_ok());
    }
}
