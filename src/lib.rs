//! A self-hosted LLM batch API: upload JSONL, dispatch every row to a provider, keep every result.
//!
//! Data flows one way. A request comes in through [`http`], becomes [`domain`] values, and
//! [`service`] decides what they mean and stores them. The [`executor`] takes work out of the
//! [`store`], asks [`flow`] when a lane may run, hands the row to a [`provider`] and stores the
//! outcome. No lower module names a higher one; what must travel upward travels as a return value
//! or an event.
//!
//! ```text
//! cli -> daemon -> http -> service -> executor -> webhooks, quote -> store, provider, catalog, flow -> domain
//! ```
//!
//! [`descriptors`] divides the file descriptors of the process among the parts that open
//! connections. It lies beside `domain` and imports no other module of the crate. [`client`] speaks
//! to a daemon over HTTP, as any client does.
//!
//! `docs/architecture.md` has the rooms, the life of a row and the invariants.
//! `tests/architecture.rs` holds the code to this picture.

pub mod catalog;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod descriptors;
pub mod domain;
pub mod executor;
pub mod flow;
pub mod http;
pub mod provider;
pub mod quote;
pub mod service;
pub mod store;
pub mod webhooks;
