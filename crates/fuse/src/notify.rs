//! Telling the kernel that something it has cached is no longer so.
//!
//! # Invariants
//! * A notification that takes a lock is never sent by the thread that asks for it: the kernel may hold that lock for
//!   the very operation being answered. A thread of its own sends them, in order.
//! * One of attributes alone takes none. It is sent at once: the caller of the operation sees the new ones.

use crate::abi;
use crate::types::NodeId;
use rustix::io::{Errno, writev};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use zerocopy::IntoBytes;

/// Something to tell the kernel.
#[derive(Debug)]
enum Notice {
    /// An inode's data and attributes.
    Inode { node: NodeId, data: bool },
    /// A name.
    Name { parent: NodeId, name: Vec<u8> },
    /// The session is over.
    Close,
}

/// Tells the kernel to forget. Cheap to clone, may be used from any thread and inside an
/// operation; it does not wait.
#[derive(Clone, Debug)]
pub struct Notifier {
    queue: Sender<Notice>,
    device: Weak<OwnedFd>,
}

impl Notifier {
    /// A notifier and the work that sends what is asked of it.
    pub(crate) fn new(device: &Arc<OwnedFd>) -> (Self, NoticeQueue) {
        let (queue, notices) = channel();
        (Self { queue, device: Arc::downgrade(device) }, NoticeQueue { notices })
    }

    /// A notifier that tells nobody, for tests of a front end without a mount.
    pub fn disconnected() -> Self {
        Self { queue: channel().0, device: Weak::new() }
    }

    /// Attributes and all cached data of an inode have changed.
    pub fn inval_inode(&self, node: NodeId) {
        self.send(Notice::Inode { node, data: true });
    }

    /// Attributes (with ACLs) of an inode have changed, the data has not.
    pub fn inval_attr(&self, node: NodeId) {
        if let Some(device) = self.device.upgrade() {
            tell(&device, &Notice::Inode { node, data: false });
        }
    }

    /// A name was removed, added, or means another inode.
    pub fn inval_entry(&self, parent: NodeId, name: &[u8]) {
        self.send(Notice::Name { parent, name: name.to_vec() });
    }

    /// Nothing more can be told: the session is over.
    pub(crate) fn close(&self) {
        self.send(Notice::Close);
    }

    /// Queues a notice. After the end of the session there is nobody to tell.
    fn send(&self, notice: Notice) {
        let _ = self.queue.send(notice);
    }
}

/// Notices waiting to be sent.
pub(crate) struct NoticeQueue {
    notices: Receiver<Notice>,
}

impl NoticeQueue {
    /// Sends notices until all notifiers or the connection are gone.
    pub(crate) fn run(self, device: Arc<OwnedFd>) {
        for notice in self.notices {
            if matches!(notice, Notice::Close) {
                return;
            }
            tell(&device, &notice);
        }
    }
}

/// Sends one notice. That the session is over, or that nothing was cached, is no failure.
fn tell(device: &OwnedFd, notice: &Notice) {
    match send(device, notice) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
        Err(error) => tracing::warn!(?notice, %error, "notification refused"),
    }
}

/// Sends one notice.
fn send(device: &OwnedFd, notice: &Notice) -> Result<(), Errno> {
    match notice {
        Notice::Close => Ok(()),
        Notice::Inode { node, data } => {
            let off = if *data { 0 } else { -1 };
            let body = abi::NotifyInvalInodeOut { ino: node.0, off, len: 0 };
            write(device, abi::NOTIFY_INVAL_INODE, &[body.as_bytes()])
        }
        Notice::Name { parent, name } => {
            let namelen = name.len() as u32;
            let body = abi::NotifyInvalEntryOut { parent: parent.0, namelen, flags: 0 };
            write(device, abi::NOTIFY_INVAL_ENTRY, &[body.as_bytes(), name, b"\0"])
        }
    }
}

/// Writes a notification of these parts.
fn write(device: &OwnedFd, code: i32, parts: &[&[u8]]) -> Result<(), Errno> {
    let len = size_of::<abi::OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = abi::OutHeader { len: len as u32, error: code, unique: 0 };
    let mut all = vec![IoSlice::new(header.as_bytes())];
    all.extend(parts.iter().map(|part| IoSlice::new(part)));
    writev(device, &all).map(drop)
}
