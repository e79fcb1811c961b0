//! Parsing of requests: bytes from the kernel to one [`Operation`].
//!
//! # Invariants
//! * Any bytes give a request or a [`Malformed`]; nothing panics.
//! * A name is not empty and has neither `/` nor NUL in it.

use crate::abi::{self, opcode};
use zerocopy::FromBytes;

/// A request that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not even a header, or a header with a wrong length.
    #[error("a request of {got} bytes has no valid header")]
    Header {
        /// How many bytes were read.
        got: usize,
    },
    /// The arguments do not fit the operation.
    #[error("request {unique}: bad arguments for operation {opcode}")]
    Arguments {
        /// The request to answer.
        unique: u64,
        /// The operation.
        opcode: u32,
    },
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Who asks about which inode.
    pub header: abi::InHeader,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// An operation with its arguments.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variants are the protocol's operations and their arguments")]
pub enum Operation<'a> {
    Lookup { name: &'a [u8] },
    Forget(abi::ForgetIn),
    BatchForget(Vec<abi::ForgetOne>),
    Getattr(abi::GetattrIn),
    Setattr(abi::SetattrIn),
    Statx(abi::StatxIn),
    Readlink,
    Symlink { name: &'a [u8], target: &'a [u8] },
    Mknod { args: abi::MknodIn, name: &'a [u8] },
    Mkdir { args: abi::MkdirIn, name: &'a [u8] },
    Unlink { name: &'a [u8] },
    Rmdir { name: &'a [u8] },
    Rename { to_parent: u64, flags: u32, from: &'a [u8], to: &'a [u8] },
    Link { args: abi::LinkIn, name: &'a [u8] },
    Create { args: abi::CreateIn, name: &'a [u8] },
    Tmpfile { args: abi::CreateIn },
    Open(abi::OpenIn),
    Flush(abi::FlushIn),
    Release(abi::ReleaseIn),
    Read(abi::ReadIn),
    Write { args: abi::WriteIn, data: &'a [u8] },
    Fsync(abi::FsyncIn),
    Fsyncdir(abi::FsyncIn),
    Syncfs,
    Fallocate(abi::FallocateIn),
    Lseek(abi::LseekIn),
    CopyFileRange { args: abi::CopyFileRangeIn, wide: bool },
    Opendir(abi::OpenIn),
    Releasedir(abi::ReleaseIn),
    Readdir(abi::ReadIn),
    Readdirplus(abi::ReadIn),
    Statfs,
    Setxattr { args: abi::SetxattrIn, name: &'a [u8], value: &'a [u8] },
    Getxattr { args: abi::GetxattrIn, name: &'a [u8] },
    Listxattr(abi::GetxattrIn),
    Removexattr { name: &'a [u8] },
    Access(abi::AccessIn),
    Ioctl { args: abi::IoctlIn, input: &'a [u8] },
    Init(abi::InitIn),
    Destroy,
    Interrupt,
    Unknown,
}

impl<'a> Request<'a> {
    /// Parses what one read of the device gave.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let bad_header = Malformed::Header { got: bytes.len() };
        let (header, rest) = abi::InHeader::read_from_prefix(bytes).map_err(|_| bad_header)?;
        if header.len as usize != bytes.len() {
            return Err(bad_header);
        }
        Self::of_parts(header, &[], rest)
    }

    /// Parses what an entry of a ring got: the fixed part of the arguments lies apart from the rest.
    pub fn parse_parts(header: &'a [u8], fixed: &'a [u8], rest: &'a [u8]) -> Result<Self, Malformed> {
        let bad_header = Malformed::Header { got: header.len() };
        let (header, _) = abi::InHeader::read_from_prefix(header).map_err(|_| bad_header)?;
        let fixed_len = (header.len as usize).checked_sub(size_of::<abi::InHeader>() + rest.len());
        let bad = Malformed::Arguments { unique: header.unique, opcode: header.opcode };
        let fixed = fixed_len.and_then(|len| fixed.get(..len)).ok_or(bad)?;
        Self::of_parts(header, fixed, rest)
    }

    fn of_parts(header: abi::InHeader, fixed: &'a [u8], rest: &'a [u8]) -> Result<Self, Malformed> {
        let bad = Malformed::Arguments { unique: header.unique, opcode: header.opcode };
        let extensions = usize::from(header.total_extlen) * 8;
        let len = rest.len().checked_sub(extensions).ok_or(bad)?;
        let args = Args { fixed, rest: &rest[..len] };
        let operation = operation(header.opcode, args).ok_or(bad)?;
        Ok(Self { header, operation })
    }
}

/// Arguments not read yet: `fixed` come before the rest.
struct Args<'a> {
    fixed: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    /// The next struct.
    fn take<T: FromBytes>(&mut self) -> Option<T> {
        let place = if self.fixed.is_empty() { &mut self.rest } else { &mut self.fixed };
        let (value, rest) = T::read_from_prefix(place).ok()?;
        *place = rest;
        Some(value)
    }

    /// The next string, up to its NUL.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == 0)?;
        let (string, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(string)
    }

    /// The next string, which is a name in a directory (or `.`, or `..`).
    fn name(&mut self) -> Option<&'a [u8]> {
        self.string().filter(|name| !name.is_empty() && !name.contains(&b'/'))
    }

    /// The next `len` bytes.
    fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len as usize)?;
        self.rest = rest;
        Some(bytes)
    }
}

/// Parses the arguments of an operation.
fn operation(code: u32, mut args: Args<'_>) -> Option<Operation<'_>> {
    let args = &mut args;
    names(code, args).or_else(|| files(code, args))
}

/// Operations on names and inodes. `None` also means: not one of these.
fn names<'a>(code: u32, args: &mut Args<'a>) -> Option<Operation<'a>> {
    Some(match code {
        opcode::LOOKUP => Operation::Lookup { name: args.name()? },
        opcode::FORGET => Operation::Forget(args.take()?),
        opcode::BATCH_FORGET => Operation::BatchForget(batch_forget(args)?),
        opcode::GETATTR => Operation::Getattr(args.take()?),
        opcode::SETATTR => Operation::Setattr(args.take()?),
        opcode::STATX => Operation::Statx(args.take()?),
        opcode::READLINK => Operation::Readlink,
        opcode::SYMLINK => Operation::Symlink { name: args.name()?, target: args.string()? },
        opcode::MKNOD => Operation::Mknod { args: args.take()?, name: args.name()? },
        opcode::MKDIR => Operation::Mkdir { args: args.take()?, name: args.name()? },
        opcode::UNLINK => Operation::Unlink { name: args.name()? },
        opcode::RMDIR => Operation::Rmdir { name: args.name()? },
        opcode::RENAME => rename(args.take::<abi::RenameIn>()?.newdir, 0, args)?,
        opcode::RENAME2 => {
            let fixed = args.take::<abi::Rename2In>()?;
            rename(fixed.newdir, fixed.flags, args)?
        }
        opcode::LINK => Operation::Link { args: args.take()?, name: args.name()? },
        opcode::CREATE => Operation::Create { args: args.take()?, name: args.name()? },
        opcode::TMPFILE => Operation::Tmpfile { args: args.take()? },
        opcode::STATFS => Operation::Statfs,
        opcode::SETXATTR => setxattr(args)?,
        opcode::GETXATTR => Operation::Getxattr { args: args.take()?, name: args.string()? },
        opcode::LISTXATTR => Operation::Listxattr(args.take()?),
        opcode::REMOVEXATTR => Operation::Removexattr { name: args.string()? },
        opcode::ACCESS => Operation::Access(args.take()?),
        _ => return None,
    })
}

/// Operations on open files, and on the connection.
fn files<'a>(code: u32, args: &mut Args<'a>) -> Option<Operation<'a>> {
    Some(match code {
        opcode::OPEN => Operation::Open(args.take()?),
        opcode::FLUSH => Operation::Flush(args.take()?),
        opcode::RELEASE => Operation::Release(args.take()?),
        opcode::READ => Operation::Read(args.take()?),
        opcode::WRITE => write(args)?,
        opcode::FSYNC => Operation::Fsync(args.take()?),
        opcode::FSYNCDIR => Operation::Fsyncdir(args.take()?),
        opcode::SYNCFS => Operation::Syncfs,
        opcode::FALLOCATE => Operation::Fallocate(args.take()?),
        opcode::LSEEK => Operation::Lseek(args.take()?),
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange { args: args.take()?, wide: false },
        opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange { args: args.take()?, wide: true },
        opcode::OPENDIR => Operation::Opendir(args.take()?),
        opcode::RELEASEDIR => Operation::Releasedir(args.take()?),
        opcode::READDIR => Operation::Readdir(args.take()?),
        opcode::READDIRPLUS => Operation::Readdirplus(args.take()?),
        opcode::IOCTL => ioctl(args)?,
        opcode::INIT => Operation::Init(init(args)?),
        opcode::DESTROY => Operation::Destroy,
        opcode::INTERRUPT => Operation::Interrupt,
        _ if is_name_operation(code) => return None,
        _ => Operation::Unknown,
    })
}

/// Whether `names` is who parses this operation, and has refused it.
fn is_name_operation(code: u32) -> bool {
    matches!(
        code,
        opcode::LOOKUP..=opcode::SYMLINK
            | opcode::MKNOD..=opcode::LINK
            | opcode::STATFS
            | opcode::SETXATTR..=opcode::REMOVEXATTR
            | opcode::ACCESS
            | opcode::CREATE
            | opcode::BATCH_FORGET
            | opcode::RENAME2
            | opcode::TMPFILE
            | opcode::STATX
    )
}

/// The inodes of a BATCH_FORGET.
fn batch_forget(args: &mut Args<'_>) -> Option<Vec<abi::ForgetOne>> {
    let count = args.take::<abi::BatchForgetIn>()?.count as usize;
    if args.rest.len() / size_of::<abi::ForgetOne>() < count {
        return None;
    }
    (0..count).map(|_| args.take()).collect()
}

/// Both renames.
fn rename<'a>(to_parent: u64, flags: u32, args: &mut Args<'a>) -> Option<Operation<'a>> {
    Some(Operation::Rename { to_parent, flags, from: args.name()?, to: args.name()? })
}

/// SETXATTR with the bytes it announces.
fn setxattr<'a>(args: &mut Args<'a>) -> Option<Operation<'a>> {
    let fixed = args.take::<abi::SetxattrIn>()?;
    let name = args.string().filter(|name| !name.is_empty())?;
    Some(Operation::Setxattr { args: fixed, name, value: args.bytes(fixed.size)? })
}

/// WRITE with the bytes it announces.
fn write<'a>(args: &mut Args<'a>) -> Option<Operation<'a>> {
    let fixed = args.take::<abi::WriteIn>()?;
    Some(Operation::Write { args: fixed, data: args.bytes(fixed.size)? })
}

/// IOCTL with the bytes it announces.
fn ioctl<'a>(args: &mut Args<'a>) -> Option<Operation<'a>> {
    let fixed = args.take::<abi::IoctlIn>()?;
    Some(Operation::Ioctl { args: fixed, input: args.bytes(fixed.in_size)? })
}

/// INIT, which is shorter from kernels before protocol 7.36.
fn init(args: &mut Args<'_>) -> Option<abi::InitIn> {
    let mut bytes = [0_u8; size_of::<abi::InitIn>()];
    let len = args.rest.len().min(bytes.len());
    if len < 16 {
        return None;
    }
    bytes[..len].copy_from_slice(&args.rest[..len]);
    Some(zerocopy::transmute!(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    /// A request with that operation and arguments.
    fn request(opcode: u32, args: &[u8]) -> Vec<u8> {
        let header = abi::InHeader {
            len: (size_of::<abi::InHeader>() + args.len()) as u32,
            opcode,
            unique: 3,
            nodeid: 1,
            uid: 0,
            gid: 0,
            pid: 0,
            total_extlen: 0,
            padding: 0,
        };
        [header.as_bytes(), args].concat()
    }

    /// A small generator of bytes, the same in each run.
    fn noise(seed: &mut u64) -> u8 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 24) as u8
    }

    #[test]
    fn names_are_cut_at_their_nul() {
        let bytes = request(opcode::LOOKUP, b"hello\0");
        let parsed = Request::parse(&bytes).unwrap();
        assert!(matches!(parsed.operation, Operation::Lookup { name: b"hello" }));
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [&b"hello"[..], b"\0", b"a/b\0", b""] {
            let bytes = request(opcode::LOOKUP, name);
            let malformed = Malformed::Arguments { unique: 3, opcode: opcode::LOOKUP };
            assert_eq!(Request::parse(&bytes).unwrap_err(), malformed);
        }
    }

    #[test]
    fn a_write_must_hold_the_bytes_it_announces() {
        let mut args = [0_u8; 40];
        args[16..20].copy_from_slice(&5_u32.to_ne_bytes());
        let whole = request(opcode::WRITE, &[&args[..], b"12345"].concat());
        let parsed = Request::parse(&whole).unwrap();
        assert!(matches!(parsed.operation, Operation::Write { data: b"12345", .. }));
        let short = request(opcode::WRITE, &[&args[..], b"1234"].concat());
        assert!(Request::parse(&short).is_err());
    }

    #[test]
    fn a_batch_forget_of_billions_takes_no_memory() {
        let bytes = request(opcode::BATCH_FORGET, &[0xff; 24]);
        assert!(Request::parse(&bytes).is_err());
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        let mut bytes = request(opcode::STATFS, &[]);
        bytes.push(0);
        assert_eq!(Request::parse(&bytes).unwrap_err(), Malformed::Header { got: 41 });
        let mut bytes = request(opcode::STATFS, &[]);
        bytes[36] = 1;
        assert!(Request::parse(&bytes).is_err());
    }

    #[test]
    fn every_operation_refuses_to_be_empty_or_needs_nothing() {
        let free = [opcode::READLINK, opcode::STATFS, opcode::SYNCFS, opcode::DESTROY, opcode::INTERRUPT];
        for code in 0..100 {
            let bytes = request(code, &[]);
            match Request::parse(&bytes) {
                Ok(parsed) if free.contains(&code) => {
                    assert!(!matches!(parsed.operation, Operation::Unknown));
                }
                Ok(parsed) => assert!(matches!(parsed.operation, Operation::Unknown), "{code}"),
                Err(_) => assert!(!free.contains(&code)),
            }
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut seed = 0x1234_5678_9abc_def1;
        for round in 0..40_000_u32 {
            let args: Vec<u8> = (0..noise(&mut seed)).map(|_| noise(&mut seed)).collect();
            let bytes = request(round % 60, &args);
            let _ = Request::parse(&bytes);
            let _ = Request::parse(&args);
        }
    }
}
