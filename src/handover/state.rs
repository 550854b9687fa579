//! The state itself. Fields may be added with a default; what older readers must not overlook takes a new version
//! ([`super::format::VERSION`]). Times are those of the monotonic clock, in nanoseconds, the same in all processes of a
//! machine.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// Bytes that need not be text; never shown.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // Keys and what clients have sent may be among them.
        self.0.zeroize();
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(bytes.into())
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Everything of one hand-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The program that wrote it, for the log.
    pub program: String,
    /// The largest id given to a client or server so far.
    pub last_id: u64,
    /// The largest number given to a prepared statement so far.
    pub last_statement: u64,
    /// How many descriptors go with it.
    pub descriptors: u32,
    /// Sets of tracked parameters, shared by those who name their place here.
    pub values: Vec<Values>,
    /// Prepared statements that somebody still knows.
    pub statements: Vec<Statement>,
    /// Pools with clients or servers.
    pub pools: Vec<Pool>,
    /// Logged-in servers.
    pub servers: Vec<Server>,
    /// Clients, those that wait for a server first, in the order in which they began to wait.
    pub clients: Vec<Client>,
    /// Everything is paused (PAUSE).
    pub paused: bool,
    /// Databases that are paused by name.
    pub paused_databases: Vec<String>,
    /// Databases that are disabled.
    pub disabled_databases: Vec<String>,
    /// What an administrator has said of this node of a pair.
    pub ha: Ha,
    /// The configuration in force, in its native form, should the successor find the file broken.
    pub configuration: Bytes,
}

/// What an administrator has said of one node of a pair, and what only its process remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ha {
    /// Who has said HA MAINTENANCE ON; empty: nobody.
    pub maintenance: String,
    /// Virtual routers that SWITCHOVER has moved away and that would preempt the other node, by VRID.
    pub moved_v4: Vec<u8>,
    /// The same of IPv6.
    pub moved_v6: Vec<u8>,
    /// Virtual routers that the process was active for, by VRID. The address helper knows better, if it is still the same one.
    pub active_v4: Vec<u8>,
    /// The same of IPv6.
    pub active_v6: Vec<u8>,
}

/// Tracked parameters by name.
pub type Values = Vec<(String, Bytes)>;

/// One prepared statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statement {
    /// Its number, which is in its name on servers.
    pub id: u64,
    /// Query text and parameter types as in Parse.
    pub definition: Bytes,
}

/// A pool, named by how clients ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// The database, as clients name it.
    pub database: String,
    /// The user, as clients name it.
    pub user: String,
    /// What its servers depend on: where they are, as whom and how they are logged in to. If the successor's differs, they
    /// are not used again.
    pub leads_to: String,
    /// Parameters that its last server reported, tracked ones left out.
    pub reported: Vec<(Bytes, Bytes)>,
    /// The tracked ones: a place in [`State::values`].
    pub reported_values: Option<u32>,
    /// The keys of the last client that logged in by SCRAM.
    pub pass_through: Option<PassThrough>,
    /// What auth_query last found about the user, if servers can be logged in to with it; empty: nothing.
    pub found: Bytes,
}

/// Keys for logging in to servers without a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassThrough {
    /// ClientKey and ServerKey, 64 bytes.
    pub keys: Bytes,
    /// The salt that they hold for.
    pub salt: Bytes,
    /// The iterations that they hold for.
    pub iterations: u32,
}

/// TLS that the kernel does on a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// The version as it stands on the wire.
    pub protocol: u16,
    /// The cipher suite's number.
    pub suite: u16,
    /// What was decrypted and not read.
    pub unread: Bytes,
}

/// A key of the protocol's BackendKeyData.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Key {
    /// Process id.
    pub pid: u32,
    /// Secret.
    pub secret: Bytes,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A Unix socket.
    Unix(Bytes),
    /// Host name or literal address, and port.
    Tcp(String, u16),
}

/// A server that owes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Its socket: a place in the list of descriptors.
    pub descriptor: u32,
    /// Its pool: a place in [`State::pools`].
    pub pool: u32,
    /// Its id.
    pub id: u64,
    /// The id of the client that holds it; none if it is idle.
    pub client: Option<u64>,
    /// When its login was over.
    pub opened_at: u64,
    /// When it was last given back, if it is idle.
    pub idle_since: u64,
    /// When it was connected.
    pub connected_at: u64,
    /// Some client has used it.
    pub used: bool,
    /// It is to be closed at its release.
    pub close_needed: bool,
    /// Where cancel requests go, and with which key.
    pub cancel: Option<(Place, Key)>,
    /// The state byte of its last ReadyForQuery: `I`, `T` or `E`.
    pub status: u8,
    /// Its tracked parameters: a place in [`State::values`].
    pub values: u32,
    /// Its statements by number, the least recently used first.
    pub statements: Vec<u64>,
    /// TLS, if there is any.
    pub tls: Option<Tls>,
}

/// A client between two frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// Its socket: a place in the list of descriptors.
    pub descriptor: u32,
    /// Its pool: a place in [`State::pools`].
    pub pool: u32,
    /// Its id.
    pub id: u64,
    /// The database that it asked for.
    pub database: String,
    /// Its user name.
    pub user: String,
    /// When it came.
    pub connected_at: u64,
    /// When its last request came.
    pub request_at: u64,
    /// `application_name` at login.
    pub application_name: String,
    /// TLS, if there is any.
    pub tls: Option<Tls>,
    /// The key that it was given.
    pub key: Option<Key>,
    /// Its tracked parameters: a place in [`State::values`].
    pub values: u32,
    /// Its prepared statements: name, and number in [`State::statements`].
    pub names: Vec<(Bytes, u64)>,
    /// What it has sent and nobody has looked at.
    pub input: Bytes,
    /// When it began to wait for a server, if it waits.
    pub waiting_since: Option<u64>,
    /// When its transaction began.
    pub transaction_began: u64,
    /// When its server was last ready for it.
    pub ready_at: u64,
    /// The server that it holds has had something to do for it.
    pub served: bool,
    /// The pool mode that holds as long as it has a server: `s`ession, `t`ransaction, `q`: statement.
    pub mode: u8,
}
