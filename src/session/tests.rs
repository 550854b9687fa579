//! The cores against a model of PostgreSQL: cases written by hand, and clients over servers in random order.

mod backend;
mod cases;
mod pooler;
mod script;
mod simulation;
