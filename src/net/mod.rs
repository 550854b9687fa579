//! (laid out in the commits that follow)
