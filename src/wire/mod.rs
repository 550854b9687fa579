//! The PostgreSQL wire protocol, as far as a pooler must understand it: where a message ends, which names it carries, and what
//! we say ourselves. It decides nothing about sessions and must never know pools, authentication or the runtime; nothing here
//! copies a message body that is merely passed on.

pub mod extended;
pub mod frame;
pub mod reply;
pub mod startup;
