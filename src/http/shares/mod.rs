//! What clients share, and how much of it one owner may have: memory and open files.
//!
//! Not here: what the memory or the files are used for.

pub mod files;
pub mod room;
