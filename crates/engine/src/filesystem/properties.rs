//! Properties: attributes that say how Btrfs treats an inode. There is one, `btrfs.compression`.
//!
//! # Invariants
//! * The flags COMPRESS and NOCOMPRESS follow the property, and the property follows the flags when
//!   those are changed, as in the kernel.
//! * A new file or directory has its directory's property; a new subvolume that of the subvolume that it lies in.

use butterfs_format::TreeId;
use butterfs_format::compression::{Choice, Method};
use butterfs_format::items::{FileType, InodeFlags, InodeItem};

use super::Filesystem;
use super::new_files::NewFileRules;
use crate::error::{Error, Result};
use crate::file::COMPRESSION_PROPERTY;
use crate::inode::InodeId;
use crate::inode::xattr::{self, Xattr, XattrMode};
use crate::tx::{Need, Transaction};

pub(super) const COMPRESSION: InodeFlags = InodeFlags::COMPRESS.union(InodeFlags::NOCOMPRESS);

/// Attributes with names like this are properties.
pub(super) fn is_property(name: &[u8]) -> bool {
    name.starts_with(b"btrfs.")
}

impl Filesystem {
    /// Sets a property; an empty value takes it away.
    pub(super) fn set_property(&self, id: InodeId, new: Xattr<'_>, mode: XattrMode) -> Result<()> {
        check_name(new.name)?;
        if new.value.is_empty() {
            return match self.remove_property(id, new.name) {
                Err(Error::NoAttribute) => Ok(()),
                result => result,
            };
        }
        let choice = Choice::of_property(new.value)
            .ok_or(Error::Invalid("btrfs.compression is zlib, lzo or zstd, with a level or not, or none"))?;
        if !self.has_properties(id)? {
            return Ok(());
        }
        self.change_xattrs(id, Need::Items(2), |tx, item| {
            check_compressible(item)?;
            xattr::set(tx, id, new, mode)?;
            set_compression(item, flags_of(choice));
            if let Choice::With(method) = choice {
                tx.use_compression(method.compression());
            }
            Ok(())
        })
    }

    /// Whether a property would mean anything for an inode. For another one, setting it is no error, and does nothing, as
    /// in the kernel.
    fn has_properties(&self, id: InodeId) -> Result<bool> {
        Ok(matches!(self.attributes(id)?.file_type, FileType::Regular | FileType::Directory))
    }

    /// Takes a property away.
    pub(super) fn remove_property(&self, id: InodeId, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if !self.has_properties(id)? {
            return Ok(());
        }
        self.change_xattrs(id, Need::Deletion, |tx, item| {
            xattr::remove(tx, id, name)?;
            set_compression(item, InodeFlags::empty());
            Ok(())
        })
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name == COMPRESSION_PROPERTY {
        return Ok(());
    }
    Err(Error::Invalid("the only property there is is btrfs.compression"))
}

/// Fails for what is never compressed.
fn check_compressible(item: &InodeItem) -> Result<()> {
    if !matches!(FileType::from_mode(item.mode.get()), FileType::Regular | FileType::Directory) {
        return Err(Error::Invalid("only files and directories have a compression"));
    }
    if item.flags().intersects(InodeFlags::NODATACOW | InodeFlags::NODATASUM) {
        return Err(Error::Invalid("what is not copied on write, or has no checksums, is not compressed"));
    }
    Ok(())
}

fn flags_of(choice: Choice) -> InodeFlags {
    match choice {
        Choice::Never => InodeFlags::NOCOMPRESS,
        Choice::With(_) => InodeFlags::COMPRESS,
    }
}

fn set_compression(item: &mut InodeItem, new: InodeFlags) {
    item.flags = ((item.flags() - COMPRESSION) | new).bits().into();
}

/// Makes the property follow flags that are being changed from `old` to `new`; a file with the flag
/// alone would be compressed with `method`.
pub(super) fn follow_flags(
    tx: &mut Transaction,
    id: InodeId,
    (old, new): (InodeFlags, InodeFlags),
    method: Method,
) -> Result<()> {
    if !(old ^ new).intersects(COMPRESSION) {
        return Ok(());
    }
    if new.contains(InodeFlags::COMPRESS) {
        let kind = method.compression();
        tx.use_compression(kind);
        let value = kind.to_string();
        return xattr::set(tx, id, Xattr { name: COMPRESSION_PROPERTY, value: value.as_bytes() }, XattrMode::Any);
    }
    match xattr::remove(tx, id, COMPRESSION_PROPERTY) {
        Err(Error::NoAttribute) => Ok(()),
        result => result,
    }
}

/// The property of the top directory of a subvolume, if new subvolumes in that one are to have it: not what says that
/// nothing is to be compressed, as in the kernel.
pub(super) fn of_top(tx: &Transaction, tree: TreeId) -> Result<Option<Vec<u8>>> {
    let value = xattr::get(tx, InodeId::top_of(tree), COMPRESSION_PROPERTY)?;
    Ok(value.filter(|value| matches!(Choice::of_property(value), Some(Choice::With(_)))))
}

/// Gives a new inode the property of its directory, or that of its subvolume; the flags it has already.
pub(super) fn inherit(
    tx: &mut Transaction,
    dir: InodeId,
    id: InodeId,
    item: &InodeItem,
    rules: &NewFileRules<'_>,
) -> Result<()> {
    if !item.flags().contains(InodeFlags::COMPRESS) || check_compressible(item).is_err() {
        return Ok(());
    }
    let value = match rules.subvolume {
        Some(rule) => rule.compression.as_ref().map(|value| value.as_bytes().to_vec()),
        None => xattr::get(tx, dir, COMPRESSION_PROPERTY)?,
    };
    let Some(value) = value else { return Ok(()) };
    xattr::set(tx, id, Xattr { name: COMPRESSION_PROPERTY, value: &value }, XattrMode::Any)
}
