//! Drives virtual routers. [`socket`] sends and receives adverts through the kernel. It must never know poolers, the
//! configuration, or what an advert means. What to do about one is decided above it.

pub mod socket;
