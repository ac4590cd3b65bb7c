//! Observations of a lane's answers on disk, version 1. The key is a digest of the lane.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::domain::quote::output_stats::OutputStats;

/// Version 1 of the observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRecord {
    answers: u64,
    output_tokens: u64,
}

impl Record for ObservedRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "observation of answers";
}

impl From<OutputStats> for ObservedRecord {
    fn from(OutputStats { answers, output_tokens }: OutputStats) -> Self {
        Self { answers, output_tokens }
    }
}

impl From<ObservedRecord> for OutputStats {
    fn from(ObservedRecord { answers, output_tokens }: ObservedRecord) -> Self {
        Self { answers, output_tokens }
    }
}
