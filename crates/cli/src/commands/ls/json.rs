//! Rows as JSON.

use serde_json::Value;

use super::Row;
use crate::commands::json;
use crate::image::describe::attributes_json;

/// One row.
pub fn row(row: &Row) -> Value {
    let mut out = attributes_json("path", &row.path, &row.attributes, row.target.as_deref());
    json::text(&mut out, "name", &row.name);
    Value::Object(out)
}
