//! Files as only other writers make them, put into trees by hand: compressed extents and their pieces, and the
//! inode cache of old kernels.
//!
//! Inodes in memory know nothing of these changes: open the filesystem again to see them.

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind};
use butterfs_engine::inode::InodeId;
use butterfs_engine::tx::{Need, Transaction};
use butterfs_format::ids::objectid;
use butterfs_format::items::{Compression, FileExtent, FileExtentBody, InodeFlags, InodeItem, Timespec, read_exact};
use butterfs_format::key::DiskKey;
use butterfs_format::{ItemType, Key, Logical};
use zerocopy::{FromZeros, IntoBytes};

use crate::fuzz::streams;
use crate::random::Random;

/// A compressed extent: what is on disk, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// How it is compressed.
    pub compression: Compression,
    /// The stream; it is padded to a sector.
    pub stream: &'a [u8],
    /// Length of the whole extent when decompressed, in bytes.
    pub ram_bytes: u64,
}

/// A piece of a compressed extent as a file has it.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where it begins in the file.
    pub at: u64,
    /// Where it begins in the decompressed extent.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

/// An extent on disk, as a file's first item has it.
#[derive(Clone, Copy, Debug)]
struct OnDisk {
    at: Logical,
    len: u64,
}

/// Makes an empty file one that has pieces of one compressed extent, and a size in bytes. The first piece is the front
/// of the extent at the front of the file.
pub fn compressed_file(fs: &Filesystem, id: InodeId, packed: &Packed<'_>, pieces: &[Piece], size: u64) {
    let sector = fs.usage().sectorsize as usize;
    let mut stream = packed.stream.to_vec();
    stream.resize(stream.len().next_multiple_of(sector), 0);
    fs.write(id, 0, &stream).expect("the stream is written as it is");
    fs.sync().expect("sync");
    let gate = &fs.shared().gate;
    gate.change(Need::Items(16), |tx| {
        let disk = on_disk(tx, id)?;
        tx.remove(id.tree, &extent_key(id, 0))?;
        for (number, piece) in pieces.iter().enumerate() {
            // The first is the reference that is there already.
            if number > 0 {
                tx.add_data_ref(disk.at, disk.len, back_ref(id, piece))?;
            }
            let body = FileExtentBody::Extent {
                disk_bytenr: disk.at.0,
                disk_num_bytes: disk.len,
                offset: piece.offset,
                num_bytes: piece.len,
                prealloc: false,
            };
            put_extent(tx, id, piece.at, packed, body)?;
        }
        resize(tx, id, size, pieces.iter().map(|piece| piece.len).sum())
    })
    .expect("the items are put in");
    gate.commit().expect("commit");
}

/// Makes an empty file one with a compressed inline extent, and as long as that.
pub fn compressed_inline(fs: &Filesystem, id: InodeId, packed: &Packed<'_>) {
    let gate = &fs.shared().gate;
    gate.change(Need::Items(4), |tx| {
        put_extent(tx, id, 0, packed, FileExtentBody::Inline(packed.stream))?;
        resize(tx, id, packed.ram_bytes, packed.ram_bytes)
    })
    .expect("the item is put in");
    gate.commit().expect("commit");
}

fn back_ref(id: InodeId, piece: &Piece) -> butterfs_format::items::BackRef {
    let offset = piece.at.wrapping_sub(piece.offset);
    butterfs_format::items::BackRef::Data { root: id.tree, objectid: id.ino, offset }
}

fn extent_key(id: InodeId, at: u64) -> Key {
    Key::new(id.ino.0, ItemType::EXTENT_DATA, at)
}

fn on_disk(tx: &Transaction, id: InodeId) -> butterfs_engine::Result<OnDisk> {
    let data = tx.get(id.tree, &extent_key(id, 0))?.expect("the file has an extent");
    let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, .. } = FileExtent::parse(&data).expect("it is good").body
    else {
        panic!("the file is inline");
    };
    Ok(OnDisk { at: Logical(disk_bytenr), len: disk_num_bytes })
}

fn put_extent(
    tx: &mut Transaction,
    id: InodeId,
    at: u64,
    packed: &Packed<'_>,
    body: FileExtentBody<'_>,
) -> butterfs_engine::Result<()> {
    let generation = tx.generation().0;
    let extent = FileExtent { generation, ram_bytes: packed.ram_bytes, compression: packed.compression, body };
    tx.put(id.tree, &extent_key(id, at), &extent.pack())
}

fn resize(tx: &mut Transaction, id: InodeId, size: u64, nbytes: u64) -> butterfs_engine::Result<()> {
    let key = Key::new(id.ino.0, ItemType::INODE_ITEM, 0);
    let data = tx.get(id.tree, &key)?.expect("the inode is there");
    let mut item: InodeItem = read_exact(&data).expect("it is good");
    (item.size, item.nbytes, item.transid) = (size.into(), nbytes.into(), tx.generation().0.into());
    tx.put(id.tree, &key, item.as_bytes())
}

/// Puts the inode cache of a kernel before 5.11 (`-o inode_cache`) into a subvolume: its inode, a header that leads
/// to it, and its data, which is `file`'s: that loses them.
pub fn inode_cache(fs: &Filesystem, file: InodeId) {
    let gate = &fs.shared().gate;
    gate.change(Need::Items(16), |tx| {
        let generation = tx.generation().0;
        let old_key = extent_key(file, 0);
        let data = tx.get(file.tree, &old_key)?.expect("the file has an extent");
        let disk = on_disk(tx, file)?;
        let mut inode = InodeItem::new_zeroed();
        (inode.generation, inode.transid) = (generation.into(), generation.into());
        (inode.size, inode.nbytes) = (disk.len.into(), disk.len.into());
        (inode.nlink, inode.mode) = (1.into(), 0o100_600.into());
        let flags = InodeFlags::NOCOMPRESS | InodeFlags::PREALLOC | InodeFlags::NODATASUM | InodeFlags::NODATACOW;
        inode.flags = flags.bits().into();
        inode.mtime = Timespec::new(1, 0);
        let cache = InodeId::new(file.tree, butterfs_format::Ino(objectid::FREE_INO));
        let inode_key = Key::new(objectid::FREE_INO, ItemType::INODE_ITEM, 0);
        tx.put(file.tree, &inode_key, inode.as_bytes())?;
        tx.put(file.tree, &extent_key(cache, 0), &data)?;
        let from_start = Piece { at: 0, offset: 0, len: disk.len };
        tx.add_data_ref(disk.at, disk.len, back_ref(cache, &from_start))?;
        tx.remove(file.tree, &old_key)?;
        tx.drop_data_ref(disk.at, disk.len, back_ref(file, &from_start))?;
        resize(tx, file, 0, 0)?;
        // Where it is, its generation, and how many entries and bitmaps it has.
        let location = DiskKey::from(inode_key);
        let header = [location.as_bytes(), &generation.to_le_bytes(), &1_u64.to_le_bytes(), &0_u64.to_le_bytes()];
        tx.put(file.tree, &Key::new(objectid::FREE_SPACE, ItemType::UNTYPED, 0), &header.concat())
    })
    .expect("the items are put in");
    gate.commit().expect("commit");
}

/// A file of [`gallery`]: its name, and what it holds.
pub type Exhibit = (String, Vec<u8>);

/// Makes compressed files of every shape in a directory of a filesystem that has none yet; gives what they must read
/// as. Each is made for each kind of compression: whole, with an end that is not aligned, in pieces with a hole and
/// with a part that is used again, with a stream that ends early, inline, and inline with the stream of a whole block.
pub fn gallery(fs: &Filesystem, dir: InodeId) -> Vec<Exhibit> {
    let mut random = Random::new(41);
    let mut exhibits = Vec::new();
    for compression in [Compression::Zlib, Compression::Lzo, Compression::Zstd] {
        let mut hall = Hall { fs, dir, compression, exhibits: &mut exhibits };
        hall.whole(&streams::text(&mut random, EXTENT as usize));
        hall.pieces(&streams::text(&mut random, EXTENT as usize));
        hall.short(&streams::text(&mut random, 50_001));
        hall.inline(&streams::text(&mut random, 1500));
    }
    exhibits
}

/// As much as an extent holds when decompressed.
const EXTENT: u64 = 128 << 10;

struct Hall<'a> {
    fs: &'a Filesystem,
    dir: InodeId,
    compression: Compression,
    exhibits: &'a mut Vec<Exhibit>,
}

impl Hall<'_> {
    fn file(&mut self, shape: &str, content: Vec<u8>) -> InodeId {
        let name = format!("{} {shape}", self.compression);
        let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 1 };
        let id = self.fs.create(Place::new(self.dir, name.as_bytes()), &new).expect("create");
        self.exhibits.push((name, content));
        id
    }

    fn compress(&self, plain: &[u8]) -> Vec<u8> {
        let stream = streams::compress(self.compression, plain, self.fs.usage().sectorsize as usize);
        assert!(stream.len() < plain.len(), "it is smaller");
        stream
    }

    fn packed<'a>(&self, stream: &'a [u8], ram_bytes: u64) -> Packed<'a> {
        Packed { compression: self.compression, stream, ram_bytes }
    }

    fn whole(&mut self, plain: &[u8]) {
        let stream = self.compress(plain);
        for (shape, size) in [("whole", EXTENT), ("with an end", EXTENT - 777)] {
            let id = self.file(shape, plain[..size as usize].to_vec());
            let all = [Piece { at: 0, offset: 0, len: EXTENT }];
            compressed_file(self.fs, id, &self.packed(&stream, EXTENT), &all, size);
        }
    }

    /// The front; what an overwrite would leave behind a hole; and a clone of the middle. In whole 16 KiB.
    fn pieces(&mut self, plain: &[u8]) {
        const UNIT: u64 = 16 << 10;
        let pieces = [
            Piece { at: 0, offset: 0, len: UNIT },
            Piece { at: 2 * UNIT, offset: 3 * UNIT, len: 2 * UNIT },
            Piece { at: 4 * UNIT, offset: UNIT, len: UNIT },
        ];
        let size = 5 * UNIT - 5;
        let mut content = vec![0; 5 * UNIT as usize];
        for piece in &pieces {
            let range = |start: u64| start as usize..(start + piece.len) as usize;
            content[range(piece.at)].copy_from_slice(&plain[range(piece.offset)]);
        }
        content.truncate(size as usize);
        let stream = self.compress(plain);
        let id = self.file("in pieces", content);
        compressed_file(self.fs, id, &self.packed(&stream, EXTENT), &pieces, size);
    }

    /// The rest of the extent is zeros.
    fn short(&mut self, plain: &[u8]) {
        let mut content = plain.to_vec();
        content.resize(EXTENT as usize, 0);
        let stream = self.compress(plain);
        let id = self.file("short stream", content);
        let all = [Piece { at: 0, offset: 0, len: EXTENT }];
        compressed_file(self.fs, id, &self.packed(&stream, EXTENT), &all, EXTENT);
    }

    fn inline(&mut self, plain: &[u8]) {
        let stream = self.compress(plain);
        let id = self.file("inline", plain.to_vec());
        compressed_inline(self.fs, id, &self.packed(&stream, plain.len() as u64));
        // As newer kernels write it: the block to its end, zeros behind the file's.
        let mut block = plain.to_vec();
        block.resize(self.fs.usage().sectorsize as usize, 0);
        let stream = self.compress(&block);
        let id = self.file("inline block", plain.to_vec());
        compressed_inline(self.fs, id, &self.packed(&stream, plain.len() as u64));
    }
}
