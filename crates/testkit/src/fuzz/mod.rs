//! Fuzzing: inputs that are wrong in a way that was chosen, seeded and repeatable, without a special compiler.
//!
//! An [`Input`] is text: a base image and a few changed bytes, an item, a compressed stream, or a
//! send stream. [`mutate`]
//! makes inputs out of the base images and of inputs that did something new; [`target`] runs one, and says in
//! words what came of it; [`guard`] makes a panic, a hang and a memory hog failures; [`campaign`] goes round.
//! Checksums are made right after each change, so that the damage is met behind them.
//!
//! The corpus is in `corpus/` of this crate, see `docs/fuzzing.md`: `bases` are the images, `streams` send streams of a kernel,
//! `kept` are inputs
//! that did something new, `found` are inputs that failed once. There is no feedback from the compiler: something
//! new is a message (numbers left out) that was not seen before.

pub mod base;
pub mod bases;
pub mod campaign;
pub mod corpus;
pub mod guard;
pub mod input;
pub mod mutate;
pub mod numbers;
pub mod send;
pub mod streams;
pub mod target;

pub use base::Base;
pub use campaign::Campaign;
pub use corpus::Corpus;
pub use input::{Change, Input, Kind, Recipe};
