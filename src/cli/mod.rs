//! The command line: what a person types, and what they read in return.
//!
//! Data goes to standard output, everything else to standard error.

pub mod config;
pub mod progress;
