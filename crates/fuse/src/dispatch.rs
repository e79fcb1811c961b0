//! From a parsed request to the front end's method, and its result into a reply.
//!
//! One small function per operation that needs more than a call. INIT and DESTROY belong to the
//! connection and are not here.

use crate::Errno;
use crate::abi::{self, FattrFlags, IoctlFlags, WriteFlags};
use crate::caller;
use crate::front_end::{FrontEnd, Result};
use crate::reply::{Reply, attr_out, attr_reply_out, entry_out, sx_time};
use crate::request::{Operation, Request};
use crate::sinks::{DirSink, PlusSink, ReadSink};
use crate::types::*;

/// Whether the kernel waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It does.
    Send,
    /// It does not.
    None,
}

/// `STATX_BASIC_STATS | STATX_BTIME`.
const STATX_GIVEN: u32 = 0xfff;

/// Does a request and fills `reply`.
pub(crate) fn dispatch(front_end: &dyn FrontEnd, request: &Request<'_>, reply: &mut Reply) -> Answer {
    let node = NodeId(request.header.nodeid);
    match &request.operation {
        Operation::Forget(args) => front_end.forget(node, args.nlookup),
        Operation::BatchForget(all) => {
            all.iter().for_each(|one| front_end.forget(NodeId(one.nodeid), one.nlookup));
        }
        Operation::Interrupt => {}
        _ => {
            let caller = caller::of(&request.header, &request.operation);
            let call = Call { front_end, caller: &caller, node };
            if let Err(errno) = call.run(&request.operation, reply) {
                reply.set_error(errno);
            }
            return Answer::Send;
        }
    }
    Answer::None
}

/// A request on its way into the front end.
struct Call<'a> {
    front_end: &'a dyn FrontEnd,
    caller: &'a Caller,
    node: NodeId,
}

impl Call<'_> {
    /// Does an operation: first those on names, then those on files.
    fn run(&self, operation: &Operation<'_>, reply: &mut Reply) -> Result<()> {
        let (fe, caller, node) = (self.front_end, self.caller, self.node);
        match operation {
            Operation::Lookup { name } => entry(fe.lookup(caller, node, name), reply),
            Operation::Getattr(args) => attr(fe.getattr(caller, node, handle_if(args.getattr_flags, args.fh)), reply),
            Operation::Setattr(args) => attr(fe.setattr(caller, node, &set_attr(args)), reply),
            Operation::Statx(args) => {
                let found = fe.statx(caller, node, handle_if(args.getattr_flags, args.fh))?;
                reply.push(&statx_out(&found));
                Ok(())
            }
            Operation::Readlink => {
                reply.body = fe.readlink(caller, node)?;
                Ok(())
            }
            Operation::Symlink { name, target } => entry(fe.symlink(caller, node, name, target), reply),
            Operation::Mknod { args, name } => {
                let rdev = DeviceNumber::from_fuse(args.rdev);
                let new = NewNode { mode: args.mode, umask: args.umask, rdev };
                entry(fe.mknod(caller, node, name, &new), reply)
            }
            Operation::Mkdir { args, name } => {
                let mode = args.mode & 0o7777 | 0o040_000;
                let new = NewNode { mode, umask: args.umask, rdev: DeviceNumber::default() };
                entry(fe.mkdir(caller, node, name, &new), reply)
            }
            Operation::Unlink { name } => fe.unlink(caller, node, name),
            Operation::Rmdir { name } => fe.rmdir(caller, node, name),
            Operation::Rename { to_parent, flags, from, to } => {
                let flags = RenameFlags::from_bits(*flags).ok_or(Errno::EINVAL)?;
                fe.rename(caller, (node, from), (NodeId(*to_parent), to), flags)
            }
            Operation::Link { args, name } => entry(fe.link(caller, NodeId(args.oldnodeid), node, name), reply),
            Operation::Create { args, name } => {
                created(fe.create(caller, node, name, &new_file(args), create_mode(args)), reply)
            }
            Operation::Tmpfile { args } => created(fe.tmpfile(caller, node, &new_file(args), create_mode(args)), reply),
            Operation::Access(args) => fe.access(caller, node, args.mask),
            Operation::Statfs => {
                reply.push(&statfs_out(&fe.statfs(caller, node)?));
                Ok(())
            }
            _ => self.run_xattr(operation, reply),
        }
    }

    /// Operations on extended attributes.
    fn run_xattr(&self, operation: &Operation<'_>, reply: &mut Reply) -> Result<()> {
        let (fe, caller, node) = (self.front_end, self.caller, self.node);
        match operation {
            Operation::Setxattr { args, name, value } => {
                fe.setxattr(caller, node, name, value, xattr_mode(args.flags)?)
            }
            Operation::Getxattr { args, name } => sized(fe.getxattr(caller, node, name)?, args.size, reply),
            Operation::Listxattr(args) => sized(fe.listxattr(caller, node)?, args.size, reply),
            Operation::Removexattr { name } => fe.removexattr(caller, node, name),
            _ => self.run_file(operation, reply),
        }
    }

    /// Operations on open files and directories.
    fn run_file(&self, operation: &Operation<'_>, reply: &mut Reply) -> Result<()> {
        let (fe, caller, node) = (self.front_end, self.caller, self.node);
        match operation {
            Operation::Open(args) => opened(fe.open(caller, node, open_mode(args)), reply),
            Operation::Opendir(args) => opened(fe.opendir(caller, node, open_mode(args)), reply),
            Operation::Flush(args) => fe.flush(caller, node, FileHandle(args.fh)),
            Operation::Release(args) => fe.release(node, FileHandle(args.fh)),
            Operation::Releasedir(args) => fe.releasedir(node, FileHandle(args.fh)),
            Operation::Read(args) => {
                let wanted = args.size as usize;
                let mut sink = ReadSink::new(wanted, &mut reply.segments, &mut reply.scratch);
                fe.read(caller, self.at(args.fh, args.offset), &mut sink)
            }
            Operation::Write { args, data } => {
                let at = self.at(args.fh, args.offset);
                let written = fe.write(caller, at, data, write_mode(args))?;
                push_written(written, reply)
            }
            Operation::Readdir(args) => self.readdir(args, reply),
            Operation::Readdirplus(args) => self.readdirplus(args, reply),
            Operation::Fsync(args) => fe.fsync(caller, node, FileHandle(args.fh), scope(args)),
            Operation::Fsyncdir(args) => fe.fsyncdir(caller, node, FileHandle(args.fh), scope(args)),
            Operation::Syncfs => fe.syncfs(caller, node),
            Operation::Fallocate(args) => {
                let range = Fallocate { offset: args.offset, length: args.length, mode: args.mode };
                fe.fallocate(caller, node, FileHandle(args.fh), range)
            }
            Operation::Lseek(args) => self.lseek(args, reply),
            Operation::CopyFileRange { args, wide } => self.copy_file_range(args, *wide, reply),
            Operation::Ioctl { args, input } => self.ioctl(args, input, reply),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// A place in this request's file.
    fn at(&self, fh: u64, offset: u64) -> FilePos {
        FilePos { node: self.node, handle: FileHandle(fh), offset }
    }

    /// READDIR. An error behind some entries comes when the kernel asks again.
    fn readdir(&self, args: &abi::ReadIn, reply: &mut Reply) -> Result<()> {
        let mut sink = DirSink::new(listing_room(args), &mut reply.body);
        let result = self.front_end.readdir(self.caller, self.at(args.fh, args.offset), &mut sink);
        if reply.body.is_empty() { result } else { Ok(()) }
    }

    /// READDIRPLUS. Entries already given are counted lookups and must reach the kernel.
    fn readdirplus(&self, args: &abi::ReadIn, reply: &mut Reply) -> Result<()> {
        let mut sink = PlusSink::new(listing_room(args), &mut reply.body);
        let at = self.at(args.fh, args.offset);
        let result = self.front_end.readdirplus(self.caller, at, &mut sink);
        if reply.body.is_empty() { result } else { Ok(()) }
    }

    /// LSEEK.
    fn lseek(&self, args: &abi::LseekIn, reply: &mut Reply) -> Result<()> {
        let what = match args.whence {
            3 => Seek::Data,
            4 => Seek::Hole,
            _ => return Err(Errno::EINVAL),
        };
        let offset = self.front_end.lseek(self.caller, self.at(args.fh, args.offset), what)?;
        reply.push(&abi::LseekOut { offset });
        Ok(())
    }

    /// COPY_FILE_RANGE, whose old form can only answer 32 bits.
    fn copy_file_range(&self, args: &abi::CopyFileRangeIn, wide: bool, reply: &mut Reply) -> Result<()> {
        if args.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let length = if wide { args.len } else { args.len.min(0x7fff_f000) };
        let to = FilePos { node: NodeId(args.nodeid_out), handle: FileHandle(args.fh_out), offset: args.off_out };
        let from = self.at(args.fh_in, args.off_in);
        let bytes_copied = self.front_end.copy_file_range(self.caller, from, to, length)?;
        if wide {
            reply.push(&abi::CopyFileRangeOut { bytes_copied });
            return Ok(());
        }
        push_written(usize::try_from(bytes_copied).map_err(|_| Errno::EIO)?, reply)
    }

    /// IOCTL. An answer longer than asked for would be refused by the kernel.
    fn ioctl(&self, args: &abi::IoctlIn, input: &[u8], reply: &mut Reply) -> Result<()> {
        let call = IoctlCall {
            node: self.node,
            handle: FileHandle(args.fh),
            command: args.cmd,
            raw_argument: args.arg,
            flags: IoctlFlags::from_bits_retain(args.flags),
            input,
            output_capacity: args.out_size as usize,
        };
        let answer = self.front_end.ioctl(self.caller, &call)?;
        if answer.output.len() > call.output_capacity {
            return Err(Errno::EIO);
        }
        reply.push(&abi::IoctlOut { result: answer.result, flags: 0, in_iovs: 0, out_iovs: 0 });
        reply.body.extend_from_slice(&answer.output);
        Ok(())
    }
}

/// Replies with an entry.
fn entry(result: Result<Entry>, reply: &mut Reply) -> Result<()> {
    reply.push(&entry_out(&result?));
    Ok(())
}

/// Replies with attributes.
fn attr(result: Result<AttrReply>, reply: &mut Reply) -> Result<()> {
    reply.push(&attr_reply_out(&result?));
    Ok(())
}

/// Replies with an open file.
fn opened(result: Result<Opened>, reply: &mut Reply) -> Result<()> {
    push_opened(&result?, reply);
    Ok(())
}

/// Replies with a new and open file.
fn created(result: Result<(Entry, Opened)>, reply: &mut Reply) -> Result<()> {
    let (made, open) = result?;
    reply.push(&entry_out(&made));
    push_opened(&open, reply);
    Ok(())
}

/// Appends an open file.
fn push_opened(open: &Opened, reply: &mut Reply) {
    reply.push(&abi::OpenOut { fh: open.handle.0, open_flags: open.flags.bits(), backing_id: 0 });
}

/// Replies with a 32-bit length.
fn push_written(written: usize, reply: &mut Reply) -> Result<()> {
    let size = u32::try_from(written).map_err(|_| Errno::EIO)?;
    reply.push(&abi::WriteOut { size, padding: 0 });
    Ok(())
}

/// Replies with bytes, or with their length if the caller's room is 0.
fn sized(bytes: Vec<u8>, room: u32, reply: &mut Reply) -> Result<()> {
    let size = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
    match room {
        0 => reply.push(&abi::GetxattrOut { size, padding: 0 }),
        room if room < size => return Err(Errno::ERANGE),
        _ => reply.body = bytes,
    }
    Ok(())
}

/// The open file, when the flags say that there is one.
fn handle_if(getattr_flags: u32, fh: u64) -> Option<FileHandle> {
    (getattr_flags & abi::GETATTR_FH != 0).then_some(FileHandle(fh))
}

/// How many bytes of entries are wanted.
fn listing_room(args: &abi::ReadIn) -> usize {
    args.size.min(abi::MAX_WRITE) as usize
}

/// How a file is opened.
fn open_mode(args: &abi::OpenIn) -> OpenMode {
    OpenMode { flags: args.flags, kill_suidgid: args.open_flags & abi::OPEN_KILL_SUIDGID != 0 }
}

/// How a new file is opened.
fn create_mode(args: &abi::CreateIn) -> OpenMode {
    OpenMode { flags: args.flags, kill_suidgid: args.open_flags & abi::OPEN_KILL_SUIDGID != 0 }
}

/// What a new file is to be.
fn new_file(args: &abi::CreateIn) -> NewNode {
    NewNode { mode: args.mode, umask: args.umask, rdev: DeviceNumber::default() }
}

/// How a write came about.
fn write_mode(args: &abi::WriteIn) -> WriteMode {
    let flags = WriteFlags::from_bits_retain(args.write_flags);
    WriteMode {
        flags: args.flags,
        writeback: flags.contains(WriteFlags::CACHE),
        kill_suidgid: flags.contains(WriteFlags::KILL_SUIDGID),
    }
}

/// What an fsync is about.
fn scope(args: &abi::FsyncIn) -> SyncScope {
    match args.fsync_flags & abi::FSYNC_DATASYNC {
        0 => SyncScope::All,
        _ => SyncScope::Data,
    }
}

/// The mode in the flags of setxattr.
fn xattr_mode(flags: u32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Any),
        1 => Ok(XattrMode::Create),
        2 => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

/// What a SETATTR changes.
fn set_attr(args: &abi::SetattrIn) -> SetAttr {
    let valid = FattrFlags::from_bits_retain(args.valid);
    let has = |flag| valid.contains(flag);
    let at = |seconds: u64, nanos| Timestamp { seconds: seconds.cast_signed(), nanos };
    let time = |flag, now, value| match (has(flag), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(value)),
        (false, false) => None,
    };
    SetAttr {
        mode: has(FattrFlags::MODE).then_some(args.mode),
        uid: has(FattrFlags::UID).then_some(args.uid),
        gid: has(FattrFlags::GID).then_some(args.gid),
        size: has(FattrFlags::SIZE).then_some(args.size),
        atime: time(FattrFlags::ATIME, FattrFlags::ATIME_NOW, at(args.atime, args.atimensec)),
        mtime: time(FattrFlags::MTIME, FattrFlags::MTIME_NOW, at(args.mtime, args.mtimensec)),
        ctime: has(FattrFlags::CTIME).then_some(at(args.ctime, args.ctimensec)),
        kill_suidgid: has(FattrFlags::KILL_SUIDGID),
        handle: has(FattrFlags::FH).then_some(FileHandle(args.fh)),
    }
}

/// The answer to STATFS.
fn statfs_out(stat: &Statfs) -> abi::Kstatfs {
    abi::Kstatfs {
        blocks: stat.blocks,
        bfree: stat.free,
        bavail: stat.available,
        files: stat.files,
        ffree: stat.files_free,
        bsize: stat.block_size,
        namelen: stat.name_len,
        frsize: stat.block_size,
        padding: 0,
        spare: [0; 6],
    }
}

/// The answer to STATX. Its attributes are not cached: they would lack the birth time.
fn statx_out(found: &Statx) -> abi::StatxOut {
    let attr = attr_out(&found.attr);
    let stat = abi::StatxFields {
        mask: STATX_GIVEN,
        blksize: attr.blksize,
        attributes: found.attributes,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        spare0: 0,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: found.attributes_mask,
        atime: sx_time(found.attr.atime),
        btime: sx_time(found.btime),
        ctime: sx_time(found.attr.ctime),
        mtime: sx_time(found.attr.mtime),
        rdev_major: found.attr.rdev.major,
        rdev_minor: found.attr.rdev.minor,
        dev_major: 0,
        dev_minor: 0,
        spare2: [0; 14],
    };

    abi::StatxOut { attr_valid: 0, attr_valid_nsec: 0, flags: 0, spare: [0; 2], stat }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setattr_takes_only_what_is_valid() {
        let mut args: abi::SetattrIn = zerocopy::FromZeros::new_zeroed();
        args.size = 7;
        args.mode = 0o644;
        args.valid = (FattrFlags::SIZE | FattrFlags::ATIME | FattrFlags::ATIME_NOW).bits();
        let change = set_attr(&args);
        assert_eq!(change.size, Some(7));
        assert_eq!(change.mode, None);
        assert_eq!(change.atime, Some(SetTime::Now));
        assert_eq!(change.mtime, None);
    }

    #[test]
    fn a_sized_answer_minds_the_room() {
        let mut reply = Reply::new();
        assert_eq!(sized(vec![1, 2, 3], 2, &mut reply), Err(Errno::ERANGE));
        assert_eq!(sized(vec![1, 2, 3], 3, &mut reply), Ok(()));
        assert_eq!(reply.body, [1, 2, 3]);
        reply.clear();
        assert_eq!(sized(vec![1, 2, 3], 0, &mut reply), Ok(()));
        assert_eq!(reply.body.len(), 8);
    }
}
