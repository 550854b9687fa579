//! Sockets: streams (TCP, Unix, TLS over either), the buffers that they are read into, dialling with a deadline, listening.
//! It decides how bytes move and must never know what they mean, nor any setting that is not a socket's.

pub mod buffer;
pub mod dial;
pub mod kernel_tls;
pub mod listen;
pub mod names;
pub mod socket;
pub mod stream;
