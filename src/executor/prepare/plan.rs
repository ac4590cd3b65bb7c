//! Builds the plan of a new batch: the models that its rows name, each resolved when it is first
//! named, and the totals of its rows.
//!
//! Not here: the cost of one row ([`super::cost`]), and the lanes that a quote has chosen
//! ([`super::quoted`]).

use std::collections::HashMap;

use super::cost::{Measured, Tally};
use super::quoted::planned;
use crate::catalog::Snapshot;
use crate::domain::batch::plan::{MAX_MODELS, MAX_QUOTED, Places, PlannedLane, PlannedModel, can_be_asked};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::id::RowIndex;
use crate::domain::quote::Quote;
use crate::domain::row::openai::{RowFault, RowRequest};
use crate::domain::vocabulary::Operation;

/// The most bytes that the names in a plan may take.
const MAX_NAMED_BYTES: usize = 1 << 20;

/// The models that the rows name, resolved once each.
#[derive(Default)]
pub struct Models {
    pub planned: Vec<PlannedModel>,
    /// Parallel to `planned`.
    pub tallies: Vec<Tally>,
    places: Places,
    /// See [`Tally::at_most`].
    at_most: bool,
    /// Bytes of the names in rows, once for each lane planned for them: they are held for as long
    /// as the batch runs.
    named_bytes: usize,
    /// By operation and by the name in the row.
    known: HashMap<Option<Operation>, HashMap<String, Result<(), RowFault>>>,
}

impl Models {
    /// Starts with no models; `at_most` as in [`Tally::at_most`].
    pub fn new(at_most: bool) -> Self {
        Self { at_most, ..Self::default() }
    }

    /// Counts a row in the part of the plan that it belongs to.
    ///
    /// # Errors
    /// When no provider serves what the row asks.
    pub fn count(
        &mut self,
        row: &RowRequest<'_>,
        index: RowIndex,
        measured: Option<Measured>,
        (quote, catalog): (Option<&Quote>, &Snapshot),
    ) -> Result<(), RowFault> {
        let known = self.known.entry(row.operation).or_default();
        match known.get(row.model.as_ref()) {
            Some(known) => known.clone()?,
            None => {
                let added = self.add(row, quote, catalog);
                self.known.entry(row.operation).or_default().insert(row.model.to_string(), added.clone());
                added?;
            }
        }
        let place = self.places.of(row, index).map(usize::from);
        let place = place.and_then(|place| self.planned.get_mut(place).zip(self.tallies.get_mut(place)));
        let count = |(planned, tally): (&mut PlannedModel, &mut Tally)| {
            planned.rows += 1;
            if let Some(measured) = &measured {
                tally.add(measured);
            }
        };
        if let Some((planned, _)) = &place
            && planned.alternatives.is_empty()
            && planned.quoted.is_some_and(|share| !can_be_asked(row, share.endpoints))
        {
            let message =
                format!("no lane of the quote takes what this asks of `{}`; have one like it among those that are quoted", row.endpoint);
            return Err(RowFault::new(ProblemCode::NotQuoted, Some("input"), message));
        }
        // The entry that was added a moment ago exists.
        place.map(count).ok_or_else(|| too_many(MAX_QUOTED))
    }

    fn add(&mut self, row: &RowRequest<'_>, quote: Option<&Quote>, catalog: &Snapshot) -> Result<(), RowFault> {
        let most = if quote.is_some() { MAX_QUOTED } else { MAX_MODELS };
        let named: usize = self.known.values().map(HashMap::len).sum();
        if named >= most {
            return Err(too_many(most));
        }
        let new = match (quote, row.operation) {
            (Some(quote), Some(operation)) => planned(quote, &row.model, operation, catalog)?,
            _ => vec![(resolved(&row.model, catalog)?, Tally::default())],
        };
        if self.planned.len() + new.len() > most {
            return Err(too_many(most));
        }
        self.named_bytes += new.iter().map(|(model, _)| model.requested.len()).sum::<usize>();
        if self.named_bytes > MAX_NAMED_BYTES {
            let message = format!("the names of models and lists of models in the file have more than {MAX_NAMED_BYTES} bytes");
            return Err(RowFault::new(ProblemCode::TooManyModels, Some("body.model"), message));
        }
        for (model, mut tally) in new {
            tally.at_most = self.at_most;
            let index = u16::try_from(self.planned.len()).map_err(|_| too_many(most))?;
            self.places.add(index, &model);
            self.planned.push(model);
            self.tallies.push(tally);
        }
        Ok(())
    }
}

fn too_many(most: usize) -> RowFault {
    let message = format!("the file names more than {most} different models, or lanes for them");
    RowFault::new(ProblemCode::TooManyModels, Some("body.model"), message)
}

/// A model of rows in OpenAI's format, on the lane that the catalog has for it.
fn resolved(model: &str, catalog: &Snapshot) -> Result<PlannedModel, RowFault> {
    let route = catalog.resolve(model);
    let route = route.map_err(|error| RowFault::new(ProblemCode::UnknownModel, Some("body.model"), error.to_string()))?;
    let lane = PlannedLane {
        model: model.to_owned(),
        provider: route.provider.to_owned(),
        upstream: route.upstream.to_owned(),
        price: route.price,
    };
    Ok(PlannedModel { requested: model.to_owned(), lane, rows: 0, alternatives: Vec::new(), quoted: None })
}
