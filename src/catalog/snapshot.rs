//! What circulates: an immutable catalog in which every routing decision has been made.
//!
//! Which provider serves a model depends on the seeds and on which keys are present, and both are
//! fixed when the snapshot is made. So the choice is made once, here, and [`Snapshot::resolve`]
//! looks it up: two rows of a batch cannot be decided differently.

use std::collections::HashMap;

use rust_decimal::Decimal;

use super::model::{Model, Offering, Provider};
use super::resolve::{ResolveError, suggestions};
use super::seeds::Seeds;
use crate::domain::connection::{Connection, KeySource};
use crate::domain::money::PriceSheet;

/// Who serves a request for a model, and for how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The provider's id.
    pub provider: &'a str,
    /// The provider's own name for the model.
    pub upstream: &'a str,
    /// What the provider charges. A stand-in charges what the model's first listed offering would,
    /// so that costs look as they would for real.
    pub price: PriceSheet,
    /// The model's canonical name; the name as asked if the catalog does not know it.
    pub model: &'a str,
}

/// One line of the list of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedModel<'a> {
    pub id: &'a str,
    /// In seconds since 1970; 0 if not known.
    pub created: i64,
    /// The organisation that made it.
    pub owned_by: &'a str,
}

/// Who serves a known model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The offering with this index.
    Offering(usize),
    CatchAll,
    StandIn,
    Nobody,
}

/// The catalog at one moment. Cheap to share, never changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    providers: Vec<(Provider, bool)>,
    models: Vec<Model>,
    /// Parallel to `models`.
    choices: Vec<Choice>,
    /// From ids and aliases to indexes of `models`.
    names: HashMap<String, usize>,
    /// The index of the provider that takes what nobody else does, if it is usable.
    catch_all: Option<usize>,
    /// The index of the provider that serves known models in place of the real ones, if there is no usable real one.
    stand_in: Option<usize>,
    hash: String,
}

impl Seeds {
    /// Makes the routing decisions. `usable` says whether a provider's key is present; it is not
    /// asked about providers that need none.
    pub fn into_snapshot(self, usable: &dyn Fn(&Connection) -> bool) -> Snapshot {
        let ready = |connection: &Connection| match connection.key {
            KeySource::None => true,
            KeySource::Env(_) | KeySource::File(_) => usable(connection),
        };
        let with_state = |provider: Provider| {
            let ready = ready(&provider.connection);
            (provider, ready)
        };
        let providers: Vec<_> = self.providers.into_iter().map(with_state).collect();
        let find = |wanted: fn(&Provider) -> bool| providers.iter().position(|(provider, ready)| *ready && wanted(provider));
        let catch_all = find(|provider| provider.catch_all);
        // Simulated answers among real ones would be taken for real.
        let stand_in = if find(Provider::is_real).is_some() { None } else { find(|provider| provider.stand_in) };
        let mut names = HashMap::new();
        for (index, model) in self.models.iter().enumerate() {
            names.extend(model.aliases.iter().chain([&model.id]).map(|name| (name.clone(), index)));
        }
        let choices = self.models.iter().map(|model| choose(model, &providers, catch_all, stand_in)).collect();
        Snapshot { providers, models: self.models, choices, names, catch_all, stand_in, hash: self.hash }
    }
}

/// The cheapest usable offering; else the catch-all; else the stand-in.
fn choose(model: &Model, providers: &[(Provider, bool)], catch_all: Option<usize>, stand_in: Option<usize>) -> Choice {
    let provider = |offering: &Offering| providers.iter().find(|(provider, _)| provider.id() == offering.provider);
    // The stand-in's own models are asked for by name, knowingly; for any other model an offering
    // of the stand-in must not compete with real ones, where being free it would win.
    let simulation = model.offerings.iter().all(|offering| provider(offering).is_some_and(|(provider, _)| provider.stand_in));
    let cheapest = model
        .offerings
        .iter()
        .enumerate()
        .filter(|(_, offering)| offering.retired.is_none())
        .filter(|(_, offering)| provider(offering).is_some_and(|(provider, ready)| *ready && (simulation || !provider.stand_in)))
        .min_by_key(|(_, offering)| rank(&offering.price));
    match cheapest {
        Some((index, _)) => Choice::Offering(index),
        None if catch_all.is_some() => Choice::CatchAll,
        None if stand_in.is_some() => Choice::StandIn,
        None => Choice::Nobody,
    }
}

/// Offerings without an established price come last; among equals, `min_by_key` keeps the first written.
fn rank(price: &PriceSheet) -> (bool, Decimal) {
    let sum = price.input.unwrap_or_default().saturating_add(price.output.unwrap_or_default());
    (*price == PriceSheet::default(), sum)
}

impl Snapshot {
    /// SHA-256 of the seeds in hexadecimal. Equal hashes mean equal seeds, not equal keys.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Every provider, and whether it is usable.
    pub fn providers(&self) -> impl Iterator<Item = (&Provider, bool)> {
        self.providers.iter().map(|(provider, ready)| (provider, *ready))
    }

    /// `true` if no real provider is usable and the built-in one answers in their place.
    pub fn is_simulated(&self) -> bool {
        self.stand_in.is_some()
    }

    /// How to reach each usable provider.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.providers.iter().filter(|(_, ready)| *ready).map(|(provider, _)| &provider.connection)
    }

    /// How to reach the provider with that id, usable or not.
    pub fn connection(&self, id: &str) -> Option<&Connection> {
        self.providers.iter().map(|(provider, _)| &provider.connection).find(|connection| connection.id == id)
    }

    /// The model with that id or alias.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.names.get(name).map(|index| &self.models[*index])
    }

    /// The known models that somebody serves, in the order of the seeds.
    ///
    /// A model that only the catch-all would be asked for is not listed: whether that server has it
    /// is not known.
    pub fn models(&self) -> impl Iterator<Item = ListedModel<'_>> {
        let served = |choice: Choice| match choice {
            Choice::Offering(_) | Choice::StandIn => true,
            Choice::CatchAll | Choice::Nobody => false,
        };
        let models = self.models.iter().zip(&self.choices).filter(move |(_, choice)| served(**choice));
        models.map(|(model, _)| ListedModel { id: &model.id, created: model.created, owned_by: &model.organisation })
    }

    /// Who serves `model`, asked for by id, alias or any name at all.
    ///
    /// 1. A known model goes to its cheapest usable offering (input and output price added up, then
    ///    the order of the seeds). A `MODEL=URL` upstream is its model's only offering.
    /// 2. Else the catch-all takes it, under the name as asked.
    /// 3. Else, if no real provider is usable at all, the stand-in serves it if it is known.
    ///
    /// # Errors
    /// Nobody serves it; the error says to the client what would help.
    pub fn resolve<'a>(&'a self, model: &'a str) -> Result<Route<'a>, ResolveError> {
        let Some(&index) = self.names.get(model) else {
            let listed = self.models.iter().zip(&self.choices).filter(|(_, choice)| **choice != Choice::Nobody);
            let unknown =
                || ResolveError::UnknownModel { model: model.to_owned(), suggestions: suggestions(model, listed.map(|(m, _)| m)) };
            let provider = self.catch_all.ok_or_else(unknown)?;
            return Ok(self.at(provider, model, PriceSheet::default(), model));
        };
        let known = &self.models[index];
        match (self.choices[index], self.catch_all, self.stand_in) {
            (Choice::Offering(offering), _, _) => {
                let Offering { provider, upstream, price, .. } = &known.offerings[offering];
                Ok(Route { provider, upstream, price: *price, model: &known.id })
            }
            (Choice::CatchAll, Some(provider), _) => Ok(self.at(provider, model, PriceSheet::default(), &known.id)),
            (Choice::StandIn, _, Some(provider)) => {
                let price = known.offerings.first().map(|offering| offering.price).unwrap_or_default();
                Ok(self.at(provider, &known.id, price, &known.id))
            }
            (Choice::CatchAll | Choice::StandIn | Choice::Nobody, _, _) => Err(self.nobody(model, known)),
        }
    }

    /// Whether a batch that was planned with `provider` for `model` may go on with it: the provider
    /// is usable, and it offers the model or takes every one.
    pub fn still_serves(&self, model: &str, provider: &str) -> bool {
        let usable = self.connections().any(|connection| connection.id == provider);
        let takes_all = self.catch_all.is_some_and(|index| self.providers[index].0.id() == provider);
        let offers = |known: &Model| known.offerings.iter().any(|offering| offering.provider == provider && offering.retired.is_none());
        usable && (takes_all || self.model(model).is_some_and(offers))
    }

    fn at<'a>(&'a self, provider: usize, upstream: &'a str, price: PriceSheet, model: &'a str) -> Route<'a> {
        Route { provider: self.providers[provider].0.id(), upstream, price, model }
    }

    fn nobody(&self, asked: &str, known: &Model) -> ResolveError {
        let remedy = |offering: &Offering| match offering.retired {
            Some(day) => format!("ended it on {day}"),
            None => {
                self.providers.iter().find(|(provider, _)| provider.id() == offering.provider).map_or_else(String::new, |(p, _)| p.remedy())
            }
        };
        let providers = known.offerings.iter().map(|offering| (offering.provider.clone(), remedy(offering))).collect();
        ResolveError::NoUsableOffering { model: asked.to_owned(), providers }
    }
}
