//! Composition: settings, logs, signals and systemd, and how the parts start and stop.
//!
//! The only module that reads the environment or spawns a task of the process. Imported by nobody
//! but `cli`.

pub mod config;
pub mod lifecycle;
pub mod telemetry;
