//! A queue into a thread that waits in ppoll(2): whoever puts something in wakes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};

/// The end that puts in. Clones share the queue.
#[derive(Debug)]
pub(super) struct Inlet<T> {
    queue: Sender<T>,
    bell: std::sync::Arc<OwnedFd>,
}

impl<T> Clone for Inlet<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: std::sync::Arc::clone(&self.bell) }
    }
}

impl<T> Inlet<T> {
    /// Puts something in. False: nobody takes anything out any more.
    pub(super) fn put(&self, item: T) -> bool {
        let taken = self.queue.send(item).is_ok();
        // A full pipe is a bell that rings already.
        let _ = write(&self.bell, &[0]);
        taken
    }
}

/// The end that takes out.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    queue: Receiver<T>,
    bell: OwnedFd,
}

impl<T> Outlet<T> {
    /// What is to be waited for.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes out what is there.
    pub(super) fn take(&self) -> Vec<T> {
        let mut rung = [0; 64];
        while read(&self.bell, &mut rung).is_ok_and(|n| n == rung.len()) {}
        self.queue.try_iter().collect()
    }
}

/// A queue.
///
/// # Errors
/// The kernel's.
pub(super) fn queue<T>() -> io::Result<(Inlet<T>, Outlet<T>)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let (sender, receiver) = channel();
    Ok((Inlet { queue: sender, bell: std::sync::Arc::new(writer) }, Outlet { queue: receiver, bell: reader }))
}
