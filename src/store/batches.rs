//! Batches: transitions, reading, listing. Their creation is in [`super::creation`].
//!
//! `domain` decides which transition is legal; only the executor may ask for one. The record, index
//! and bookkeeping of a transition are one atomic write.

use std::sync::Arc;

use super::format::{self, Blob};
use super::ledger::Charge;
use super::live::LiveBatch;
use super::op::Tx;
use super::record::batch::{ControlRecord, ProblemsRecord, StateRecord};
use super::record::ledger::ReceiptRecord;
use super::record::page::{Page, PageRecord};
use super::record::plan::PlanRecord;
use super::record::spec::SpecRecord;
use super::record::{self, Record};
use super::tree::Tree;
use super::{Listing, Store};
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::{Control, ControlChange};
use crate::domain::batch::problem::Problem;
use crate::domain::batch::{Batch, BatchState, Progress};
use crate::domain::file::File;
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::Shortfall;
use crate::domain::quote::receipt::Receipt;
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;
use crate::store::files::is_read;

/// What is written when a batch that ran ends, besides its state.
#[derive(Debug, Default)]
pub struct End {
    /// The files over the batch's results.
    pub files: Vec<File>,
    /// Where the batch's items ran.
    pub receipt: Option<Receipt>,
    /// Whether the batch's usage tells how long answers are; it does not where rows share answers.
    pub observe: bool,
}

/// Which batches to list, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchQuery {
    /// Only batches older than this one.
    pub after: Option<BatchId>,
    /// At most this many batches.
    pub limit: usize,
    /// Only batches of this organisation.
    pub org: Option<OrgId>,
}

impl Store {
    /// Records that the input is good: `state` is `InProgress`. Raises the batch's reservation to
    /// `reserve`, or records nothing if the credits do not cover it.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn batch_validated(
        &self,
        id: BatchId,
        state: BatchState,
        plan: Plan,
        pages: Vec<Page>,
        reserve: Option<Usd>,
    ) -> Result<Result<(), Shortfall>, StoreError> {
        self.commit(move |tx| {
            if let Some(amount) = reserve
                && let Err(shortfall) = super::ledger::raise(tx, id, amount)?
            {
                return Ok(Err(shortfall));
            }
            super::quotas::admit_rows(tx, id, plan.rows)?;
            super::quotas::note_rows(tx.tree(), id, &pages);
            tx.put_blob(id, Blob::Plan, &PlanRecord::from(&plan))?;
            for (number, page) in (0_u32..).zip(&pages) {
                tx.put(format::page(id, number), &PageRecord::from(page))?;
            }
            tx.put(format::batch(id), &StateRecord::pack(&state, &Progress::default()))?;
            let control = control_in(tx, id)?;
            tx.after(move |lives| lives.insert(id, LiveBatch::new(pages, control)));
            Ok(Ok(()))
        })
        .await
    }

    /// Records that the input has problems: `state` is `Failed`.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn batch_refused(&self, id: BatchId, state: BatchState, problems: Vec<Problem>) -> Result<(), StoreError> {
        let unused = self
            .commit(move |tx| {
                tx.put_blob(id, Blob::Problems, &ProblemsRecord::from(problems.as_slice()))?;
                tx.put(format::batch(id), &StateRecord::pack(&state, &Progress::default()))?;
                close_out(tx, id, Charge { cost: Usd::ZERO, tokens: 0, at: ended_at(&state) })
            })
            .await?;
        self.remove_content(unused).await
    }

    /// Records a state that is neither the first nor the last. Does nothing to a batch that has
    /// ended or was deleted: its end or deletion may have overtaken the write of an earlier state.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn batch_moved(&self, id: BatchId, state: BatchState) -> Result<(), StoreError> {
        self.commit(move |tx| {
            let current = tx.get::<StateRecord>(&format::batch(id))?.map(StateRecord::unpack).transpose()?;
            match current {
                Some((current, _)) if current.is_terminal() => Ok(()),
                None => Ok(()),
                Some(_) => tx.put(format::batch(id), &StateRecord::pack(&state, &Progress::default())),
            }
        })
        .await
    }

    /// Changes how a batch is to run. Returns `None` and changes nothing if the batch does not
    /// exist or has ended.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn control_batch(&self, id: BatchId, change: ControlChange) -> Result<Option<Control>, StoreError> {
        self.commit(move |tx| {
            let current = tx.get::<StateRecord>(&format::batch(id))?.map(StateRecord::unpack).transpose()?;
            if current.is_none_or(|(state, _)| state.is_terminal()) {
                return Ok(None);
            }
            let control = change.on(control_in(tx, id)?);
            put_control(tx, id, control)?;
            tx.after(move |lives| {
                if let Some(live) = lives.get(id) {
                    live.set_control(control);
                }
            });
            Ok(Some(control))
        })
        .await
    }

    /// Records the end of a batch that ran, and settles its reservation.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn batch_settled(&self, id: BatchId, state: BatchState, progress: Progress, end: End) -> Result<(), StoreError> {
        let End { files, receipt, observe } = end;
        let batch = if observe { self.read_batch(id)? } else { None };
        let unused = self
            .commit(move |tx| {
                for file in &files {
                    super::files::put_file(tx, file)?;
                }
                if let Some(Batch { spec, plan, .. }) = &batch {
                    super::output_stats::add(tx, spec, plan, &progress)?;
                }
                if let Some(receipt) = &receipt {
                    tx.put_blob(id, Blob::Receipt, &ReceiptRecord::from(receipt))?;
                }
                tx.put(format::batch(id), &StateRecord::pack(&state, &progress))?;
                tx.after(move |lives| lives.remove(id));
                close_out(tx, id, Charge { cost: progress.cost, tokens: progress.usage.total_tokens(), at: ended_at(&state) })
            })
            .await?;
        self.remove_content(unused).await
    }

    /// Reads a batch with all that is known of it.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let found = self.read_batch(id)?;
        self.await_durable().await?;
        Ok(found)
    }

    /// State and progress of a batch, without the parts that never change: for callers that poll
    /// often.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn status(&self, id: BatchId) -> Result<Option<(BatchState, Progress)>, StoreError> {
        let found = self.read_progress(id)?;
        self.await_durable().await?;
        Ok(found)
    }

    /// Batches, newest first.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn batches(&self, query: BatchQuery) -> Result<Listing<Batch>, StoreError> {
        let store = self.clone();
        let listing = super::blocking(move || store.read_batches(query)).await?;
        self.await_durable().await?;
        Ok(listing)
    }

    /// The rows of an unfinished batch; `None` before the batch is validated and after it has
    /// ended.
    pub fn live(&self, id: BatchId) -> Option<Arc<LiveBatch>> {
        self.inner.lives.get(id)
    }

    fn read_batches(&self, query: BatchQuery) -> Result<Listing<Batch>, StoreError> {
        let list = query.org.map_or_else(|| format::BATCHES.to_vec(), format::batches_of);
        let mut listing = Listing { items: Vec::new(), has_more: false };
        for id in self.ids_backwards(&list, query.after.map(BatchId::as_u128)) {
            let Some(batch) = self.read_batch(BatchId::from_u128(id?))?.filter(|batch| query.org.is_none_or(|org| batch.spec.org == org))
            else {
                continue;
            };
            if listing.items.len() == query.limit {
                listing.has_more = true;
                break;
            }
            listing.items.push(batch);
        }
        Ok(listing)
    }

    pub(super) fn read_batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let Some((state, progress)) = self.read_progress(id)? else { return Ok(None) };
        let Some(spec) = self.read_blob::<SpecRecord>(id, Blob::Spec)? else { return Ok(None) };
        let plan = self.read_blob::<PlanRecord>(id, Blob::Plan)?.map(Plan::try_from).transpose()?.unwrap_or_default();
        let control = self.read_control(id)?;
        let problems = self.read_blob::<ProblemsRecord>(id, Blob::Problems)?.map(ProblemsRecord::unpack).transpose()?;
        Ok(Some(Batch { spec: spec.try_into()?, state, control, progress, plan, problems: problems.unwrap_or_default() }))
    }

    pub(super) fn read_control(&self, id: BatchId) -> Result<Control, StoreError> {
        unpack_control(self.inner.tree.get(format::control(id))?)
    }

    pub(super) fn read_progress(&self, id: BatchId) -> Result<Option<(BatchState, Progress)>, StoreError> {
        let Some((state, ended)) = self.read_state(id)? else { return Ok(None) };
        if let Some(progress) = ended.or_else(|| self.live(id).map(|live| live.progress())) {
            return Ok(Some((state, progress)));
        }
        // The batch has no rows yet, or it has ended since the first look, or its validation is
        // being written: the pages are in the tree, but the flush that makes the batch live is not
        // over.
        let Some((state, ended)) = self.read_state(id)? else { return Ok(None) };
        let mut progress = Progress::default();
        for page in self.read_pages(id)? {
            page.add_to(&mut progress);
        }
        Ok(Some((state, ended.unwrap_or(progress))))
    }

    pub(super) fn read_state(&self, id: BatchId) -> Result<Option<(BatchState, Option<Progress>)>, StoreError> {
        let Some(bytes) = self.inner.tree.get(format::batch(id))? else { return Ok(None) };
        Ok(Some(record::decode::<StateRecord>(&bytes)?.unpack()?))
    }

    pub(super) fn read_blob<T: Record>(&self, id: BatchId, blob: Blob) -> Result<Option<T>, StoreError> {
        blob_in(&self.inner.tree, id, blob)
    }

    pub(super) fn read_pages(&self, id: BatchId) -> Result<Vec<Page>, StoreError> {
        let entries = self.inner.tree.scan_prefix(format::pages_of(id));
        entries.map(|entry| Ok(Page::try_from(record::decode::<PageRecord>(&entry?.1)?)?)).collect()
    }
}

/// Reads a record that may exceed one value.
pub(super) fn blob_in<T: Record>(tree: &Tree, id: BatchId, blob: Blob) -> Result<Option<T>, StoreError> {
    let mut bytes = Vec::new();
    for entry in tree.scan_prefix(format::blob(id, blob)) {
        bytes.extend_from_slice(&entry?.1);
    }
    if bytes.is_empty() { Ok(None) } else { Ok(Some(record::decode(&bytes)?)) }
}

fn control_in(tx: &Tx<'_>, id: BatchId) -> Result<Control, StoreError> {
    unpack_control(tx.tree().get(format::control(id))?)
}

fn unpack_control(bytes: Option<sled::IVec>) -> Result<Control, StoreError> {
    let record = bytes.map(|bytes| record::decode::<ControlRecord>(&bytes)).transpose()?;
    Ok(record.map(Control::try_from).transpose()?.unwrap_or_default())
}

pub(super) fn put_control(tx: &mut Tx<'_>, id: BatchId, control: Control) -> Result<(), StoreError> {
    if control == Control::default() {
        tx.remove(format::control(id));
        return Ok(());
    }
    tx.put(format::control(id), &ControlRecord::from(control))
}

/// When a batch ended whose state is final.
fn ended_at(state: &BatchState) -> Timestamp {
    state.ended_at().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Takes a batch off the list of unfinished ones and settles its reservation. Returns its input
/// file if the file was deleted while the batch still read it and no other batch reads it: its
/// content can be removed now.
fn close_out(tx: &mut Tx<'_>, id: BatchId, charge: Charge) -> Result<Option<FileId>, StoreError> {
    let Some(input) = tx.tree().get(format::active(id))? else { return Ok(None) };
    super::ledger::close(tx, id, charge)?;
    super::deliveries::note(tx, id);
    tx.remove(format::active(id));
    let Some(file) = format::trailing_id(&input).map(FileId::from_u128) else { return Ok(None) };
    if !tx.tree().contains_key(format::deleted(file))? || is_read(tx.tree(), file, Some(id))? {
        return Ok(None);
    }
    tx.remove(format::deleted(file));
    Ok(Some(file))
}
