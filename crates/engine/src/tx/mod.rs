//! The running transaction, and the gate to it.
//!
//! From the bottom: [`delayed`] gathers reference changes; [`transaction`] is the state, [`blocks`]
//! its copy on write, [`roots`] and [`groups`] what it knows of trees and space; [`extent_tree`],
//! [`free_space_tree`], [`checksums`] and [`chunks`] write those trees; [`snapshot`] and [`mod@drop`]
//! share and unshare whole trees; [`references`] tells who refers to an extent; [`log`] is what fsync writes, with [`names`] that changed since, and
//! [`replay`] what mounting after a crash needs; [`seal`] writes blocks, [`tops`] enters trees in the superblock,
//! [`commit`] makes all durable; [`discard`] tells devices what is free; [`moves`] moves
//! extents for all who share them, and [`in_flight`] knows who may still read where they were;
//! [`row_turns`] keeps commits from what is being written beside them;
//! [`promises`] says who may use how much of what is left, and [`sharing`] what shared blocks may
//! still cost; [`gate`] lets others in.

mod blocks;
mod checksums;
mod chunks;
mod commit;
mod delayed;
mod device_list;
mod device_space;
mod device_stats;
mod discard;
mod drop;
mod extent_tree;
mod free_space_tree;
mod gate;
mod groups;
mod in_flight;
mod label;
mod log;
mod lost_refs;
mod make;
mod make_options;
mod moves;
mod names;
mod open;
mod promises;
mod references;
mod replace_item;
mod replay;
mod room;
mod roots;
mod row_turns;
pub mod seal;
mod sharing;
mod snapshot;
mod space_cache;
mod stopped;
mod tops;
mod transaction;
mod turn;
mod why_commit;

pub use crate::space::{DiscardRule, SpaceRules, Totals};
pub use checksums::{ChecksumTree, ChecksumTreeMut};
pub(crate) use chunks::feature_of;
pub use discard::Trim;
pub use gate::{Gate, GateSettings, Loggable};
pub use groups::BadGroups;
pub use in_flight::{InFlight, Passenger};
pub use log::{LogTicket, LogWriter};
pub use make::make;
pub use make_options::{MIN_SIZE, MakeOptions, NewDevice};
pub use moves::{Found, GroupInfo, MoveCost, Moved, Profiles, Room};
pub use names::{EntryKey, Leads, NameChanges};
pub use promises::{Copier, DataReservation, Groups, Need, SpaceUsage, Wanted};
pub use references::{FoundExtent, References};
pub use room::DiskUsage;
pub use row_turns::RowHold;
pub use stopped::{Stopped, StoppedBy};
pub use tops::Tops;
pub use transaction::Transaction;
pub use why_commit::WhyCommit;
