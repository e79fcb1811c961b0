//! Structures as JSON: `{"__header": {"version": "1"}, "inspect-COMMAND": [...]}`, element by element, so
//! that a list of any length takes no memory. A field keeps its name and meaning; new ones may come.

mod item;
mod superblock;

use std::io::{self, Write};

use butterfs_format::print::{Hex, ObjectId, Options, Show, UuidText, header_flags, leaf_free_space};
use butterfs_format::{ItemType, Key, TreeBlock};
use serde_json::{Map, Value, json};

pub use self::superblock::{backup_roots, superblock};

/// A list that is written element by element.
pub struct List {
    entries: usize,
}

impl List {
    /// Writes what comes before the elements.
    pub fn begin(out: &mut dyn Write, name: &str) -> io::Result<Self> {
        write!(out, "{{\n  \"__header\": {{\n    \"version\": \"1\"\n  }},\n  \"{name}\": [")?;
        Ok(Self { entries: 0 })
    }

    /// Writes an element.
    pub fn entry(&mut self, out: &mut dyn Write, entry: &Value) -> io::Result<()> {
        let comma = if self.entries == 0 { "" } else { "," };
        self.entries += 1;
        write!(out, "{comma}\n    {entry}")
    }

    /// Writes what comes after, with further members.
    pub fn end(self, out: &mut dyn Write, further: &[(&str, Value)]) -> io::Result<()> {
        out.write_all(if self.entries == 0 { b"]" } else { b"\n  ]" })?;
        further.iter().try_for_each(|(name, value)| write!(out, ",\n  \"{name}\": {value}"))?;
        out.write_all(b"\n}\n")
    }
}

/// A list that is there already.
pub fn list(out: &mut dyn Write, name: &str, entries: &[Value]) -> io::Result<()> {
    let mut list = List::begin(out, name)?;
    entries.iter().try_for_each(|entry| list.entry(out, entry))?;
    list.end(out, &[])
}

/// A key by its numbers, and as text.
pub fn key(key: &Key) -> Value {
    json!({
        "objectid": key.objectid,
        "type": key.item_type.0,
        "offset": key.offset,
        "text": key.to_string(),
    })
}

/// A tree block with its items or pointers.
pub fn block(tree: &Value, block: &TreeBlock, options: &Options) -> Value {
    let header = block.header();
    let mut out = Map::new();
    if !tree.is_null() {
        out.insert("tree".into(), tree.clone());
    }
    let fields = [
        ("bytenr", json!(header.bytenr.get())),
        ("level", json!(header.level)),
        ("generation", json!(header.generation.get())),
        ("owner", json!(header.owner.get())),
        ("owner_name", json!(ObjectId { id: header.owner.get(), item_type: ItemType::UNTYPED }.to_string())),
        ("flags", json!(header_flags(header.flags.get()).to_string())),
        ("backref_revision", json!(header.flags.get() >> 56)),
        ("fs_uuid", uuid(&header.fsid)),
        ("chunk_uuid", uuid(&header.chunk_tree_uuid)),
    ];
    out.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    if options.header_csums == Show::Yes {
        out.insert("csum".into(), hex(&header.csum[..options.csum_type.size()]));
    }
    if block.is_leaf() {
        out.insert("free_space".into(), json!(leaf_free_space(block)));
        out.insert("items".into(), (0..block.len()).map(|slot| item_of(block, slot, options)).collect());
    } else {
        out.insert("pointers".into(), (0..block.len()).map(|slot| pointer(block, slot)).collect());
    }
    Value::Object(out)
}

fn pointer(node: &TreeBlock, slot: usize) -> Value {
    let ptr = node.ptr(slot);
    json!({ "key": key(&ptr.key.into()), "bytenr": ptr.blockptr.get(), "generation": ptr.generation.get() })
}

fn item_of(leaf: &TreeBlock, slot: usize, options: &Options) -> Value {
    let (header, at) = (leaf.item(slot), leaf.key(slot));
    json!({
        "key": key(&at),
        "itemoff": header.offset.get(),
        "itemsize": header.size.get(),
        "data": item::data(&at, leaf.data(slot), options),
    })
}

/// A UUID.
fn uuid(bytes: &[u8; 16]) -> Value {
    UuidText(bytes).to_string().into()
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> Value {
    Hex(bytes).to_string().into()
}

/// Bytes that are mostly text: as text if they are, else in hexadecimal under another name.
pub fn text(out: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => out.insert(name.into(), text.into()),
        Err(_) => out.insert(format!("{name}_hex"), hex(bytes)),
    };
}
