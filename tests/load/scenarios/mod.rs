//! What is measured, one file each; `bench.rs` has the table of them.

pub mod catalog;
pub mod download;
pub mod flat;
pub mod followers;
pub mod lanes;
pub mod limit;
pub mod quote;
pub mod restart;
pub mod rows;
pub mod upload;
pub mod waiting;

use std::io;

/// A directory that goes away with the scenario, on a real disk.
fn temp_dir() -> io::Result<tempfile::TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
}
