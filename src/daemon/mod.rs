//! Composition: settings, logs, signals and systemd, and how the parts start and stop.
//!
//! The only module that reads the environment or spawns a task of the process. Only `cli` imports
//! it.

mod catalog_reloader;
mod components;
pub mod config;
mod discover;
mod keys_reloader;
pub mod lifecycle;
mod local_run;
mod server;
mod server_models;
pub mod start_error;
pub mod telemetry;

pub use crate::daemon::start_error::{Environment, StartError};
pub use crate::quote::file_estimate::CostEstimate;
pub use crate::store::{RUN_OUTPUTS, RUNS};
pub use components::{Core, load_catalog, system_clock};
pub use discover::{DiscoverError, DiscoveredModels, discover_models};
pub use local_run::{Chain, ChainProgress, DryRun, Job, JobError, Submission};
pub use server::{Daemon, ServeError};

// Operations on a data directory that no daemon is using.
pub use crate::store::{Checked, SalvageError, SalvageNote, Salvaged, Thing, Unlookable, check as check_store, salvage as salvage_store};
