//! From attributes to typed commands.

use super::attributes::{Attributes, Problem};
use super::{Action, Attribute, CloneRange, CommandKind, EncodedWrite, Verity};

type Result<T> = std::result::Result<T, Problem>;

/// The path and the action of a command; `None` for the one that ends the stream.
pub fn command<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Option<(&'a [u8], Action<'a>)>> {
    if kind == CommandKind::End {
        return Ok(None);
    }
    let path = from.text(Attribute::Path)?;
    Ok(Some((path, action(kind, from)?)))
}

fn action<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Action<'a>> {
    match kind {
        CommandKind::Subvol | CommandKind::Snapshot => subvolume(kind, from),
        CommandKind::MkFile
        | CommandKind::MkDir
        | CommandKind::MkNod
        | CommandKind::MkFifo
        | CommandKind::MkSock
        | CommandKind::Symlink => inode(kind, from),
        CommandKind::Rename => Ok(Action::Rename { to: from.text(Attribute::PathTo)? }),
        CommandKind::Link => Ok(Action::Link { existing: from.text(Attribute::PathLink)? }),
        CommandKind::RmDir => Ok(Action::RmDir),
        CommandKind::Unlink => Ok(Action::Unlink),
        CommandKind::Write
        | CommandKind::EncodedWrite
        | CommandKind::Clone
        | CommandKind::Truncate
        | CommandKind::UpdateExtent
        | CommandKind::Fallocate => data(kind, from),
        _ => metadata(kind, from),
    }
}

fn subvolume<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Action<'a>> {
    let (uuid, ctransid) = (from.uuid(Attribute::Uuid)?, from.generation(Attribute::Ctransid)?);
    Ok(match kind {
        CommandKind::Subvol => Action::Subvol { uuid, ctransid },
        _ => Action::Snapshot {
            uuid,
            ctransid,
            clone_uuid: from.uuid(Attribute::CloneUuid)?,
            clone_ctransid: from.generation(Attribute::CloneCtransid)?,
        },
    })
}

fn inode<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Action<'a>> {
    let ino = from.ino()?;
    Ok(match kind {
        CommandKind::MkFile => Action::MkFile { ino },
        CommandKind::MkDir => Action::MkDir { ino },
        CommandKind::MkFifo => Action::MkFifo { ino },
        CommandKind::MkSock => Action::MkSock { ino },
        CommandKind::MkNod => Action::MkNod { ino, mode: from.u64(Attribute::Mode)?, rdev: from.u64(Attribute::Rdev)? },
        _ => Action::Symlink { ino, target: from.text(Attribute::PathLink)? },
    })
}

fn data<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Action<'a>> {
    if kind == CommandKind::Truncate {
        return Ok(Action::Truncate { size: from.u64(Attribute::Size)? });
    }
    let offset = from.u64(Attribute::FileOffset)?;
    Ok(match kind {
        CommandKind::Write => Action::Write { offset, data: from.bytes(Attribute::Data)? },
        CommandKind::EncodedWrite => Action::EncodedWrite(encoded(offset, from)?),
        CommandKind::Clone => Action::Clone(CloneRange {
            offset,
            len: from.u64(Attribute::CloneLen)?,
            uuid: from.uuid(Attribute::CloneUuid)?,
            ctransid: from.generation(Attribute::CloneCtransid)?,
            path: from.text(Attribute::ClonePath)?,
            clone_offset: from.u64(Attribute::CloneOffset)?,
        }),
        CommandKind::Fallocate => {
            Action::Fallocate { mode: from.u32(Attribute::FallocateMode)?, offset, len: from.u64(Attribute::Size)? }
        }
        _ => Action::UpdateExtent { offset, len: from.u64(Attribute::Size)? },
    })
}

fn encoded<'a>(offset: u64, from: &Attributes<'a>) -> Result<EncodedWrite<'a>> {
    Ok(EncodedWrite {
        offset,
        unencoded_file_len: from.u64(Attribute::UnencodedFileLen)?,
        unencoded_len: from.u64(Attribute::UnencodedLen)?,
        unencoded_offset: from.u64(Attribute::UnencodedOffset)?,
        compression: from.optional(Attribute::Compression, Attributes::u32)?.unwrap_or(0),
        encryption: from.optional(Attribute::Encryption, Attributes::u32)?.unwrap_or(0),
        data: from.bytes(Attribute::Data)?,
    })
}

fn metadata<'a>(kind: CommandKind, from: &Attributes<'a>) -> Result<Action<'a>> {
    Ok(match kind {
        CommandKind::SetXattr => {
            Action::SetXattr { name: from.text(Attribute::XattrName)?, value: from.bytes(Attribute::XattrData)? }
        }
        CommandKind::RemoveXattr => Action::RemoveXattr { name: from.text(Attribute::XattrName)? },
        CommandKind::Chmod => Action::Chmod { mode: from.u64(Attribute::Mode)? },
        CommandKind::Chown => Action::Chown { uid: from.u64(Attribute::Uid)?, gid: from.u64(Attribute::Gid)? },
        CommandKind::Utimes => Action::Utimes {
            atime: from.time(Attribute::Atime)?,
            mtime: from.time(Attribute::Mtime)?,
            ctime: from.time(Attribute::Ctime)?,
            otime: from.optional(Attribute::Otime, Attributes::time)?,
        },
        CommandKind::FileAttr => Action::FileAttr { flags: from.u64(Attribute::FileAttr)? },
        _ => Action::EnableVerity(Verity {
            algorithm: from.u8(Attribute::VerityAlgorithm)?,
            block_size: from.u32(Attribute::VerityBlockSize)?,
            salt: from.bytes(Attribute::VeritySaltData)?,
            signature: from.bytes(Attribute::VeritySigData)?,
        }),
    })
}
