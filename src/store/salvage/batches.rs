//! Makes each batch fit what is left of it, so that everything clients are shown about it is true.
//!
//! * A batch without its spec is lost; its results are put aside as lines.
//! * A batch without its state ends as its files indicate, or waits, paused, for the operator or
//!   client to decide.
//! * A batch that has ended keeps its results; lost results are replaced by errors that say so.
//! * A batch that has not ended goes on; rows whose results are lost run again. Without its input
//!   or its plan it cannot go on, and fails with a problem that says so.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dir::{FILES, LOST_FOUND, content_name};
use super::super::examine::{Examined, examine};
use super::super::format::{self, Blob};
use super::super::key::Key;
use super::super::record::batch::{ControlRecord, ProblemsRecord, StateRecord};
use super::super::record::file::FileRecord;
use super::super::record::ledger::{AccountRecord, ReservationRecord};
use super::super::record::plan::PlanRecord;
use super::super::record::{self};
use super::content::SalvagedContent;
use super::copy::Copied;
use super::report::Thing;
use super::rows::{Known, SalvagedRows, offsets};
use super::salvaged::{SalvagedBatch, SalvagedFiles};
use super::{Salvage, content};
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::Control;
use crate::domain::batch::problem::{Problem, ProblemCode};
use crate::domain::batch::{BatchInput, BatchSpec, BatchState, Ending, ResultFiles};
use crate::domain::file::{File, FileSource, ResultPart};
use crate::domain::id::{BatchId, OrgId};
use crate::domain::org::ledger::Account;
use crate::store::error::StoreError;

impl Salvage<'_> {
    /// Makes every batch fit what is left of it, and writes the records of files.
    pub(super) fn make_batches_fit(&mut self, copied: &Copied) -> Result<(), StoreError> {
        let mut files =
            SalvagedFiles { known: copied.files.clone(), content: copied.content.clone(), needed: BTreeSet::new(), views: BTreeMap::new() };
        for file in copied.files.values() {
            if let FileSource::View { batch, .. } = file.source {
                files.views.entry(batch).or_default().push(file.id);
            }
        }
        let mut lost_rows: BTreeMap<BatchId, BTreeSet<u32>> = BTreeMap::new();
        for id in &copied.batches {
            let views = files.views.get(id).into_iter().flatten().filter_map(|view| copied.files.get(view).cloned()).collect::<Vec<_>>();
            match self.read_batch(copied, *id, &views)? {
                Some(batch) => {
                    let lost = self.make_fit(batch, copied, &mut files)?;
                    if !lost.is_empty() {
                        lost_rows.insert(*id, lost.into_iter().collect());
                    }
                }
                None => self.drop_batch(*id, copied, &mut files)?,
            }
        }
        for (batch, views) in std::mem::take(&mut files.views) {
            if copied.batches.contains(&batch) {
                continue;
            }
            for view in views {
                files.known.remove(&view);
                self.report.lost(Thing::File(view));
            }
        }
        self.report.done.files = files.known.len() as u64;
        for file in files.known.values() {
            content::put_file(file, &mut self.out)?;
            self.out.write_much()?;
        }
        for id in &files.needed {
            let record = copied.deleted.get(id).and_then(Option::as_ref);
            let record = record.map(|file| record::encode(&FileRecord::from(file))).transpose()?;
            self.out.writes.insert(format::deleted(*id), record.unwrap_or_default());
        }
        for id in files.content.difference(&files.needed) {
            content::put_aside(&self.to, self.to.files(), FILES, content_name(id.as_u128()).as_ref())?;
        }
        self.report_content(copied, &files);
        self.forget_answers(&lost_rows)?;
        self.out.write()
    }

    fn read_batch(&mut self, copied: &Copied, id: BatchId, views: &[File]) -> Result<Option<SalvagedBatch>, StoreError> {
        let Some(Examined::Spec(spec)) = self.blob(Key::Spec(id), id, Blob::Spec)? else { return Ok(None) };
        let plan = match self.blob(Key::Plan(id), id, Blob::Plan)? {
            Some(Examined::Plan(rows)) => Some(rows),
            _ => None,
        };
        let state = self.out.tree.get(format::batch(id))?.and_then(|bytes| examine(&Key::State(id), &bytes).ok());
        if state.is_none() && copied.unseen.contains(&id) {
            return Ok(None);
        }
        let (state, ended) = match state {
            // Files over a batch's results are made when the batch ends.
            Some(Examined::State(state, ended)) if state.is_terminal() || views.is_empty() => (state, ended),
            _ => (self.infer_state(&spec, copied.with_rows.contains(&id) || plan.is_some(), views)?, None),
        };
        Ok(Some(SalvagedBatch { id, spec: *spec, state, ended, plan }))
    }

    /// Infers the state of a batch whose stored state is lost, or is older than its other records.
    /// A batch that may have been cancelled never runs without an explicit decision.
    fn infer_state(&mut self, spec: &BatchSpec, has_rows: bool, views: &[File]) -> Result<BatchState, StoreError> {
        let id = spec.id;
        let view = |wanted: ResultPart| views.iter().find(|file| matches!(file.source, FileSource::View { part, .. } if part == wanted));
        let (state, how) = if let Some(at) = views.iter().map(|file| file.created_at).max() {
            let of = |part| view(part).map(|file| file.id);
            let files = ResultFiles { output: of(ResultPart::Output), errors: of(ResultPart::Errors) };
            let in_progress_at = Some(spec.created_at);
            let state = if at >= spec.deadline() {
                BatchState::Expired { in_progress_at, finalizing_at: at, at, files }
            } else {
                BatchState::Completed { in_progress_at, finalizing_at: at, at, files }
            };
            (state, "its state was lost; it had ended, because its files are there")
        } else if has_rows {
            let control = Control { paused: true, ..Control::default() };
            self.out.writes.insert(format::control(id), record::encode(&ControlRecord::from(control))?);
            (BatchState::InProgress { since: spec.created_at }, "its state was lost; it is paused: resume or cancel it")
        } else {
            if !matches!(self.blob(Key::Problems(id), id, Blob::Problems)?, Some(Examined::Other)) {
                self.put_problem(id, "its state was lost in damage to the disk")?;
            }
            (BatchState::Failed { at: spec.created_at }, "its state was lost; it counts as failed")
        };
        self.report.changed(Thing::Batch(id), how);
        Ok(state)
    }

    fn blob(&self, key: Key, id: BatchId, blob: Blob) -> Result<Option<Examined>, StoreError> {
        let mut bytes = Vec::new();
        for entry in self.out.tree.scan_prefix(format::blob(id, blob)) {
            bytes.extend_from_slice(&entry?.1);
        }
        Ok(examine(&key, &bytes).ok())
    }

    /// Removes what is left of a batch that is lost or was deleted.
    fn drop_batch(&mut self, id: BatchId, copied: &Copied, files: &mut SalvagedFiles) -> Result<(), StoreError> {
        let was_deleted = copied.unseen.contains(&id) && !self.out.tree.contains_key(format::batch(id))?;
        if !was_deleted {
            self.report.lost(Thing::Batch(id));
            self.keep_lines(id)?;
        } else if !self.report.done.was_whole {
            self.report.unsure(Thing::Other(format!("batch {id}")), "it was deleted, or its state is lost; it is not brought back");
        }
        SalvagedRows::remove(id, &mut self.out)?;
        for key in self.out.tree.scan_prefix(format::blobs_of(id)).keys() {
            self.out.writes.remove(key?.to_vec());
        }
        for key in [format::batch(id), format::control(id), format::notice(id), format::watched(id)] {
            self.out.writes.remove(key);
        }
        for view in files.views.remove(&id).unwrap_or_default() {
            files.known.remove(&view);
            self.report.lost(Thing::File(view));
        }
        self.out.write()
    }

    /// Puts the results of a lost batch aside as lines.
    fn keep_lines(&mut self, id: BatchId) -> Result<(), StoreError> {
        let lines = SalvagedRows::write_lines(id, &self.out, &|| self.to.root().folder(LOST_FOUND))?;
        if lines > 0 {
            self.report.note(&format!("batch {id}: results of {lines} of its rows are in `lost+found`"));
        }
        Ok(())
    }

    /// Makes one batch fit; returns the rows whose results are lost.
    fn make_fit(&mut self, mut batch: SalvagedBatch, copied: &Copied, files: &mut SalvagedFiles) -> Result<Vec<u32>, StoreError> {
        let id = batch.id;
        let input = self.input_of(&batch.spec, files);
        if batch.state.is_terminal() && self.is_purged(&batch, copied, files) {
            SalvagedRows::remove(id, &mut self.out)?;
            self.fit_plan(&batch, batch.ended.map_or(0, |ended| ended.total))?;
            match copied.unseen.contains(&id) {
                true if copied.old_states.contains(&id) => {
                    self.report.unsure(Thing::Batch(id), "its files were deleted; it may have been deleted since, too");
                }
                false if !self.report.done.was_whole => {
                    self.report.unsure(Thing::Results(id), "they went with the files over them, or are lost");
                }
                _ => {}
            }
            self.list_batch(&batch)?;
            return Ok(Vec::new());
        }
        let done = batch.ended.map(|ended| ended.succeeded + ended.failed);
        let known = Known { total: batch.plan.or(batch.ended.map(|ended| ended.total)), done };
        let mut rows = SalvagedRows::read(id, known, &mut self.out)?;
        let total = rows.total(known);
        rows.fit(total, || input.as_ref().map(offsets).unwrap_or_default());
        let lost = rows.lost(known, &copied.old_pages);
        if !lost.is_empty() {
            self.report.lost(Thing::Rows(id, lost.clone()));
        }
        if !batch.state.is_terminal() {
            self.go_on(&mut batch, &mut rows, input.is_some(), !lost.is_empty())?;
        }
        if !batch.state.is_terminal() && !files.known.contains_key(&batch.spec.input_file) {
            files.needed.insert(batch.spec.input_file);
        }
        // Lost rows of other batches run again.
        let is_over = !matches!(batch.state, BatchState::Validating | BatchState::InProgress { .. });
        if is_over && !lost.is_empty() {
            let at = batch.state.ended_at().unwrap_or(self.now);
            rows.fill(&lost, &batch.spec, input.as_ref(), at, &mut self.out)?;
        }
        self.fit_plan(&batch, total)?;
        rows.write(&mut self.out)?;
        let progress = rows.progress();
        self.report.done.rows += u64::from(progress.succeeded + progress.failed) - if is_over { lost.len() as u64 } else { 0 };
        if batch.state.is_terminal() {
            self.fit_views(&mut batch, &progress, files);
        }
        if batch.state.is_terminal() && batch.ended != Some(progress) || batch.ended.is_none() {
            let state = StateRecord::pack(&batch.state, &progress);
            self.out.writes.insert(format::batch(id), record::encode(&state)?);
        }
        self.list_batch(&batch)?;
        Ok(lost)
    }

    /// Replaces a lost plan, so that readers of the rows find the right number of them.
    fn fit_plan(&mut self, batch: &SalvagedBatch, rows: u32) -> Result<(), StoreError> {
        if batch.plan.is_none() && rows > 0 {
            let plan = record::encode(&PlanRecord::from(&Plan { rows, ..Plan::default() }))?;
            self.out.writes.put(&format::blob(batch.id, Blob::Plan), &plan);
            self.report.changed(Thing::Batch(batch.id), "its plan was lost: on which lanes its rows ran, and at what prices");
        }
        Ok(())
    }

    /// Returns the content of the batch's input file, if it is there.
    fn input_of(&self, spec: &BatchSpec, files: &SalvagedFiles) -> Option<SalvagedContent> {
        let is_there = files.known.contains_key(&spec.input_file) || files.content.contains(&spec.input_file);
        is_there.then(|| SalvagedContent::of(&self.to, spec.input_file))
    }

    /// Whether the files over the batch's results were deleted, and the results with them.
    fn is_purged(&self, batch: &SalvagedBatch, copied: &Copied, files: &SalvagedFiles) -> bool {
        let ResultFiles { output, errors } = batch.state.files();
        let mut named = [output, errors].into_iter().flatten().peekable();
        let shows_nothing = named.peek().is_some() && !named.any(|file| files.known.contains_key(&file));
        shows_nothing && (copied.unseen.contains(&batch.id) || !copied.with_rows.contains(&batch.id))
    }

    /// Lets an unfinished batch go on, or fails it.
    fn go_on(&mut self, batch: &mut SalvagedBatch, rows: &mut SalvagedRows, has_input: bool, has_lost: bool) -> Result<(), StoreError> {
        if !has_input {
            return self.fail(batch, rows, "its input file was lost in damage to the disk");
        }
        match (batch.plan, rows.is_empty()) {
            // The batch has a plan, so it was validated.
            (Some(_), _) => {
                let in_progress = |since| BatchState::InProgress { since };
                let state = match batch.state {
                    BatchState::Validating => in_progress(batch.spec.created_at),
                    BatchState::Finalizing { in_progress_at, since, ending: Ending::Completed } if has_lost => {
                        in_progress(in_progress_at.unwrap_or(since))
                    }
                    state => state,
                };
                if state.as_str() != batch.state.as_str() {
                    self.report.changed(Thing::Batch(batch.id), "it is in progress");
                }
                batch.state = state;
                Ok(())
            }
            (None, true) => {
                if matches!(batch.state, BatchState::InProgress { .. }) {
                    self.report.changed(Thing::Batch(batch.id), "its plan is lost; it is validated again");
                    batch.state = BatchState::Validating;
                }
                Ok(())
            }
            (None, false) => self.fail(batch, rows, "its plan was lost in damage to the disk"),
        }
    }

    fn fail(&mut self, batch: &mut SalvagedBatch, rows: &SalvagedRows, why: &str) -> Result<(), StoreError> {
        let id = batch.id;
        self.report.changed(Thing::Batch(id), format!("it has failed: {why}"));
        batch.state = BatchState::Failed { at: self.now };
        self.put_problem(id, why)?;
        self.out.writes.insert(format::notice(id), b"".as_slice());
        self.settle(id, rows.progress().cost)
    }

    fn put_problem(&mut self, id: BatchId, why: &str) -> Result<(), StoreError> {
        let message = format!("The batch cannot go on: {why}.");
        let problem = Problem { code: ProblemCode::LostInDamage, message, line: None, param: None };
        let problems = record::encode(&ProblemsRecord::from([problem].as_slice()))?;
        for key in self.out.tree.scan_prefix(format::blob(id, Blob::Problems)).keys() {
            self.out.writes.remove(key?.to_vec());
        }
        self.out.writes.put(&format::blob(id, Blob::Problems), &problems);
        Ok(())
    }

    /// Settles the reservation of a batch that ends here.
    fn settle(&mut self, id: BatchId, cost: crate::domain::money::Usd) -> Result<(), StoreError> {
        let read = |key: Key, at: Vec<u8>| Ok::<_, StoreError>(self.out.tree.get(at)?.and_then(|bytes| examine(&key, &bytes).ok()));
        let Some(Examined::Reservation(reservation)) = read(Key::Reservation(id), format::reservation(id))? else { return Ok(()) };
        if reservation.settlement.is_some() {
            return Ok(());
        }
        let account = match read(Key::Account(reservation.org), format::account(reservation.org))? {
            Some(Examined::Account(account)) => account,
            _ => Account::default(),
        };
        let (account, settlement) = account.settle(&reservation, cost);
        let settled = crate::domain::org::ledger::Reservation { settlement: Some(settlement), ..reservation };
        self.out.writes.insert(format::account(reservation.org), record::encode(&AccountRecord::from(&account))?);
        self.out.writes.insert(format::reservation(id), record::encode(&ReservationRecord::from(&settled))?);
        self.out.write()
    }

    /// Writes the batch's entries in the lists.
    fn list_batch(&mut self, batch: &SalvagedBatch) -> Result<(), StoreError> {
        let (id, spec) = (batch.id, &batch.spec);
        let here = || b"".as_slice();
        self.report.done.batches += 1;
        if !batch.state.is_terminal() {
            self.out.writes.insert(format::active(id), &spec.input_file.as_u128().to_be_bytes());
            self.out.writes.remove(format::notice(id));
        }
        if spec.org != OrgId::OPERATOR
            && let Some(place) = format::owned(format::batches_of(spec.org), id.as_u128())
        {
            self.out.writes.insert(place, here());
        }
        if let BatchInput::Quoted(order) = &spec.input {
            self.out.writes.insert(format::used_quote(order.quote), &id.as_u128().to_be_bytes());
        }
        self.out.write_much()
    }

    /// Removes pointers to answers that were lost, so that no row shares them.
    fn forget_answers(&mut self, lost: &BTreeMap<BatchId, BTreeSet<u32>>) -> Result<(), StoreError> {
        if lost.is_empty() {
            return Ok(());
        }
        let tree = self.out.tree.clone();
        for entry in tree.scan_prefix(format::ANSWERS) {
            let (key, value) = entry?;
            if let Ok(Examined::Answer(row)) = examine(&Key::Answer([0; 16]), &value)
                && lost.get(&row.batch).is_some_and(|rows| rows.contains(&row.row.0))
            {
                self.out.writes.remove(key.to_vec());
                self.out.write_much()?;
            }
        }
        Ok(())
    }
}
