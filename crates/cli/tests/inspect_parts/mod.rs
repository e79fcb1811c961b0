//! Parts of the tests of `inspect-internal`.

pub mod files;
mod questions;
