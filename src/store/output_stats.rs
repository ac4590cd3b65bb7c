//! How long the answers of each lane have been: a sum per lane and operation. It is written
//! together with the end of the batch that adds to it, so that no batch counts twice.

use sha2::{Digest, Sha256};

use super::Store;
use super::format;
use super::op::Tx;
use super::record;
use super::record::output_stats::ObservedRecord;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::{BatchInput, BatchSpec, Progress};
use crate::domain::endpoint::Endpoint;
use crate::domain::quote::output_stats::OutputStats;
use crate::domain::vocabulary::Operation;
use crate::store::error::StoreError;

fn key(provider: &str, upstream: &str, endpoint: Endpoint) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in [provider, upstream, endpoint.path()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    format::observed(&digest.finalize().into())
}

impl Store {
    /// What was observed of a lane so far. The latest part may not be durable yet. Blocks.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub fn observed(&self, provider: &str, upstream: &str, endpoint: Endpoint) -> Result<OutputStats, StoreError> {
        let found = self.inner.tree.get(key(provider, upstream, endpoint))?;
        Ok(found.map(|bytes| record::decode::<ObservedRecord>(&bytes)).transpose()?.map(OutputStats::from).unwrap_or_default())
    }
}

/// Adds the answers of a batch that has ended, if all of them are of one lane and one operation.
pub(super) fn add(tx: &mut Tx<'_>, spec: &BatchSpec, plan: &Plan, progress: &Progress) -> Result<(), StoreError> {
    let [model] = plan.models.as_slice() else { return Ok(()) };
    if progress.succeeded == 0 {
        return Ok(());
    }
    let endpoint = match (&spec.input, model.quoted.map(|share| share.operation)) {
        (BatchInput::Unquoted { endpoint, .. }, _) => match model.endpoint.or(endpoint.one()) {
            Some(endpoint) => endpoint,
            None => return Ok(()),
        },
        (BatchInput::Quoted(_), Some(Operation::Embeddings)) => Endpoint::Embeddings,
        (BatchInput::Quoted(_), _) => Endpoint::ChatCompletions,
    };
    let key = key(&model.lane.provider, &model.lane.upstream, endpoint);
    // An unreadable record is started again from zero: it is only an estimate.
    let before = tx.get::<ObservedRecord>(&key).ok().flatten().map(OutputStats::from).unwrap_or_default();
    tx.put(key, &ObservedRecord::from(before.and(progress.succeeded.into(), progress.usage.output_tokens)))
}
