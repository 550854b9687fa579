//! The console seen from outside: bytes in, bytes out.
