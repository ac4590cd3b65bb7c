//! What a job would do: its input is checked as before a run, and priced. Nothing is called or
//! stored.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{BUFFER, Job, JobError};
use crate::catalog::Snapshot;
use crate::daemon::config::Settings;
use crate::domain::batch::problem::Problem;
use crate::executor::{CheckedInput, ValidationInput, check_input};
use crate::quote::file_estimate::{self, CostEstimate, EstimateLimits};
use crate::store::{Packing, UnpackError, UnpackLimits, unpack_file};

/// What is known about a job before it runs.
#[derive(Debug)]
pub enum DryRun {
    /// The faults for which the input would be refused.
    Refused(Vec<Problem>),
    /// What the rows would cost.
    Priced(CostEstimate),
}

impl Job {
    /// Whether the input has to be unpacked before it can be read. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_packed(&self) -> Result<bool, JobError> {
        let head = File::open(&self.path).and_then(|mut file| {
            let mut head = Vec::new();
            file.by_ref().take(4).read_to_end(&mut head)?;
            Ok(head)
        });
        let head = head.map_err(|error| JobError::Input { name: self.name.clone(), reason: error.to_string() })?;
        Ok(Packing::of(&head).is_some())
    }

    /// Checks and prices the input. Packed input is unpacked into `aside`, an empty file. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or unpacked, or names more models than a batch may have.
    pub fn dry_run(&self, settings: &Settings, catalog: &Snapshot, aside: Option<(&Path, &File)>) -> Result<DryRun, JobError> {
        let mut path = self.path.as_path();
        if let Some(aside) = aside {
            let limits = UnpackLimits { max_bytes: u64::MAX, min_free_bytes: settings.min_free_bytes };
            let unusable = |error: UnpackError| JobError::Input { name: self.name.clone(), reason: error.to_string() };
            if unpack_file(&self.path, aside, limits).map_err(unusable)?.is_some() {
                path = aside.0;
            }
        }
        let unreadable = |error: std::io::Error| JobError::Input { name: self.name.clone(), reason: error.to_string() };
        let file = File::open(path).map_err(unreadable)?;
        let order = self.order();
        let asked = ValidationInput { order: &order, quote: None, files: &|_| None };
        let checked = check_input(file, asked, catalog, settings.input_limits(), &CancellationToken::new()).map_err(unreadable)?;
        if let CheckedInput::Bad(problems) = checked {
            return Ok(DryRun::Refused(problems));
        }
        let again = BufReader::with_capacity(BUFFER, File::open(path).map_err(unreadable)?);
        let limits = EstimateLimits { max_line_bytes: settings.input_limits().max_row_bytes };
        let estimate = file_estimate::estimate(again, None, catalog, limits);
        estimate.map(DryRun::Priced).map_err(|error| JobError::Input { name: self.name.clone(), reason: error.to_string() })
    }
}
