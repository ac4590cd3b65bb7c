//! Batches: creating a batch once, reserving its cost, and running its unfinished rows again.
//!
//! Invariant: every batch is made in one place, [`create`], for every caller. Its input, its quote,
//! its reservation and its idempotency key are one commit with the batch.

pub mod create;
mod expected_cost;
pub mod prepare;
pub mod quoted;
mod retry;
pub mod rows;

use crate::domain::batch::Batch;
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::waiting::Waiting;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::org::ledger::Credits;
use crate::service::{Service, ServiceError};
use crate::store::BatchDeletion;

impl Service {
    /// The details that a batch is shown with besides its own fields.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn details(&self, batch: &Batch) -> Result<BatchDetails, ServiceError> {
        let id = batch.spec.id;
        let receipt = if batch.state.is_terminal() { self.store.receipt(id).await? } else { None };
        let event_log = if batch.spec.has_receiver() { self.store.event_log(id).await?.unwrap_or_default() } else { Default::default() };
        Ok(BatchDetails { reservation: self.store.reservation(id).await?, receipt, event_log, waiting: self.waiting(batch) })
    }

    /// Why rows of a batch wait at the moment. What a provider has said of the operator's key, account
    /// and servers is told to the operator alone.
    pub fn waiting(&self, batch: &Batch) -> Vec<Waiting> {
        let board = self.executor.board();
        let is_operators = batch.spec.org == OrgId::OPERATOR;
        let told = |waiting: &Waiting| Waiting { said: waiting.said.clone().filter(|_| is_operators), ..waiting.clone() };
        board.waiting(batch.spec.id).iter().map(told).collect()
    }

    /// Deletes a batch. Its remaining data is removed after the client has its answer.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn delete_batch(&self, id: BatchId) -> Result<BatchDeletion, ServiceError> {
        let store = self.store.clone();
        let deleted = self.to_the_end(async move { store.delete_batch(id).await }).await??;
        if deleted == BatchDeletion::Deleted {
            tracing::info!(batch = %id, "batch deleted");
            let store = self.store.clone();
            self.tasks.spawn(async move {
                if let Err(error) = store.remove_rest(id).await {
                    tracing::warn!(batch = %id, %error, "what is left of a deleted batch has to wait for the next sweep");
                }
            });
        }
        Ok(deleted)
    }

    /// Refuses prepaid organisations, because rows without a quote reserve nothing.
    ///
    /// # Errors
    /// [`ServiceError::PrepaidNeedsQuote`] when the organisation prepays.
    pub async fn check_unlimited(&self, org: OrgId) -> Result<(), ServiceError> {
        if self.prepays(org).await? { Err(ServiceError::PrepaidNeedsQuote) } else { Ok(()) }
    }

    /// Whether an organisation may spend no more than its credits.
    async fn prepays(&self, org: OrgId) -> Result<bool, ServiceError> {
        Ok(matches!(self.store.account(org).await?.credits, Credits::Prepaid(_)))
    }
}
