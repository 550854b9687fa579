//! From settings and entries to virtual routers, and what is wrong with them.
