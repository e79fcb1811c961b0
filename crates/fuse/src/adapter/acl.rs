//! POSIX ACLs as the kernel hands them over, which is also how Btrfs stores them.
//!
//! The kernel checks access by them. What is left to us: a new inode's ACL from its directory's
//! default one, and to keep the permissions of the mode and the access ACL the same.

use crate::Errno;

/// The attribute with an inode's own ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with what a directory gives to new inodes.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An ACL, valid in form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<AclEntry>);

/// Who asks for access.
pub(super) struct Subject<'a> {
    pub uid: u32,
    pub groups: &'a [u32],
    pub owner: u32,
    pub group: u32,
}

impl Acl {
    /// Reads an attribute's value; no entries at all are no ACL.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, Errno> {
        let (header, body) = value.split_at_checked(HEADER).ok_or(Errno::EINVAL)?;
        if header != VERSION.to_le_bytes() || body.len() % ENTRY != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let entries: Vec<AclEntry> = body.chunks_exact(ENTRY).map(AclEntry::parse).collect();
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Self(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
        let single = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1);
        let named = count(USER) + count(GROUP) > 0;
        let forms = self.0.iter().all(|entry| entry.tag.is_power_of_two() && entry.tag & known != 0 && entry.perm <= 7);
        let sorted = self.0.windows(2).all(|pair| pair[0].tag <= pair[1].tag);
        single && forms && sorted && count(MASK) <= 1 && (!named || count(MASK) == 1)
    }

    /// The attribute's value.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            out.extend(entry.tag.to_le_bytes());
            out.extend(entry.perm.to_le_bytes());
            out.extend(entry.id.to_le_bytes());
        }
        out
    }

    /// Whether permissions of a mode say the same.
    pub fn is_just_a_mode(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The permissions of a mode that belong to this access ACL.
    pub fn permissions(&self) -> u32 {
        u32::from(self.perm(USER_OBJ)) << 6
            | u32::from(self.perm(self.group_class())) << 3
            | u32::from(self.perm(OTHER))
    }

    /// Makes the ACL say what a new mode says.
    pub fn set_permissions(&mut self, mode: u32) {
        let class = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (class, 3), (OTHER, 0)] {
            self.set(tag, |_| (mode >> shift & 7) as u16);
        }
    }

    /// This default ACL as a new inode's access ACL, cut down to `mode`.
    pub fn for_new(&self, mode: u32) -> Self {
        let mut acl = self.clone();
        let class = acl.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (class, 3), (OTHER, 0)] {
            acl.set(tag, |perm| perm & (mode >> shift & 7) as u16);
        }
        acl
    }

    /// Whether the ACL grants all of `wanted` (4 read, 2 write, 1 execute).
    pub fn grants(&self, who: &Subject<'_>, wanted: u16) -> bool {
        let mask = self.0.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| entry.perm);
        if who.uid == who.owner {
            return self.perm(USER_OBJ) & wanted == wanted;
        }
        if let Some(entry) = self.0.iter().find(|entry| entry.tag == USER && entry.id == who.uid) {
            return entry.perm & mask & wanted == wanted;
        }
        let mine = |entry: &&AclEntry| match entry.tag {
            GROUP_OBJ => who.groups.contains(&who.group),
            GROUP => who.groups.contains(&entry.id),
            _ => false,
        };
        let mut groups = self.0.iter().filter(mine).peekable();
        if groups.peek().is_some() {
            return groups.any(|entry| entry.perm & mask & wanted == wanted);
        }
        self.perm(OTHER) & wanted == wanted
    }

    /// The entry that is the group's part of a mode.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn perm(&self, tag: u16) -> u16 {
        self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.perm)
    }

    fn set(&mut self, tag: u16, change: impl Fn(u16) -> u16) {
        for entry in self.0.iter_mut().filter(|entry| entry.tag == tag) {
            entry.perm = change(entry.perm);
        }
    }
}

impl AclEntry {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            perm: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| AclEntry { tag, perm, id }).collect())
    }

    fn with_user() -> Acl {
        acl(&[(USER_OBJ, 7, !0), (USER, 7, 1000), (GROUP_OBJ, 5, !0), (MASK, 7, !0), (OTHER, 0, !0)])
    }

    #[test]
    fn values_round_trip_and_bad_ones_are_refused() {
        let acl = with_user();
        assert_eq!(Acl::parse(&acl.pack()), Ok(Some(acl.clone())));
        assert_eq!(Acl::parse(&VERSION.to_le_bytes()), Ok(None));
        assert_eq!(Acl::parse(&acl.pack()[..20]), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(b""), Err(Errno::EINVAL));
    }

    #[test]
    fn the_mask_stands_for_the_group() {
        let mut acl = with_user();
        assert_eq!(acl.permissions(), 0o770);
        assert_eq!(acl.for_new(0o640).permissions(), 0o640);
        acl.set_permissions(0o750);
        assert_eq!((acl.perm(MASK), acl.perm(GROUP_OBJ)), (5, 5));
    }

    #[test]
    fn named_users_are_granted_up_to_the_mask() {
        let mut acl = with_user();
        let who = Subject { uid: 1000, groups: &[1000], owner: 0, group: 0 };
        assert!(acl.grants(&who, 3));
        acl.set_permissions(0o750);
        assert!(!acl.grants(&who, 3));
        assert!(!acl.grants(&Subject { uid: 7, groups: &[7], ..who }, 1));
    }
}
