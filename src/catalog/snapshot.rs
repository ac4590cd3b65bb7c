//! The form of the catalog that circulates: immutable, with every routing decision already made.
//!
//! Which provider serves a model depends on the seeds, on the keys that are present and on the day,
//! and all of these are fixed when the snapshot is made. So the choice is made once
//! ([`super::choice`]), and [`Snapshot::resolve`] looks it up: two rows of a batch cannot be
//! decided differently.

mod endpoints;

use std::collections::HashMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::choice::{Choice, Roles, choose};
use super::model::{Model, Offering, Provider};
use super::resolve::{ResolveError, suggestions};
use super::seeds::Seeds;
use super::vocabulary::Status;
use super::workflow::Workflow;
use crate::domain::money::PriceSheet;
use crate::domain::provider::connection::{Connection, KeySource};

/// The lane that serves a request for a model, and its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The provider's id.
    pub provider: &'a str,
    /// The provider's own name for the model.
    pub upstream: &'a str,
    /// The provider's charge. A stand-in charges what the model's first listed offering would, so
    /// that costs look as they would with a real provider.
    pub price: PriceSheet,
    /// The model's canonical name; the name that the client used if the catalog does not know it.
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

/// An offering in its state today, with its provider.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    pub provider: &'a Provider,
    pub offering: &'a Offering,
    /// The daemon can call the provider, and the offering may be routed to.
    pub usable: bool,
    /// The offering's status, with its dates and its provider's status taken into account.
    pub status: Status,
}

impl Offer<'_> {
    /// Whether new rows are routed to the offering now: it is usable and not paused.
    pub fn takes_work(&self) -> bool {
        match self.status {
            Status::Active | Status::Deprecated => self.usable,
            Status::Paused | Status::Disabled => false,
        }
    }
}

/// The catalog at one moment. Cheap to share, never changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Each provider with whether the daemon can call it.
    providers: Vec<(Provider, bool)>,
    models: Vec<Model>,
    /// Parallel to `models`.
    choices: Vec<Choice>,
    /// Parallel to `models`: the offering of the stand-in that replaces the listed offerings.
    substitutes: Vec<Option<Offering>>,
    /// From ids, aliases and qualified names to indexes of `models`.
    names: HashMap<String, usize>,
    /// From providers and their names for models to indexes of `models` and of offerings.
    lanes: HashMap<String, HashMap<String, (usize, usize)>>,
    roles: Roles,
    workflows: Vec<Workflow>,
    hash: String,
    /// The day on which the decisions were made.
    today: Date,
}

impl Seeds {
    /// Makes the routing decisions as of `today`. `usable` returns whether a provider's key is
    /// present; it is not asked about providers that need no key.
    pub fn into_snapshot(self, today: Date, usable: &dyn Fn(&Connection) -> bool) -> Snapshot {
        let has_key = |connection: &Connection| match connection.key {
            KeySource::None => true,
            KeySource::Env(_) | KeySource::File(_) => usable(connection),
        };
        let configured = |provider: &Provider| provider.base_url_env.is_none() && has_key(&provider.connection);
        let with_state = |provider: Provider| {
            let ready = provider.status != Status::Disabled && configured(&provider);
            (provider, ready)
        };
        let providers: Vec<_> = self.providers.into_iter().map(with_state).collect();
        let roles = Roles::of(&providers, &configured);
        let choices: Vec<_> = self.models.iter().map(|model| choose(model, &providers, roles, today)).collect();
        let substitute = |(model, choice): (&Model, &Choice)| match (choice, roles.stand_in) {
            (Choice::StandIn, Some(index)) => Some(stand_in_for(model, &providers[index].0)),
            (Choice::Offering(_) | Choice::CatchAll | Choice::StandIn | Choice::Nobody, _) => None,
        };
        let substitutes = self.models.iter().zip(&choices).map(substitute).collect();
        let (names, lanes) = (names(&self.models), lanes(&self.models));
        Snapshot {
            names,
            lanes,
            providers,
            models: self.models,
            choices,
            substitutes,
            roles,
            workflows: self.workflows,
            hash: self.hash,
            today,
        }
    }
}

/// The stand-in's offering of another provider's model, at the price of the first listed offering.
fn stand_in_for(model: &Model, provider: &Provider) -> Offering {
    let rates = model.offerings.first().map(|offering| offering.rates.clone()).unwrap_or_default();
    let plain = Offering::plain(provider.id(), &model.id, model);
    Offering { rates, regions: provider.regions.clone(), privacy: provider.privacy.clone(), capacity: provider.capacity, ..plain }
}

/// Maps ids and aliases, and qualified names that no other model has.
fn names(models: &[Model]) -> HashMap<String, usize> {
    let mut names = HashMap::new();
    for (index, model) in models.iter().enumerate() {
        names.extend(model.aliases.iter().chain([&model.id]).map(|name| (name.clone(), index)));
    }
    for (index, model) in models.iter().enumerate() {
        names.entry(model.qualified()).or_insert(index);
    }
    names
}

/// Maps lanes. If a provider uses one name for two models, the name leads to the first one's lane.
fn lanes(models: &[Model]) -> HashMap<String, HashMap<String, (usize, usize)>> {
    let mut lanes: HashMap<String, HashMap<String, (usize, usize)>> = HashMap::new();
    for (model, offerings) in models.iter().enumerate().map(|(index, model)| (index, &model.offerings)) {
        for (offering, Offering { provider, upstream, .. }) in offerings.iter().enumerate() {
            lanes.entry(provider.clone()).or_default().entry(upstream.clone()).or_insert((model, offering));
        }
    }
    lanes
}

impl Snapshot {
    /// SHA-256 of the seeds in hexadecimal. Equal hashes mean equal seeds, not equal keys.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The day as of which this snapshot was decided.
    pub fn today(&self) -> Date {
        self.today
    }

    /// Whether both snapshots decide and show the same, whatever their days are.
    pub fn equals(&self, other: &Self) -> bool {
        let Self { providers, models, choices, substitutes, names: _, lanes: _, roles, workflows: _, hash, today: _ } = self;
        // Names and lanes follow from the models, and workflows follow from the seeds.
        (providers, choices, roles, hash) == (&other.providers, &other.choices, &other.roles, &other.hash)
            && (models, substitutes) == (&other.models, &other.substitutes)
            && self.next_change() == other.next_change()
    }

    /// The next day on which a price, an offering or a model begins or ends.
    pub fn next_change(&self) -> Option<Date> {
        let of_offering = |offering: &Offering| {
            let rates: Vec<_> = offering.rates.all().iter().flat_map(|rate| [rate.from, rate.until]).collect();
            rates.into_iter().chain([offering.retired])
        };
        let of_model = |model: &Model| {
            let offerings: Vec<_> = model.offerings.iter().flat_map(of_offering).collect();
            offerings.into_iter().chain([model.deprecated, model.retired])
        };
        self.models.iter().flat_map(of_model).flatten().filter(|day| *day > self.today).min()
    }

    /// Every provider, and whether the daemon can call it.
    pub fn providers(&self) -> impl Iterator<Item = (&Provider, bool)> {
        self.providers.iter().map(|(provider, ready)| (provider, *ready))
    }

    /// `true` if no real provider is usable and the built-in one answers in place of them.
    pub fn is_simulated(&self) -> bool {
        self.roles.stand_in.is_some()
    }

    /// How to reach each usable provider.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.providers.iter().filter(|(_, ready)| *ready).map(|(provider, _)| &provider.connection)
    }

    /// The provider with that id, usable or not.
    pub fn provider(&self, id: &str) -> Option<&Provider> {
        self.providers.iter().map(|(provider, _)| provider).find(|provider| provider.id() == id)
    }

    /// The operator's own server that takes every model that no other provider serves.
    pub fn own_catch_all(&self) -> Option<&Provider> {
        self.roles.catch_all.map(|index| &self.providers[index].0).filter(|provider| provider.is_local)
    }

    /// Whether the provider is a server of the operator's own.
    pub fn is_local(&self, provider: &str) -> bool {
        self.provider(provider).is_some_and(|provider| provider.is_local)
    }

    /// The offering of a provider under its own name for the model.
    pub fn offering(&self, provider: &str, upstream: &str) -> Option<&Offering> {
        let (model, offering) = self.lanes.get(provider)?.get(upstream)?;
        self.models[*model].offerings.get(*offering)
    }

    /// The most output tokens of an answer of this lane, if known: nothing longer fits into its
    /// window.
    pub fn most_output(&self, provider: &str, upstream: &str) -> Option<u64> {
        self.offering(provider, upstream).and_then(|offering| offering.max_output_tokens.or(offering.context_window))
    }

    /// The model with that id, alias or qualified name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.names.get(name).map(|index| &self.models[*index])
    }

    /// Every known model, in the order of the seeds.
    pub fn all_models(&self) -> &[Model] {
        &self.models
    }

    /// The workflows, in order of their names.
    pub fn workflows(&self) -> &[Workflow] {
        &self.workflows
    }

    /// The offerings of the model: the listed ones, then the stand-in's if it serves the model in
    /// place of them.
    pub fn offers<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = Offer<'a>> + 'a {
        let substitute = self.names.get(&model.id).and_then(|index| self.substitutes[*index].as_ref());
        let listed = model.offerings.iter().filter_map(move |offering| self.offer(model, offering, substitute.is_some()));
        listed.chain(substitute.into_iter().filter_map(move |offering| self.offer(model, offering, false)))
    }

    fn offer<'a>(&'a self, model: &Model, offering: &'a Offering, replaced: bool) -> Option<Offer<'a>> {
        let (provider, ready) = self.providers.iter().find(|(provider, _)| provider.id() == offering.provider)?;
        let ended = offering.has_ended(self.today);
        let status = match (offering.status, provider.status) {
            (Status::Disabled, _) | (_, Status::Disabled) => Status::Disabled,
            _ if ended => Status::Disabled,
            (Status::Paused, _) | (_, Status::Paused) => Status::Paused,
            (Status::Active, _) if model.deprecated.is_some_and(|day| day <= self.today) => Status::Deprecated,
            (status @ (Status::Active | Status::Deprecated), _) => status,
        };
        let usable = *ready && !replaced && offering.is_open(self.today) && self.routes_to(model, provider);
        Some(Offer { provider, offering, usable, status })
    }

    /// Beside real providers, the stand-in serves nothing but its own models.
    fn routes_to(&self, model: &Model, provider: &Provider) -> bool {
        !provider.stand_in || self.is_simulated() || model.offerings.iter().all(|each| each.provider == provider.id())
    }

    /// The known models that a provider serves, in the order of the seeds.
    ///
    /// A model that only the catch-all could serve is not listed, because it is unknown whether
    /// that server has the model.
    pub fn models(&self) -> impl Iterator<Item = ListedModel<'_>> {
        let served = |choice: Choice| match choice {
            Choice::Offering(_) | Choice::StandIn => true,
            Choice::CatchAll | Choice::Nobody => false,
        };
        let models = self.models.iter().zip(&self.choices).filter(move |(_, choice)| served(**choice));
        models.map(|(model, _)| listed(model))
    }

    /// The route of a request for `model`, which may be an id, an alias, a qualified name or any
    /// other name.
    ///
    /// 1. A known model goes to its cheapest usable offering (input and output price added up, then
    ///    the order of the seeds). A `MODEL=URL` upstream is its model's only offering.
    /// 2. Otherwise the catch-all takes it, under the name that the client used; a hosted one only
    ///    if the catalog knows no provider that offers the model.
    /// 3. Otherwise, if no real provider is usable at all, the stand-in serves the model if it is
    ///    known.
    ///
    /// # Errors
    /// When no provider serves the model; the error tells the client what would help.
    pub fn resolve<'a>(&'a self, model: &'a str) -> Result<Route<'a>, ResolveError> {
        let Some(&index) = self.names.get(model) else {
            let provider = self.roles.catch_all.ok_or_else(|| self.unknown(model))?;
            return Ok(self.at(provider, model, PriceSheet::default(), model));
        };
        let known = &self.models[index];
        match (self.choices[index], &self.substitutes[index], self.roles.catch_all) {
            (Choice::Offering(offering), _, _) => Ok(self.to(&known.offerings[offering], known)),
            (Choice::StandIn, Some(substitute), _) => Ok(self.to(substitute, known)),
            (Choice::CatchAll, _, Some(provider)) => Ok(self.at(provider, model, PriceSheet::default(), &known.id)),
            (Choice::CatchAll | Choice::StandIn | Choice::Nobody, _, _) => Err(self.nobody(model, known)),
        }
    }

    /// The other offerings of a known model that rows may be sent to, without the given one, the
    /// cheapest first. Each comes with whether its provider is a server of the operator's own.
    /// Offerings of a stand-in are left out.
    pub fn others(&self, model: &str, provider: &str, upstream: &str) -> Vec<(Route<'_>, bool)> {
        let Some(known) = self.model(model) else { return Vec::new() };
        let usable = self.offers(known).filter(|offer| offer.usable && offer.provider.is_real());
        let others = usable.filter(|offer| (offer.provider.id(), offer.offering.upstream.as_str()) != (provider, upstream));
        let mut others: Vec<_> = others.map(|offer| (self.to(offer.offering, known), offer.provider.is_local)).collect();
        others.sort_by_key(|(route, _)| route.price.input.unwrap_or_default().saturating_add(route.price.output.unwrap_or_default()));
        others
    }

    /// The providers that offer a model, usable or not.
    pub fn offers_of(&self, model: &str) -> impl Iterator<Item = &str> {
        let offerings = self.model(model).map_or(&[][..], |known| &known.offerings);
        offerings.iter().map(|offering| offering.provider.as_str())
    }

    /// Whether the daemon can call the provider.
    pub fn is_usable(&self, provider: &str) -> bool {
        self.connections().any(|connection| connection.id == provider)
    }

    /// Whether the operator has paused the provider or its offering of that name.
    pub fn is_paused(&self, provider: &str, upstream: &str) -> bool {
        let offering = self.offering(provider, upstream).is_some_and(|offering| offering.status == Status::Paused);
        offering || self.provider(provider).is_some_and(|provider| provider.status == Status::Paused)
    }

    /// The name under which `provider` serves `model` for a batch that was planned with the name
    /// `planned`: `planned` as long as it is an offering of the model, otherwise the offering's
    /// current name. `None` if the provider cannot be called, or neither offers the model nor takes
    /// every model.
    pub fn serves<'a>(&'a self, model: &str, provider: &str, planned: &'a str) -> Option<&'a str> {
        if !self.is_usable(provider) {
            return None;
        }
        let offerings = self.model(model).map_or(&[][..], |known| &known.offerings);
        let mut open = offerings.iter().filter(|offering| offering.provider == provider && offering.is_open(self.today));
        if open.clone().any(|offering| offering.upstream == planned) {
            return Some(planned);
        }
        let takes_all = self.roles.catch_all.is_some_and(|index| self.providers[index].0.id() == provider);
        open.next().map(|offering| offering.upstream.as_str()).or(takes_all.then_some(planned))
    }

    fn to<'a>(&self, offering: &'a Offering, known: &'a Model) -> Route<'a> {
        let Offering { provider, upstream, rates, .. } = offering;
        Route { provider, upstream, price: rates.sheet(self.today), model: &known.id }
    }

    fn at<'a>(&'a self, provider: usize, upstream: &'a str, price: PriceSheet, model: &'a str) -> Route<'a> {
        Route { provider: self.providers[provider].0.id(), upstream, price, model }
    }

    fn unknown(&self, model: &str) -> ResolveError {
        let served = self.models.iter().zip(&self.choices).filter(|(_, choice)| **choice != Choice::Nobody);
        ResolveError::UnknownModel { model: model.to_owned(), suggestions: suggestions(model, served.map(|(model, _)| model)) }
    }

    fn nobody(&self, asked: &str, known: &Model) -> ResolveError {
        let remedy = |offering: &Offering| match offering.retired.filter(|day| *day <= self.today) {
            Some(day) => format!("ended it on {day}"),
            None if offering.status == Status::Disabled => "its offering is disabled".to_owned(),
            None => self.provider(&offering.provider).map_or_else(String::new, Provider::remedy),
        };
        let providers = known.offerings.iter().map(|offering| (offering.provider.clone(), remedy(offering))).collect();
        ResolveError::NoUsableOffering { model: asked.to_owned(), providers }
    }
}

fn listed(model: &Model) -> ListedModel<'_> {
    ListedModel { id: &model.id, created: model.released.map_or(0, unix_seconds), owned_by: &model.organisation }
}

/// The start of the day in UTC.
pub fn unix_seconds(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(0, |zoned| zoned.timestamp().as_second())
}
