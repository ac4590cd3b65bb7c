//! Models, providers and prices: read from seed files, checked, and published as a snapshot.
//!
//! Two types: as written ([`schema`]), for people, and as checked ([`Seeds`], then [`Snapshot`]),
//! for the rest of the program; only the second circulates. The catalog reads no environment and
//! opens no connection: it states where a key is found, and its caller states whether the key is
//! there.
//!
//! Invariants others rely on:
//! * a snapshot never changes, and every routing decision in it was made when it was built;
//! * loading is all or nothing: with any fault in any file there is no new snapshot, and the report
//!   names every fault with its place;
//! * no secret is in a snapshot, a report or a log line of the catalog;
//! * nothing is sent to a provider that the operator did not configure. That is why the built-in
//!   seeds name `BATCHD_OPENAI_API_KEY` and not `OPENAI_API_KEY`, which a developer's machine has
//!   set for the client: its mere presence must not send a batch off the machine.

pub mod archive;
mod choice;
mod diff;
mod discover;
pub mod evidence;
mod fault;
mod folder;
mod handle;
mod merge;
mod model;
mod parse;
mod rates;
mod resolve;
mod schema;
mod seeds;
mod snapshot;
mod upstream;
mod url;
mod validate;
mod vocabulary;
mod watch;
mod workflow;

#[cfg(test)]
mod tests;

pub use crate::catalog::archive::Archive;
pub use crate::catalog::evidence::Evidence;
pub use diff::{Changes, diff};
pub use discover::{Discovered, NotAList, SeedPlace, read_models};
pub use fault::{Fault, Faults, TextPlace};
pub use handle::{Accepted, Catalog, CatalogStatus, Origin, Reload, ReloadError, Reloaded, Requests, ServerListing};
pub use merge::{MergeError, Merged, merge_server};
pub use model::{Capacity, Files, Model, Offering, Privacy, Provider};
pub use rates::{Meter, Rate, Rates};
pub use resolve::ResolveError;
pub use schema::json::schemas;
pub use seeds::{Seeds, embedded, load_archive, load_dir, load_embedded, read_dir};
pub use snapshot::{ListedModel, Offer, Route, Snapshot, unix_seconds};
pub use upstream::{UPSTREAM_KEY_ENV, Upstream, UpstreamError, UpstreamOptions, Upstreams};
pub use url::parse_api_path;
pub use vocabulary::{DataCollection, HostedTool, Modality, Operation, Plan, Status, Verification};
pub use watch::{WatchError, Watcher, watch};
pub use workflow::{Artifact, ItemTemplate, Workflow};
