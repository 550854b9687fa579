//! Read buffers. A buffer takes its memory from a store of its thread when bytes are about to arrive and gives it back when the
//! last byte is consumed, so that an idle client holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of an ordinary buffer: most transactions fit.
pub const SMALL_LEN: usize = 16 * 1024;
/// Bytes of the buffer that a stream gets after it filled an ordinary one in one read.
pub const LARGE_LEN: usize = 64 * 1024;

/// Buffers of each size that a thread keeps for the next one who needs them.
const KEPT_MAX: usize = 32;

thread_local! {
    static STORE: RefCell<[Vec<Vec<u8>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn class(len: usize) -> Option<usize> {
    match len {
        SMALL_LEN => Some(0),
        LARGE_LEN => Some(1),
        _ => None,
    }
}

fn borrow_memory(len: usize) -> Vec<u8> {
    let kept = class(len).and_then(|c| STORE.with_borrow_mut(|store| store.get_mut(c).and_then(Vec::pop)));
    kept.unwrap_or_else(|| vec![0; len])
}

fn give_back(memory: Vec<u8>) {
    let Some(class) = class(memory.len()) else { return };
    STORE.with_borrow_mut(|store| {
        if let Some(kept) = store.get_mut(class)
            && kept.len() < KEPT_MAX
        {
            kept.push(memory);
        }
    });
}

/// Bytes that have been read and not yet consumed.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
    large: bool,
}

impl Buffer {
    /// The unconsumed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `n` bytes; the memory goes back when none is left.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.release();
        }
    }

    /// Puts bytes in front of what will be read (left over from a hand-shake).
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(self.len() + bytes.len());
        if let Some(free) = self.memory.get_mut(self.end..self.end + bytes.len()) {
            free.copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Sees to it that `len` bytes in all can be held. Only called for bytes that are wanted as a whole and bounded by the
    /// caller; grows by doubling at most, so that a peer must send what it announces.
    pub fn make_room(&mut self, len: usize) {
        if self.memory.is_empty() {
            let size = if self.large { LARGE_LEN } else { SMALL_LEN };
            self.memory = borrow_memory(size.max(len));
        }
        if self.start + len <= self.memory.len() {
            return;
        }
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if len > self.memory.len() {
            let size = len.min(self.memory.len() * 2);
            self.memory.resize(size, 0);
        }
    }

    /// Doubles the room, up to `len` bytes in all, once what is there is full: a peer must send what it announces.
    pub fn grow_if_full(&mut self, len: usize) {
        if self.is_full() {
            self.make_room(len);
        }
    }

    /// Is there no room for another byte?
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.memory.is_empty() && self.len() == self.memory.len()
    }

    /// Reads once. Ready with 0 at the end of the stream. Cancel-safe: what was read is here.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        self.make_room(self.len() + 1);
        let Some(free) = self.memory.get_mut(self.end..) else { return Poll::Ready(Ok(0)) };
        let room = free.len();
        let mut read = ReadBuf::new(free);
        let result = Pin::new(stream).poll_read(cx, &mut read);
        let n = read.filled().len();
        if n == 0 && self.is_empty() {
            self.release();
        }
        ready!(result)?;
        self.end += n;
        self.large = n == room && room >= SMALL_LEN / 2;
        Poll::Ready(Ok(n))
    }

    fn release(&mut self) {
        self.start = 0;
        self.end = 0;
        give_back(std::mem::take(&mut self.memory));
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(chunks in prop::collection::vec(0usize..40_000, 1..20), eat in 1usize..50_000) {
            let mut cx = Context::from_waker(Waker::noop());
            let (mut buffer, mut next_in, mut next_out) = (Buffer::default(), 0u8, 0u8);
            for chunk in chunks {
                let data: Vec<u8> = (0..chunk).map(|_| { next_in = next_in.wrapping_add(1); next_in }).collect();
                let mut rest = &data[..];
                while !rest.is_empty() {
                    if buffer.is_full() {
                        let want = buffer.len() + 1;
                        buffer.make_room(want);
                    }
                    let Poll::Ready(Ok(n)) = buffer.poll_fill(&mut cx, &mut rest) else { panic!("in memory") };
                    prop_assert!(n > 0);
                    let taken = eat.min(buffer.len());
                    for &byte in &buffer.bytes()[..taken] {
                        next_out = next_out.wrapping_add(1);
                        prop_assert_eq!(byte, next_out);
                    }
                    buffer.consume(taken);
                }
            }
            if buffer.is_empty() {
                prop_assert_eq!(buffer.memory.capacity(), 0, "an empty buffer holds no memory");
            }
        }
    }
}
