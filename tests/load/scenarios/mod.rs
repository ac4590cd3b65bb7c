//! The scenarios, one file each; `bench.rs` has the table of them.

pub mod catalog;
pub mod dead;
pub mod download;
pub mod flat;
pub mod followers;
pub mod lanes;
pub mod limit;
pub mod neighbours;
pub mod quote;
pub mod restart;
pub mod rows;
pub mod upload;
pub mod waiting;

use std::io;

/// A directory on a real disk that is removed with the scenario.
fn temp_dir() -> io::Result<tempfile::TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
}
