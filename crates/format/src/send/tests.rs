//! Streams made by hand, from the layout in `docs/format/send-stream.md`.

use super::*;
use crate::items::Timespec;
use crate::{Generation, Ino};

/// An attribute with a length.
fn tlv(attribute: Attribute, value: &[u8]) -> Vec<u8> {
    raw(attribute as u16, value)
}

fn raw(number: u16, value: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), value].concat()
}

fn number(attribute: Attribute, value: u64) -> Vec<u8> {
    tlv(attribute, &value.to_le_bytes())
}

fn path() -> Vec<u8> {
    tlv(Attribute::Path, b"a/b")
}

fn command(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = attributes.concat();
    let mut all = [&(body.len() as u32).to_le_bytes()[..], &kind.to_le_bytes(), &[0; 4], &body].concat();
    let checksum = command_checksum(&all);
    all[6..10].copy_from_slice(&checksum.to_le_bytes());
    all
}

fn stream(version: u32, commands: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC, &version.to_le_bytes()[..], &commands.concat()].concat()
}

fn end() -> Vec<u8> {
    command(CommandKind::End as u16, &[])
}

fn open(bytes: &[u8]) -> Reader<&[u8]> {
    Reader::open(bytes).expect("a header").expect("a stream")
}

/// What comes of a stream of one command and an end.
#[track_caller]
fn only(version: u32, one: Vec<u8>, expected: Result<Action<'_>, &str>) {
    let bytes = stream(version, &[one, end()]);
    let mut reader = open(&bytes);
    match (reader.read_command(), expected) {
        (Ok(Some(found)), Ok(action)) => {
            assert_eq!(found, Command { offset: 17, path: b"a/b", action: action.clone() });
            assert_eq!(found.action.kind(), action.kind());
        }
        (Err(Error::Command(found)), Err(text)) => assert_eq!(found.to_string(), text),
        (found, expected) => panic!("{found:?}, not {expected:?}"),
    }
    assert!(matches!(reader.read_command(), Ok(None)), "the end follows");
    assert!(matches!(reader.read_command(), Ok(None)), "and stays");
}

/// Every stream of the kernel ends with these bytes.
#[test]
fn the_kernel_s_checksum_is_ours() {
    assert_eq!(end(), [0, 0, 0, 0, 21, 0, 0x50, 0x6c, 0xc9, 0x9d]);
}

#[test]
fn subvolumes_have_uuids_and_generations() {
    let (uuid, parent) = ([7; 16], [8; 16]);
    let first = [path(), tlv(Attribute::Uuid, &uuid), number(Attribute::Ctransid, 9)];
    let ctransid = Generation(9);
    only(1, command(1, &first), Ok(Action::Subvol { uuid, ctransid }));
    let second = [tlv(Attribute::CloneUuid, &parent), number(Attribute::CloneCtransid, 5)];
    let snapshot = Action::Snapshot { uuid, ctransid, clone_uuid: parent, clone_ctransid: Generation(5) };
    only(1, command(2, &[&first[..], &second[..]].concat()), Ok(snapshot));
}

#[test]
fn inodes_are_made_under_their_numbers() {
    let made = |kind, more: &[Vec<u8>]| command(kind, &[&[path(), number(Attribute::Ino, 260)], more].concat());
    let ino = Ino(260);
    only(1, made(3, &[]), Ok(Action::MkFile { ino }));
    only(1, made(4, &[]), Ok(Action::MkDir { ino }));
    let node = [number(Attribute::Mode, 0o60644), number(Attribute::Rdev, 0x801)];
    only(1, made(5, &node), Ok(Action::MkNod { ino, mode: 0o60644, rdev: 0x801 }));
    only(1, made(6, &[]), Ok(Action::MkFifo { ino }));
    only(1, made(7, &[]), Ok(Action::MkSock { ino }));
    only(1, made(8, &[tlv(Attribute::PathLink, b"../x")]), Ok(Action::Symlink { ino, target: b"../x" }));
}

#[test]
fn names_come_and_go() {
    only(1, command(9, &[path(), tlv(Attribute::PathTo, b"c")]), Ok(Action::Rename { to: b"c" }));
    only(1, command(10, &[path(), tlv(Attribute::PathLink, b"c")]), Ok(Action::Link { existing: b"c" }));
    only(1, command(11, &[path()]), Ok(Action::Unlink));
    only(1, command(12, &[path()]), Ok(Action::RmDir));
    let name = tlv(Attribute::XattrName, b"user.x");
    let set = command(13, &[path(), name.clone(), tlv(Attribute::XattrData, b"\0v")]);
    only(1, set, Ok(Action::SetXattr { name: b"user.x", value: b"\0v" }));
    only(1, command(14, &[path(), name]), Ok(Action::RemoveXattr { name: b"user.x" }));
}

#[test]
fn data_has_a_length_in_version_1_alone() {
    let offset = number(Attribute::FileOffset, 4096);
    let one = command(15, &[path(), offset.clone(), tlv(Attribute::Data, b"xyz")]);
    only(1, one, Ok(Action::Write { offset: 4096, data: b"xyz" }));
    let bare = [&(Attribute::Data as u16).to_le_bytes()[..], &[5; 70_000]].concat();
    for version in [2, 3] {
        let two = command(15, &[path(), offset.clone(), bare.clone()]);
        only(version, two, Ok(Action::Write { offset: 4096, data: &[5; 70_000] }));
    }
}

#[test]
fn ranges_are_cloned_and_changed() {
    let offset = number(Attribute::FileOffset, 1);
    let clone = [
        path(),
        offset.clone(),
        number(Attribute::CloneLen, 2),
        tlv(Attribute::CloneUuid, &[3; 16]),
        number(Attribute::CloneCtransid, 4),
        tlv(Attribute::ClonePath, b"q"),
        number(Attribute::CloneOffset, 5),
    ];
    let range = CloneRange { offset: 1, len: 2, uuid: [3; 16], ctransid: Generation(4), path: b"q", clone_offset: 5 };
    only(1, command(16, &clone), Ok(Action::Clone(range)));
    only(1, command(17, &[path(), number(Attribute::Size, 6)]), Ok(Action::Truncate { size: 6 }));
    let size = number(Attribute::Size, 7);
    only(1, command(22, &[path(), offset.clone(), size.clone()]), Ok(Action::UpdateExtent { offset: 1, len: 7 }));
    let mode = tlv(Attribute::FallocateMode, &3_u32.to_le_bytes());
    only(2, command(23, &[mode, path(), offset, size]), Ok(Action::Fallocate { mode: 3, offset: 1, len: 7 }));
}

#[test]
fn compression_and_encryption_may_be_left_out() {
    let attributes = [
        path(),
        number(Attribute::FileOffset, 1),
        number(Attribute::UnencodedFileLen, 2),
        number(Attribute::UnencodedLen, 3),
        number(Attribute::UnencodedOffset, 4),
    ];
    let data = [&(Attribute::Data as u16).to_le_bytes()[..], b"z"].concat();
    let mut write = EncodedWrite {
        offset: 1,
        unencoded_file_len: 2,
        unencoded_len: 3,
        unencoded_offset: 4,
        compression: 0,
        encryption: 0,
        data: b"z",
    };
    let bare = [&attributes[..], std::slice::from_ref(&data)].concat();
    only(2, command(25, &bare), Ok(Action::EncodedWrite(write)));
    (write.compression, write.encryption) = (2, 9);
    let both = [(Attribute::Compression, 2_u32), (Attribute::Encryption, 9)];
    let both = both.map(|(attribute, value)| tlv(attribute, &value.to_le_bytes()));
    only(2, command(25, &[&attributes[..], &both, &[data]].concat()), Ok(Action::EncodedWrite(write)));
}

#[test]
fn attributes_of_inodes_are_set() {
    only(1, command(18, &[path(), number(Attribute::Mode, 0o4755)]), Ok(Action::Chmod { mode: 0o4755 }));
    let owners = [path(), number(Attribute::Uid, 1), number(Attribute::Gid, 2)];
    only(1, command(19, &owners), Ok(Action::Chown { uid: 1, gid: 2 }));
    only(2, command(24, &[path(), number(Attribute::FileAttr, 64)]), Ok(Action::FileAttr { flags: 64 }));
    let time = |attribute, seconds: i64| tlv(attribute, &[&seconds.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
    let mut times = vec![path(), time(Attribute::Atime, -1), time(Attribute::Mtime, 2), time(Attribute::Ctime, 3)];
    let [atime, mtime, ctime] = [-1, 2, 3].map(|seconds| Timespec::new(seconds, 1));
    only(1, command(20, &times), Ok(Action::Utimes { atime, mtime, ctime, otime: None }));
    times.push(time(Attribute::Otime, 4));
    only(2, command(20, &times), Ok(Action::Utimes { atime, mtime, ctime, otime: Some(Timespec::new(4, 1)) }));
    let verity = [
        path(),
        tlv(Attribute::VerityAlgorithm, &[1]),
        tlv(Attribute::VerityBlockSize, &4096_u32.to_le_bytes()),
        tlv(Attribute::VeritySaltData, b"salt"),
        tlv(Attribute::VeritySigData, b""),
    ];
    let expected = Verity { algorithm: 1, block_size: 4096, salt: b"salt", signature: b"" };
    only(3, command(26, &verity), Ok(Action::EnableVerity(expected)));
}

#[test]
fn the_last_attribute_of_a_number_counts() {
    let sizes = [number(Attribute::Size, 1), path(), number(Attribute::Size, 2)];
    only(1, command(17, &sizes), Ok(Action::Truncate { size: 2 }));
}

#[test]
fn unknown_commands_are_passed_over_and_counted() {
    let unknown = [command(0, &[]), command(27, &[path()]), command(999, &[])];
    let bytes = stream(1, &[&unknown[..], &[command(11, &[path()]), end()]].concat());
    let mut reader = open(&bytes);
    let found = reader.read_command().expect("a command").expect("not the end");
    assert_eq!((found.path, found.action), (&b"a/b"[..], Action::Unlink));
    assert_eq!(reader.skipped(), 3);
    let attribute = command(27, &[raw(36, b"")]);
    only(1, attribute, Err("send stream offset 27, command number 27: invalid tlv in cmd tlv_type = 36"));
}

#[test]
fn wrong_commands_are_told_of_and_passed_over() {
    let truncate = "send stream offset 17, command truncate";
    let missing = format!("{truncate}, attribute size: attribute 4 requested but not present");
    only(1, command(17, &[path()]), Err(&missing));
    let size = tlv(Attribute::Size, &[0; 4]);
    let size_text = "send stream offset 34, command truncate, attribute size: invalid size for attribute, \
                     expected = 8, got = 4";
    only(1, command(17, &[path(), size]), Err(size_text));
    let zero = "send stream offset 27, command unlink, attribute path: a zero byte in a path or name";
    only(1, command(11, &[tlv(Attribute::Path, b"a\0b")]), Err(zero));
    for number in [0, 36, u16::MAX] {
        let text = format!("send stream offset 34, command unlink: invalid tlv in cmd tlv_type = {number}");
        only(1, command(11, &[path(), raw(number, b"")]), Err(&text));
    }
    let cut = |len: usize| command(11, &[path()[..len].to_vec()]);
    let truncated = |rest| format!("send stream offset 27, command unlink{rest}");
    only(1, cut(1), Err(&truncated(": send stream is truncated: 1 byte of an attribute")));
    only(1, cut(3), Err(&truncated(", attribute path: send stream is truncated: the attribute has no length")));
    let text = ", attribute path: send stream is truncated: 3 bytes of the attribute, 1 in the command";
    only(1, cut(5), Err(&truncated(text)));
    let mut changed = command(11, &[path()]);
    changed[16] ^= 1;
    let found = open(&stream(1, &[changed])).read_command().expect_err("a wrong checksum").to_string();
    assert!(found.starts_with("send stream offset 17, command unlink: crc32 mismatch in command: 0x"), "{found}");
}

#[test]
fn nothing_follows_a_broken_place() {
    let whole = stream(1, &[command(11, &[path()]), command(12, &[path()])]);
    let told = |len: usize| {
        let mut reader = open(&whole[..len]);
        reader.read_command().expect("the first is whole");
        let first = reader.read_command().expect_err("the second is not").to_string();
        assert!(matches!(reader.read_command(), Err(Error::Broken(again)) if again.to_string() == first));
        first
    };
    assert_eq!(told(34), "send stream offset 34: unexpected EOF in stream");
    assert_eq!(told(40), "send stream offset 40: short read from stream: expected 10 read 6");
    assert_eq!(told(44), "send stream offset 44, command rmdir: unexpected EOF in stream");
    assert_eq!(told(45), "send stream offset 45, command rmdir: short read from stream: expected 7 read 1");
    let long = stream(1, &[vec![0xff, 0xff, 0xff, 0xff, 15, 0, 0, 0, 0, 0]]);
    let found = open(&long).read_command().expect_err("too long").to_string();
    assert_eq!(found, "send stream offset 17, command write: a command of 4294967295 bytes; at most 16777216 are read");
}

#[test]
fn only_streams_are_streams() {
    assert!(Reader::open(&b""[..]).expect("an empty input is no error").is_none());
    let refused = |bytes: &[u8]| Reader::open(bytes).expect_err("no stream").to_string();
    let header = stream(1, &[]);
    assert_eq!(refused(&header[..5]), "send stream offset 5: short read from stream: expected 17 read 5");
    assert_eq!(refused(&[b'x'; 17]), "send stream offset 0: unexpected header: not a send stream");
    for version in [0, 4, u32::MAX] {
        let text = format!("send stream offset 13: stream version {version} not supported; versions 1, 2 and 3 are");
        assert_eq!(refused(&stream(version, &[])), text);
    }
    assert_eq!([1, 2, 3].map(|version| open(&stream(version, &[])).version()), [Version::V1, Version::V2, Version::V3]);
}

/// A pipe may hold one stream behind another.
#[test]
fn nothing_is_read_beyond_the_end() {
    let bytes = [stream(1, &[end()]), stream(2, &[end()])].concat();
    let mut input = &bytes[..];
    for version in [Version::V1, Version::V2] {
        let mut reader = Reader::open(&mut input).expect("a header").expect("a stream");
        assert_eq!(reader.version(), version);
        assert!(matches!(reader.read_command(), Ok(None)));
    }
    assert!(Reader::open(&mut input).expect("the end of the input").is_none());
}

/// An input that cannot be read is no end, and can be read again.
#[test]
fn a_failed_read_is_told_of() {
    struct Failing<'a>(&'a [u8]);
    impl std::io::Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() { Err(std::io::Error::other("cable cut")) } else { self.0.read(buffer) }
        }
    }
    let bytes = stream(1, &[command(11, &[path()])]);
    let mut reader = Reader::open(Failing(&bytes)).expect("a header").expect("a stream");
    reader.read_command().expect("a command");
    let error = reader.read_command().expect_err("no more").to_string();
    assert_eq!(error, "send stream offset 34: read from stream failed: cable cut");
}
