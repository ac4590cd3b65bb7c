//! The results of rows that validation found faulty, in a batch in which such rows fail alone.
//!
//! A page says which rows these are. What is wrong with one is found out again from its line and
//! from the plan, so that no batch keeps a message for each of a million rows.

use super::reader::{Source, line_name};
use super::row::{RowRef, unanswered};
use super::window::Window;
use crate::domain::batch::plan::MAX_MODELS;
use crate::domain::batch::problem::ProblemCode;
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::row::lines::Line;
use crate::domain::row::openai::{RowFault, RowRequest, custom_id_of};
use crate::domain::row::{Outcome, RowError};
use crate::domain::vocabulary::Operation;
use crate::executor::prepare::plan::too_many;
use crate::executor::prepare::validate::too_long;
use crate::store::PackedRow;
use crate::store::error::StoreError;

impl Source {
    /// The id and the operation of a row, as far as they can be read.
    pub(super) fn told(&self, line: Line<'_>) -> Option<(String, Option<Operation>)> {
        let Line::Text(text) = line else { return None };
        match self.spec.input.parse(text) {
            Ok(row) => Some((row.custom_id.into_owned(), row.operation)),
            Err(_) => custom_id_of(text).map(|id| (id, None)),
        }
    }

    /// Writes the result of a row that validation found faulty.
    pub(super) fn refuse(&self, at: RowRef, line: Line<'_>, window: &mut Window) -> Result<(), StoreError> {
        let key = RowKey { batch: self.spec.id, row: at.row };
        let (id, operation) = self.told(line).unwrap_or_else(|| (line_name(at.row), None));
        let outcome = Outcome::Failed { error: self.reason(line), last: None };
        self.store.record_unrun_blocking(PackedRow::pack(&unanswered(key, id, operation, outcome, self.clock.now()))?)?;
        window.closed += 1;
        Ok(())
    }

    /// What is wrong with a row that validation found faulty.
    fn reason(&self, line: Line<'_>) -> RowError {
        let faults = match line {
            Line::TooLong => vec![too_long(self.max_row_bytes)],
            Line::Text(text) => match self.spec.input.parse(text) {
                Err(faults) => faults,
                Ok(row) => vec![self.fault(&row)],
            },
        };
        let code = faults.first().map_or("invalid_row", |fault| fault.code.as_str()).to_owned();
        let messages: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
        RowError { code, message: messages.join("; ") }
    }

    /// What is wrong with a row that is well by itself.
    fn fault(&self, row: &RowRequest<'_>) -> RowFault {
        if let Some(model) = self.refused.iter().find(|model| model.endpoint == row.endpoint && model.requested == row.model) {
            return RowFault::new(model.code, Some("body.model"), model.message.clone());
        }
        if self.places.of(row, RowIndex(0)).is_none() {
            return too_many(MAX_MODELS);
        }
        let message = "`custom_id` is the same as on an earlier line; it must be unique in the file";
        RowFault::new(ProblemCode::DuplicateCustomId, Some("custom_id"), message)
    }
}
