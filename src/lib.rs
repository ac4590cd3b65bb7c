//! A self-hosted LLM batch API: upload JSONL, dispatch every row to a provider, keep every result.
//!
//! Data flows one way. A request comes in through [`http`], becomes [`domain`] values and is
//! stored; the [`executor`] takes work out of the [`store`], asks [`route`] which lane may run,
//! hands the row to a [`provider`] and stores the outcome. Nothing lower names anything higher;
//! what must travel upward travels as a return value or an event.
//!
//! ```text
//!             cli ------- client
//!              |
//!            daemon            composes everything, imported by nobody but cli
//!           /   |  \
//!        http   |  executor     http holds only the executor's handle
//!         |  courier  |         tells receivers what has happened
//!         | \    /  |   \
//!         |  route  |  provider
//!         |   |     |    |
//!        store | catalog |
//!           \  |  /     /
//!            domain            imports nothing of ours
//! ```
//!
//! [`descriptors`] shares out the file descriptors of the process among those who open connections; it
//! lies beside `domain` and imports nothing of ours either.
//!
//! [`client`] speaks to a daemon over HTTP, as anybody's client does. `cli` also reads seeds, which
//! needs no daemon, with [`catalog`].
//!
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
