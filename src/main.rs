//! The program `pgtandem`.

fn main() {}
