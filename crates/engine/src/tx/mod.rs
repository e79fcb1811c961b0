//! The running transaction, and the gate to it.
//!
//! From the bottom: [`delayed`] gathers reference changes; [`transaction`] is the state, [`blocks`]
//! its copy on write, [`roots`] and [`groups`] what it knows of trees and space; [`extent_tree`],
//! [`free_space_tree`], [`checksums`] and [`chunks`] write those trees; [`snapshot`] and [`mod@drop`]
//! share and unshare whole trees; [`log`] is what fsync writes, and [`replay`] what mounting after a crash needs; [`seal`] writes blocks, [`commit`] makes all durable; [`gate`] lets others in.

mod blocks;
mod checksums;
mod chunks;
mod commit;
mod delayed;
mod drop;
mod extent_tree;
mod free_space_tree;
mod gate;
mod groups;
mod log;
mod make;
mod make_options;
mod open;
mod replay;
mod roots;
pub mod seal;
mod snapshot;
mod transaction;

pub use crate::space::Totals;
pub use checksums::{ChecksumTree, ChecksumTreeMut};
pub use gate::{DataReservation, Gate, GateSettings, Need, SpaceUsage};
pub use log::{LogTicket, LogWriter};
pub use make::make;
pub use make_options::{MIN_SIZE, MakeOptions};
pub use transaction::Transaction;
