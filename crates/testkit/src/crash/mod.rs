//! Power cuts: what a workload did to its devices is recorded, every state that a cut could have left is built, and
//! each is judged.
//!
//! * [`recording`]: a device that notes each write, discard and flush; any number of devices, one order.
//! * [`states`]: the legal states after a cut.
//! * [`history`], [`workload`]: seeded operations on the engine, and what the filesystem held after each.
//! * [`judge`]: what a state must be like.
//! * [`campaign`]: a workload and its states; [`tally`]: the counts.
//! * [`kernel`]: states compared with what the kernel's btrfs shows of them; `btrfs check`.
//! * [`breaker`]: devices that break their promise, to prove that the judge sees it.
//!
//! See `docs/crash-testing.md`.

pub mod breaker;
pub mod campaign;
pub mod cut;
pub mod history;
pub mod judge;
pub mod kernel;
pub mod recording;
pub mod states;
pub mod tally;
pub mod tools;
pub mod workload;
