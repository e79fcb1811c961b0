//! From addresses to files, and from inodes to paths.

use std::cmp::Reverse;

use butterfs_engine::dir::{parent_of, path};
use butterfs_engine::filesystem::OnlyByte;
use butterfs_engine::inode::InodeId;
use butterfs_format::{Ino, Logical, TreeId};

use super::memory::Memory;
use super::{number, reply};
use crate::adapter::rights::{ENTER, READ};
use crate::adapter::{EngineFrontEnd, Site};
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

pub(super) const INO_PATHS: u32 = 0xc038_9423;
pub(super) const LOGICAL_INO: u32 = 0xc038_9424;
pub(super) const LOGICAL_INO_V2: u32 = 0xc038_943b;
pub(super) const INO_LOOKUP_USER: u32 = 0xd000_943e;

/// Where the pointer is in the arguments of the first three.
const POINTER: usize = 48;
/// The flag of `LOGICAL_INO_V2`.
const IGNORE_OFFSET: u64 = 1;
/// Room that is used at most.
const PATHS_MOST: u64 = 4096;
const INODES_MOST: u64 = 64 << 10;
const INODES_MOST_V2: u64 = 16 << 20;
/// Room for the name, and for the path, in `struct btrfs_ioctl_ino_lookup_user_args`.
const USER_NAME: usize = 256;
const USER_PATH: usize = 3824;

/// `struct btrfs_data_container`: numbers, and how many more there would be.
struct Container {
    room: usize,
    missing_bytes: usize,
    missing: u32,
    values: Vec<u64>,
}

impl Container {
    const HEADER: usize = 16;

    fn new(size: u64) -> Result<Self> {
        let room = usize::try_from(size).ok().and_then(|size| size.checked_sub(Self::HEADER)).ok_or(Errno::EINVAL)?;
        Ok(Self { room, missing_bytes: 0, missing: 0, values: Vec::new() })
    }

    fn bytes(&self, left: usize) -> Vec<u8> {
        let header = [left as u32, self.missing_bytes as u32, self.values.len() as u32, self.missing];
        let mut out: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
        out.extend(self.values.iter().flat_map(|value| value.to_ne_bytes()));
        out
    }
}

impl EngineFrontEnd {
    pub(super) fn logical_ino(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let (at, size) = (number(call.input, 0)?, number(call.input, 8)?);
        let (most, flags) = match call.command {
            LOGICAL_INO => (INODES_MOST, 0),
            _ => (INODES_MOST_V2, number(call.input, 40)?),
        };
        if flags & !IGNORE_OFFSET != 0 {
            return Err(Errno::EINVAL);
        }
        let only = if flags & IGNORE_OFFSET != 0 { OnlyByte::No } else { OnlyByte::Yes };
        let users = self.fs.extent_users(Logical(at), only);
        let mut users = users.map_err(|error| Site::new("logical to inode", id).fail(&error))?;
        // The kernel gives the last first.
        users.sort_unstable_by_key(|user| Reverse((user.tree.0, user.ino.0, user.offset)));
        let mut out = Container::new(size.min(most))?;
        for user in users {
            let three = [user.ino.0, user.offset, user.tree.0];
            if (out.values.len() + 3) * 8 <= out.room {
                out.values.extend(three);
            } else {
                out.missing_bytes += 24;
                out.missing += 3;
            }
        }
        let left = out.room - out.values.len() * 8;
        Memory::at(caller, number(call.input, POINTER)?)?.write(&out.bytes(left))?;
        reply(call.input)
    }

    pub(super) fn ino_paths(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let wanted = InodeId::new(id.tree, Ino(number(call.input, 0)?));
        let site = Site::new("inode to paths", wanted);
        self.attributes(site)?;
        let paths = self.fs.shared().gate.view(|tx| path::all_in_subvolume(tx, wanted));
        let paths = paths.map_err(|error| site.fail(&error))?;
        let size = number(call.input, 8)?.min(PATHS_MOST);
        let bytes = paths_container(&paths, size)?;
        Memory::at(caller, number(call.input, POINTER)?)?.write(&bytes)?;
        reply(call.input)
    }

    /// The name of a subvolume in a directory, and the path to that from the directory that is asked: for everybody
    /// who may read and enter what lies between.
    pub(super) fn ino_lookup_user(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let (dir, tree) = (Ino(number(input, 0)?), TreeId(number(input, 8)?));
        let site = Site::new("ino_lookup_user", id);
        let parent = self.fs.shared().gate.view(|tx| parent_of(tx, tree)).map_err(|error| site.fail(&error))?;
        let parent = parent.filter(|parent| parent.dir == InodeId::new(id.tree, dir)).ok_or(Errno::ENOENT)?;
        let path = self.readable_path(caller, id, parent.dir)?;
        if parent.name.len() >= USER_NAME || path.len() >= USER_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
        let (mut name, mut path) = (parent.name, path);
        name.resize(USER_NAME, 0);
        path.resize(USER_PATH, 0);
        reply([&input[..16], &name, &path].concat())
    }

    /// The path from one directory to another below it, with a slash behind it.
    fn readable_path(&self, caller: &Caller, from: InodeId, to: InodeId) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = to;
        loop {
            let site = Site::new("ino_lookup_user", at);
            self.require_access(caller, &self.attributes(site)?, READ | ENTER)?;
            if at == from {
                names.reverse();
                return Ok(names.concat());
            }
            if at.ino == Ino::ROOT_DIR {
                // It is not below.
                return Err(Errno::EACCES);
            }
            let found = self.fs.shared().gate.view(|tx| butterfs_engine::dir::backref::first_name(tx, at));
            let (ino, mut name) = found.map_err(|error| site.fail(&error))?;
            name.push(b'/');
            if names.iter().map(Vec::len).sum::<usize>() + name.len() >= USER_PATH {
                return Err(Errno::ENAMETOOLONG);
            }
            names.push(name);
            at = InodeId::new(at.tree, ino);
        }
    }
}

/// Offsets of strings from the first offset, and the strings at the end.
fn paths_container(paths: &[Vec<u8>], size: u64) -> Result<Vec<u8>> {
    let mut out = Container::new(size)?;
    let mut strings: Vec<u8> = Vec::new();
    for path in paths {
        let needed = 8 + path.len() + 1;
        if (out.values.len() * 8) + strings.len() + needed > out.room {
            out.missing_bytes += needed;
            out.missing += 1;
            continue;
        }
        // From the front of the strings for now.
        out.values.push(strings.len() as u64);
        strings.extend_from_slice(path);
        strings.push(0);
    }
    let first = out.room - strings.len();
    out.values.iter_mut().for_each(|offset| *offset += first as u64);
    let left = first - out.values.len() * 8;
    let mut bytes = out.bytes(left);
    bytes.resize(Container::HEADER + first, 0);
    bytes.extend(strings);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_at_their_offsets() {
        let bytes = paths_container(&[b"a/b".to_vec(), b"c".to_vec()], 100).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((bytes.len(), word(8), word(12)), (100, 2, 0));
        let path = |index: usize| {
            let offset = 16 + number(&bytes, 16 + 8 * index).unwrap() as usize;
            bytes[offset..].split(|byte| *byte == 0).next().unwrap().to_vec()
        };
        assert_eq!((path(0), path(1)), (b"a/b".to_vec(), b"c".to_vec()));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let bytes = paths_container(&[vec![b'x'; 30], vec![b'y'; 30]], 16 + 45).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(8), word(12)), (6, 39, 1, 1));
    }
}
