//! Frames that the address helper sends around a change of holder.
