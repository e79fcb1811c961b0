//! Defragmentation by the kernel's ioctls.

use super::{number, reply};
use crate::adapter::rights::{Deed, WRITE, require_unprotected};
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{DEFRAG_COMPRESS, DEFRAG_COMPRESS_LEVEL, DEFRAG_NO_COMPRESS, DEFRAG_START_IO, DefragRange};
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::file::{Defrag, SharedExtents};
use butterfs_engine::inode::InodeId;
use butterfs_format::compression::Choice;
use butterfs_format::items::FileType;
use zerocopy::FromBytes;

impl EngineFrontEnd {
    /// A whole file; of a directory, the tree of its subvolume.
    pub(super) fn ioctl_defrag(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        self.do_defrag(caller, call, &Defrag::default())
    }

    /// The same for a part of a file, with a choice of how.
    pub(super) fn ioctl_defrag_range(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        number(call.input, 0)?;
        let args = DefragRange::read_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        let start = args.start.get();
        let known = DEFRAG_COMPRESS | DEFRAG_START_IO | DEFRAG_COMPRESS_LEVEL | DEFRAG_NO_COMPRESS;
        if args.flags.get() & !(known | crate::control::wire::DEFRAG_BREAK_SHARED) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut wish = Defrag { range: start..start.saturating_add(args.len.get()), ..Defrag::default() };
        if args.extent_thresh.get() != 0 {
            wish.large = args.extent_thresh.get().into();
        }
        wish.compress = compression(&args)?;
        if args.flags.get() & crate::control::wire::DEFRAG_BREAK_SHARED != 0 {
            wish.shared = SharedExtents::Break;
        }
        self.do_defrag(caller, call, &wish)
    }

    fn do_defrag(&self, caller: &Caller, call: &IoctlCall<'_>, wish: &Defrag) -> Result<IoctlReply> {
        let id: InodeId = self.id(call.node)?;
        let site = Site::new("defragment", id);
        let found = self.attributes(site)?;
        match found.file_type {
            FileType::Directory => {
                self.require_privileged(caller)?;
                self.fs.defragment_tree(id.tree).map_err(|error| site.fail(&error))?;
            }
            FileType::Regular => {
                require_unprotected(&found, Deed::Change)?;
                self.require_access(caller, &found, WRITE).map_err(|_| Errno::EPERM)?;
                self.fs.defragment(id, wish).map_err(|error| site.fail(&error))?;
                self.notifier().inval_attr(call.node);
            }
            _ => return Err(Errno::EINVAL),
        }
        reply([])
    }
}

fn compression(args: &DefragRange) -> Result<Option<Choice>> {
    let flags = args.flags.get();
    if flags & DEFRAG_NO_COMPRESS != 0 {
        return if flags & DEFRAG_COMPRESS == 0 { Ok(Some(Choice::Never)) } else { Err(Errno::EINVAL) };
    }
    if flags & DEFRAG_COMPRESS == 0 {
        return Ok(None);
    }
    // With a level the field is two bytes, without it one number.
    let [kind, level, ..] = args.compress;
    let name = match kind {
        0 | 1 => "zlib",
        2 => "lzo",
        3 => "zstd",
        _ => return Err(Errno::EINVAL),
    };
    let text = match level.cast_signed() {
        level if flags & DEFRAG_COMPRESS_LEVEL != 0 && level != 0 && kind != 2 => format!("{name}:{level}"),
        _ => name.to_owned(),
    };
    text.parse().map(Some).map_err(|_| Errno::EINVAL)
}
