//! Builds the plan of a new batch: the models that its rows name, each resolved when it is first
//! named, and the totals of its rows.
//!
//! Not here: the cost of one row ([`super::cost`]), and the lanes that a quote has chosen
//! ([`super::quoted`]).

use std::collections::HashMap;

use super::cost::Tally;
use super::quoted::planned;
use crate::catalog::{ResolveError, Snapshot};
use crate::domain::batch::plan::{MAX_MODELS, MAX_QUOTED, Places, PlannedLane, PlannedModel, RefusedModel, can_be_asked};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::endpoint::Endpoint;
use crate::domain::id::RowIndex;
use crate::domain::quote::Quote;
use crate::domain::row::openai::{RowFault, RowRequest};
use crate::domain::vocabulary::Operation;
use crate::quote::measured::Measured;

/// The most bytes that the names in a plan may take.
const MAX_NAMED_BYTES: usize = 1 << 20;

/// What the lane for a model depends on besides the model: the operation of an item, or the endpoint
/// of a row in OpenAI's format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Operation(Operation),
    Endpoint(Endpoint),
}

impl Asked {
    fn by(row: &RowRequest<'_>) -> Self {
        row.operation.map_or(Self::Endpoint(row.endpoint), Self::Operation)
    }
}

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
    /// By what is asked and by the name in the row.
    known: HashMap<Asked, HashMap<String, Result<(), RowFault>>>,
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
        let asked = Asked::by(row);
        match self.known.entry(asked).or_default().get(row.model.as_ref()) {
            Some(known) => known.clone()?,
            None => {
                let most = if quote.is_some() { MAX_QUOTED } else { MAX_MODELS };
                if self.known.values().map(HashMap::len).sum::<usize>() >= most {
                    return Err(too_many(most));
                }
                let added = self.add(row, most, quote, catalog);
                self.known.entry(asked).or_default().insert(row.model.to_string(), added.clone());
                added?;
            }
        }
        let place = self.places.of(row, index).map(usize::from);
        let place = place.and_then(|place| self.planned.get_mut(place).zip(self.tallies.get_mut(place)));
        let count = |(planned, tally): (&mut PlannedModel, &mut Tally)| {
            planned.rows += 1;
            if let Some(measured) = &measured {
                tally.add(measured, planned);
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

    /// Takes back the count of a row that was found faulty later.
    pub fn uncount(&mut self, row: &RowRequest<'_>, index: RowIndex) {
        if let Some(planned) = self.places.of(row, index).and_then(|place| self.planned.get_mut(usize::from(place))) {
            planned.rows = planned.rows.saturating_sub(1);
        }
    }

    /// The models of rows in OpenAI's format that cannot run.
    pub fn refused(&self) -> Vec<RefusedModel> {
        let refused = self.known.iter().flat_map(|(asked, models)| {
            let endpoint = match asked {
                Asked::Endpoint(endpoint) => Some(*endpoint),
                Asked::Operation(_) => None,
            };
            models.iter().filter_map(move |(requested, known)| {
                let RowFault { code, message, .. } = known.clone().err()?;
                Some(RefusedModel { requested: requested.clone(), endpoint: endpoint?, code, message })
            })
        });
        refused.collect()
    }

    fn add(&mut self, row: &RowRequest<'_>, most: usize, quote: Option<&Quote>, catalog: &Snapshot) -> Result<(), RowFault> {
        let new = match (quote, row.operation) {
            (Some(quote), Some(operation)) => planned(quote, &row.model, operation, catalog)?,
            _ => vec![(resolved(&row.model, row.endpoint, catalog)?, Tally::default())],
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

/// The fault of a row that names one model too many.
pub fn too_many(most: usize) -> RowFault {
    let message = format!("the file names more than {most} different models, or lanes for them");
    RowFault::new(ProblemCode::TooManyModels, Some("body.model"), message)
}

/// A model of rows in OpenAI's format, on the lane that the catalog has for it at their endpoint.
fn resolved(model: &str, endpoint: Endpoint, catalog: &Snapshot) -> Result<PlannedModel, RowFault> {
    let route = catalog.resolve_at(model, endpoint).map_err(|error| {
        let code = match error {
            ResolveError::NotServed { .. } => ProblemCode::UnsupportedEndpoint,
            ResolveError::UnknownModel { .. } | ResolveError::NoUsableOffering { .. } => ProblemCode::UnknownModel,
        };
        RowFault::new(code, Some("body.model"), error.to_string())
    })?;
    let lane = PlannedLane {
        model: model.to_owned(),
        provider: route.provider.to_owned(),
        upstream: route.upstream.to_owned(),
        price: route.price,
    };
    Ok(PlannedModel { requested: model.to_owned(), endpoint: Some(endpoint), lane, rows: 0, alternatives: Vec::new(), quoted: None })
}
