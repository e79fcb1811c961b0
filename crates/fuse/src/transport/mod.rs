//! What every way to the kernel has in common: one connection, many workers.
//!
//! # Invariants
//! * DESTROY runs alone: it waits for the operations under way, and none begins after it.
//! * The front end is destroyed exactly once, by DESTROY or at the end of the session.
//!
//! # Locking
//! `gate` is held shared during an operation, exclusively by DESTROY. It is taken before every
//! lock of the front end.

pub(crate) mod crew;
pub(crate) mod dev;
mod follow;
mod hand_over;
pub(crate) mod leftovers;
pub(crate) mod spare;
pub(crate) mod uring;

use crate::Errno;
use crate::dispatch::{Answer, dispatch};
use crate::front_end::FrontEnd;
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Whether operations may still begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Destroyed,
}

/// A front end and its state, shared by all workers.
pub(crate) struct Connection {
    front_end: Arc<dyn FrontEnd>,
    gate: RwLock<Phase>,
    loss: OnceLock<String>,
}

impl Connection {
    /// A connection that serves.
    pub(crate) fn new(front_end: Arc<dyn FrontEnd>) -> Self {
        Self { front_end, gate: RwLock::new(Phase::Serving), loss: OnceLock::new() }
    }

    /// The filesystem.
    pub(crate) fn front_end(&self) -> &dyn FrontEnd {
        &*self.front_end
    }

    pub(crate) fn shared_front_end(&self) -> Arc<dyn FrontEnd> {
        Arc::clone(&self.front_end)
    }

    /// Does one request.
    pub(crate) fn handle(&self, request: &Request<'_>, reply: &mut Reply) -> Answer {
        if matches!(request.operation, Operation::Destroy) {
            self.destroy();
            return Answer::Send;
        }
        let phase = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Serving => dispatch(&*self.front_end, request, reply),
            Phase::Destroyed => refuse(request, reply),
        }
    }

    /// Waits for operations under way and destroys the front end, if that was not done yet.
    pub(crate) fn destroy(&self) {
        if *self.gate.read().unwrap_or_else(PoisonError::into_inner) == Phase::Serving {
            // Before operations are waited for: some wait for long work.
            self.front_end.rest();
        }
        let mut phase = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Serving {
            *phase = Phase::Destroyed;
            if let Err(loss) = self.front_end.destroy() {
                self.loss.get_or_init(|| loss);
            }
        }
    }

    /// What was lost when the front end was destroyed.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.loss.get().map(String::as_str)
    }
}

/// Answers a request that came after DESTROY.
fn refuse(request: &Request<'_>, reply: &mut Reply) -> Answer {
    match request.operation {
        Operation::Forget(_) | Operation::BatchForget(_) | Operation::Interrupt => Answer::None,
        _ => {
            reply.set_error(Errno::EIO);
            Answer::Send
        }
    }
}

/// Answers a request that could not be parsed; gives its number, if it has one.
pub(crate) fn refuse_malformed(malformed: Malformed, reply: &mut Reply) -> Option<u64> {
    tracing::error!(%malformed, "refused");
    match malformed {
        Malformed::Header { .. } => None,
        Malformed::Arguments { opcode, .. } if is_silent(opcode) => None,
        Malformed::Arguments { unique, .. } => {
            reply.set_error(Errno::EINVAL);
            Some(unique)
        }
    }
}

/// Operations the kernel takes no answer for.
fn is_silent(code: u32) -> bool {
    use crate::abi::opcode;
    matches!(code, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
}
