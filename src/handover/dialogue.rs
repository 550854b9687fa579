//! What two processes say to each other while the younger one takes over (PgBouncer option `-R`). Each message is one
//! packet of a Unix socket that keeps their bounds; descriptors travel beside [`Message::Offer`] and
//! [`Message::Descriptors`].
//!
//! ```text
//! successor                       predecessor
//! Hello (what it understands) ->
//!                              <- Offer (listeners, pidfile), or Decline (why): it serves on
//! Ready (it could serve)      ->
//!                              <- Descriptors …, State (what rests now)
//! Adopted                     ->
//!                              <- Go: from here on they are the successor's
//!                              <- Descriptors …, State (what came to rest later) … and so on
//!                              <- Done
//! ```
//!
//! Whoever hangs up before Go has changed nothing. After Go, and as long as the predecessor has busy clients, the successor may
//! also say Cancel.

use serde::{Deserialize, Serialize};

use super::format::DEPTH_MAX;
use super::state::Key;

/// The longest message, in bytes.
pub const MESSAGE_LEN_MAX: usize = 16 * 1024;

/// Descriptors in one message; the kernel takes 253.
pub const DESCRIPTORS_MAX: usize = 250;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The successor introduces itself.
    Hello {
        /// Oldest and newest version of the state that it reads.
        versions: (u32, u32),
        /// Its program, for the log.
        program: String,
        /// Its process id, for the log.
        pid: u32,
    },
    /// The predecessor agrees; beside it go the listeners in this order, then the channel to the address helper and the
    /// pidfile, if there are such.
    Offer {
        /// Names of the listeners.
        listeners: Vec<String>,
        /// Its pidfile goes with them.
        pidfile: bool,
        /// The channel to the address helper goes with them: a restart moves no floating address.
        #[serde(default)]
        helper: bool,
        /// Its process id, for the log.
        pid: u32,
        /// It takes [`Message::Cancel`]. Of those who do not say so nothing is asked.
        #[serde(default)]
        cancels: bool,
    },
    /// The predecessor does not agree and serves on.
    Decline {
        /// For the operator.
        reason: String,
    },
    /// The successor could serve.
    Ready,
    /// The next sockets, in the order in which the state names them.
    Descriptors {
        /// How many go beside this message.
        count: u32,
    },
    /// The state is in the file whose descriptor goes beside this message.
    State {
        /// Its length in bytes.
        len: u64,
    },
    /// The successor has understood the state.
    Adopted,
    /// The successor may act on it.
    Go,
    /// A cancel request has come to the successor, with a key that it does not know: perhaps its client is still busy at the
    /// predecessor. Said at any time after Go; nothing is answered.
    Cancel {
        /// The key.
        key: Key,
    },
    /// Nothing more comes.
    Done,
}

impl Message {
    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Plain data of a few fields; a failure would come out as a packet that nobody understands.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads a message; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = rmp_serde::Deserializer::from_read_ref(bytes.get(..bytes.len().min(MESSAGE_LEN_MAX))?);
        fields.set_max_depth(DEPTH_MAX);
        Self::deserialize(&mut fields).ok()
    }
}
