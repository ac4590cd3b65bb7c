//! The end of organisations: their keys die at once, their batches are cancelled, and what they had
//! is kept for the operator or erased.
//!
//! Invariant: what is left to do follows from what is stored, so that a kill on the way only
//! delays it.

use std::collections::HashSet;
use std::time::Duration;

use crate::domain::batch::Batch;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::org::{Closure, Organisation};
use crate::domain::time::until;
use crate::executor::CancelError;
use crate::service::{Service, ServiceError};
use crate::store::{BatchQuery, FileQuery, SortOrder};

/// Batches and files that are looked up at a time.
const STEP: usize = 100;
/// Requests that were under way when an organisation was closed have ended by then.
const SETTLED: Duration = Duration::from_secs(600);

impl Service {
    /// Gives an organisation another name.
    ///
    /// # Errors
    /// When there is no such organisation, or the store has failed.
    pub async fn rename_org(&self, id: OrgId, name: String) -> Result<Organisation, ServiceError> {
        let org = self.store.rename_org(id, name).await?.ok_or(ServiceError::OrgNotFound(id))?;
        tracing::info!(org = %id, "organisation renamed");
        Ok(org)
    }

    /// Closes an organisation for good. Its keys open nothing any more when this returns; its batches
    /// are cancelled, and its data is erased if `erases`, in what follows.
    ///
    /// # Errors
    /// When there is no such organisation, it is the operator's own, or the store has failed.
    pub async fn close_org(&self, id: OrgId, erases: bool) -> Result<Organisation, ServiceError> {
        if id == OrgId::OPERATOR {
            return Err(ServiceError::OrgIsOperators);
        }
        let closure = Closure { at: self.clock.now(), erases };
        let org = self.store.close_org(id, closure).await?.ok_or(ServiceError::OrgNotFound(id))?;
        self.key_changes.send_modify(|count| *count += 1);
        tracing::info!(org = %id, erases, "organisation closed");
        Ok(org)
    }

    /// Does what is left to do for organisations that are closed. Returns those for which nothing is
    /// left and nothing can come any more; those of `done` are not looked at.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn wind_up(&self, done: &HashSet<OrgId>) -> Result<Vec<OrgId>, ServiceError> {
        let mut finished = Vec::new();
        for org in self.store.orgs().await? {
            let Some(closure) = org.closure.filter(|_| !done.contains(&org.id)) else { continue };
            let mut left = self.wind_up_batches(org.id, closure).await?;
            if closure.erases {
                left |= self.erase_files(org.id).await?;
            }
            if !left && until(closure.at, self.clock.now()) > SETTLED {
                finished.push(org.id);
            }
        }
        Ok(finished)
    }

    /// Cancels the batches of an organisation that have not ended, and deletes those that have, if it
    /// is to be erased. Returns whether any is left to look at again.
    async fn wind_up_batches(&self, org: OrgId, closure: Closure) -> Result<bool, ServiceError> {
        let (mut after, mut left) = (None::<BatchId>, false);
        loop {
            let listing = self.store.batches(BatchQuery { after, limit: STEP, org: Some(org) }).await?;
            for batch in &listing.items {
                left |= self.wind_up_batch(batch, closure).await?;
            }
            after = listing.items.last().map(|batch| batch.spec.id);
            if !listing.has_more {
                return Ok(left);
            }
        }
    }

    async fn wind_up_batch(&self, batch: &Batch, closure: Closure) -> Result<bool, ServiceError> {
        let id = batch.spec.id;
        if batch.state.is_terminal() {
            if closure.erases {
                self.delete_batch(id).await?;
            }
            return Ok(false);
        }
        match self.executor.cancel(id).await {
            // A batch that is ending needs no help.
            Ok(_) | Err(CancelError::NotFound | CancelError::TooLate(_)) => Ok(true),
            Err(CancelError::Gone(error)) => Err(error.into()),
            Err(CancelError::Store(error)) => Err(error.into()),
        }
    }

    /// Deletes the files of an organisation. Returns whether there were any.
    async fn erase_files(&self, org: OrgId) -> Result<bool, ServiceError> {
        let mut any = false;
        loop {
            let now = self.clock.now();
            let query = FileQuery { purpose: None, org, after: None, limit: STEP, order: SortOrder::Ascending, now };
            let listing = self.store.files(query).await?;
            for file in &listing.items {
                self.store.delete_file(file.id).await?;
            }
            any |= !listing.items.is_empty();
            if !listing.has_more {
                return Ok(any);
            }
        }
    }
}
