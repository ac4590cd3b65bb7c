//! The feed of a batch's changes to its followers, without a poll for each follower.
//!
//! ```text
//! store  --commits-->  watcher (one for each batch that is followed)  --frames-->  followers
//! ```
//!
//! Invariants:
//! * every state that a follower receives is durable: the watcher reads the store as every other
//!   reader does;
//! * a follower costs its connection and a receiver; the watcher reads and renders once for all
//!   followers;
//! * the number of followers that are notified in a second is limited to what the rows can spare,
//!   whatever the number of followers ([`pacing`]);
//! * followers receive states, not a log: a slow follower misses states in between, never the last
//!   one.

mod pacing;
pub mod watcher;
