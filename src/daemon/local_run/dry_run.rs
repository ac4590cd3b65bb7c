//! What a job would do: its input is checked as before a run, and priced. Nothing is called or
//! stored.

use std::fs::File;
use std::io::BufReader;

use tokio_util::sync::CancellationToken;

use super::{BUFFER, Job, JobError};
use crate::catalog::Snapshot;
use crate::daemon::config::Settings;
use crate::domain::batch::problem::Problem;
use crate::executor::{CheckedInput, ValidationInput, check_input};
use crate::quote::file_estimate::{self, CostEstimate, EstimateLimits};

/// What is known about a job before it runs.
#[derive(Debug)]
pub enum DryRun {
    /// The faults for which the input would be refused.
    Refused(Vec<Problem>),
    /// What the rows would cost.
    Priced(CostEstimate),
}

impl Job {
    /// Checks and prices the input. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read, or names more models than a batch may have.
    pub fn dry_run(&self, settings: &Settings, catalog: &Snapshot) -> Result<DryRun, JobError> {
        let unreadable = |error: std::io::Error| JobError::Input { name: self.name.clone(), reason: error.to_string() };
        let file = File::open(&self.path).map_err(unreadable)?;
        let order = self.order();
        let asked = ValidationInput { order: &order, quote: None, files: &|_| None };
        let checked = check_input(file, asked, catalog, settings.input_limits(), &CancellationToken::new()).map_err(unreadable)?;
        if let CheckedInput::Bad(problems) = checked {
            return Ok(DryRun::Refused(problems));
        }
        let again = BufReader::with_capacity(BUFFER, File::open(&self.path).map_err(unreadable)?);
        let limits = EstimateLimits { max_line_bytes: settings.input_limits().max_row_bytes };
        let estimate = file_estimate::estimate(again, None, catalog, limits);
        estimate.map(DryRun::Priced).map_err(|error| JobError::Input { name: self.name.clone(), reason: error.to_string() })
    }
}
