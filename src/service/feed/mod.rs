//! What happens to a batch, told to whoever follows it, without a poll for each of them.
//!
//! ```text
//! store  --commits-->  watcher (one for each batch that is followed)  --frames-->  followers
//! ```
//!
//! Invariants:
//! * whatever a follower is told is durable: the watcher reads the store as every other reader does;
//! * a follower costs its connection and a receiver; reading and rendering are the watcher's, once for all;
//! * however many follow, no more of them are told something in a second than the rows can spare ([`pacing`]);
//! * what is told is a state and not a log: whoever is slow misses states in between, never the last one.

mod pacing;
pub mod watcher;
