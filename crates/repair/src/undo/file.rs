//! Reading and writing the undo file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use butterfs_format::ChecksumType;

use crate::error::{Error, Result};
use crate::overlay::Change;

const MAGIC: &[u8; 8] = b"BFSUNDO\0";
const VERSION: u32 = 1;
const SUM: ChecksumType = ChecksumType::Blake2b;
/// More devices, longer names and longer records than there are.
const MAX_DEVICES: u32 = 4096;
const MAX_NAME: u32 = 4096;
const MAX_RECORD: u64 = 64 << 20;
const PAGE: usize = 4096;

/// What an undo file says of itself.
#[derive(Clone, Debug)]
pub struct Header {
    /// The filesystem's UUID.
    pub fsid: [u8; 16],
    /// How many ranges were overwritten.
    pub records: u64,
    /// The devices, in the order in which the records count them.
    pub devices: Vec<UndoDevice>,
}

/// A device of the repaired filesystem.
#[derive(Clone, Debug)]
pub struct UndoDevice {
    /// Its length, in bytes.
    pub len: u64,
    /// Its path when it was repaired.
    pub name: String,
    /// The page of its first superblock before the repair.
    pub before: Vec<u8>,
    /// The page of its first superblock as the repair left it.
    pub after: Vec<u8>,
}

pub(super) fn broken(path: &Path, problem: impl Into<String>) -> Error {
    Error::Undo { name: path.display().to_string(), problem: problem.into() }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let problem = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "exists already, perhaps of an earlier repair; name another one, or move it away".into()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "does not fit where it is to lie; free some space there, or name another place for it".into()
        }
        io::ErrorKind::UnexpectedEof => "is cut short".into(),
        _ => error.to_string(),
    };
    broken(path, problem)
}

/// Takes away what cannot be used.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "an unfinished undo file is left");
    }
}

pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// Makes a new file; one that exists is never overwritten.
    pub fn create(path: &Path, header: &Header) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| failed(path, &e))?;
        let mut writer = Self { path: path.to_path_buf(), out: BufWriter::new(file) };
        let bytes = header.pack();
        if let Err(error) = writer.put(&[&bytes, &SUM.compute(&bytes)]) {
            remove(path);
            return Err(error);
        }
        Ok(writer)
    }

    pub fn record(&mut self, device: u32, offset: u64, old: &[u8]) -> Result<()> {
        let head = record_head(device, offset, old.len() as u64);
        let sum = record_sum(&head, old);
        self.put(&[&head, &sum, old])
    }

    /// Makes file and name durable.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let file = self.out.into_inner().map_err(|e| failed(&path, e.error()))?;
        file.sync_all().map_err(|e| failed(&path, &e))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed(&path, &e))
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<()> {
        parts.iter().try_for_each(|part| self.out.write_all(part)).map_err(|e| failed(&self.path, &e))
    }
}

fn record_head(device: u32, offset: u64, len: u64) -> Vec<u8> {
    [&device.to_le_bytes()[..], &offset.to_le_bytes(), &len.to_le_bytes()].concat()
}

fn record_sum(head: &[u8], bytes: &[u8]) -> [u8; 32] {
    SUM.compute(&[head, bytes].concat())
}

impl Header {
    fn pack(&self) -> Vec<u8> {
        let mut out = [&MAGIC[..], &VERSION.to_le_bytes(), &self.fsid].concat();
        out.extend_from_slice(&(self.devices.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        for device in &self.devices {
            out.extend_from_slice(&device.len.to_le_bytes());
            out.extend_from_slice(&(device.name.len() as u32).to_le_bytes());
            out.extend_from_slice(device.name.as_bytes());
            out.extend_from_slice(&device.before);
            out.extend_from_slice(&device.after);
        }
        out
    }
}

pub(super) struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    header: Header,
    left: u64,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| failed(path, &e))?;
        let mut input = BufReader::new(file);
        let header = read_header(path, &mut input)?;
        Ok(Self { path: path.to_path_buf(), input, left: header.records, header })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next record: which device, and its old bytes.
    pub fn next_record(&mut self) -> Result<Option<(usize, Change)>> {
        let path = self.path.clone();
        if self.left == 0 {
            let rest = self.input.read(&mut [0; 1]).map_err(|e| failed(&path, &e))?;
            return if rest == 0 { Ok(None) } else { Err(broken(&path, "goes on after its end")) };
        }
        self.left -= 1;
        let mut fields = Fields { path: &path, input: &mut self.input, seen: Vec::new() };
        let (device, offset, len) = (fields.u32()?, fields.u64()?, fields.u64()?);
        let head = fields.seen;
        if len > MAX_RECORD || device as usize >= self.header.devices.len() {
            return Err(broken(&path, "is damaged: a record makes no sense"));
        }
        let mut fields = Fields { path: &path, input: &mut self.input, seen: Vec::new() };
        let sum = fields.bytes(32)?;
        let bytes = fields.bytes(len as usize)?;
        if record_sum(&head, &bytes)[..] != sum[..] {
            return Err(broken(&path, "is damaged: a checksum does not match"));
        }
        Ok(Some((device as usize, Change { offset, bytes })))
    }
}

/// Reads numbers, and keeps the bytes they were made of.
struct Fields<'a, R> {
    path: &'a Path,
    input: &'a mut R,
    seen: Vec<u8>,
}

impl<R: Read> Fields<'_, R> {
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.input.read_exact(&mut bytes).map_err(|e| failed(self.path, &e))?;
        self.seen.extend_from_slice(&bytes);
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes were asked for"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

fn read_header(path: &Path, input: &mut impl Read) -> Result<Header> {
    let mut fields = Fields { path, input, seen: Vec::new() };
    if &fields.array::<8>()? != MAGIC {
        return Err(broken(path, "is no undo file"));
    }
    let version = fields.u32()?;
    if version != VERSION {
        return Err(broken(path, format!("is of version {version}, this program knows {VERSION}")));
    }
    let (fsid, count, records) = (fields.array()?, fields.u32()?, fields.u64()?);
    if count > MAX_DEVICES {
        return Err(broken(path, "is damaged: too many devices"));
    }
    let mut devices = Vec::new();
    for _ in 0..count {
        let (len, name) = (fields.u64()?, fields.u32()?);
        if name > MAX_NAME {
            return Err(broken(path, "is damaged: a name is too long"));
        }
        let name = String::from_utf8_lossy(&fields.bytes(name as usize)?).into_owned();
        devices.push(UndoDevice { len, name, before: fields.bytes(PAGE)?, after: fields.bytes(PAGE)? });
    }
    let want = SUM.compute(&fields.seen);
    if fields.array::<32>()? != want {
        return Err(broken(path, "is damaged: a checksum does not match"));
    }
    Ok(Header { fsid, records, devices })
}
