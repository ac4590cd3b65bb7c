//! Making a batch of items from a quote: one that the client names, or one that is made from the
//! items themselves.
//!
//! Every fault is found before anything is reserved or kept.

use std::sync::Arc;

use super::create::{Created, NewBatch};
use super::expected_cost::within;
use super::prepare::{Items, PreparedInput};
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{Batch, BatchInput, Fallback, QuotedInput};
use crate::domain::dialect::Dialect;
use crate::domain::id::{OrgId, QuoteId};
use crate::domain::money::Usd;
use crate::domain::quote::Quote;
use crate::domain::quote::constraints::{Constraints, PriceProtection, RoutingMode, STANDARD_PRIVACY, SlaTier, TierTimes};
use crate::domain::row::batchrouter::Defaults;
use crate::domain::vocabulary::DataCollection;
use crate::domain::webhook::Webhook;
use crate::service::quotes::create::{QuoteOptions, QuoteRequest};
use crate::service::quotes::manifest;
use crate::service::quotes::outcome::Outcome;
use crate::service::quotes::worst_case::reserve;
use crate::service::{Service, ServiceError};
use crate::store::Idempotency;

/// The content of a create request.
#[derive(Debug, Clone)]
pub struct QuotedCreate {
    pub org: OrgId,
    pub owner: Owner,
    pub once: Idempotency,
    /// The quote that the create names; `None` to have one made.
    pub quote: Option<QuoteId>,
    pub items: Items,
    /// The number of items in a file, as its client states it.
    pub item_count: Option<u32>,
    pub defaults: Defaults,
    pub stated: StatedConstraints,
    /// A JSON object of the client's own.
    pub metadata: Option<String>,
    pub webhook: Option<Webhook>,
    /// Headers of the create for providers that list them.
    pub headers: Forwarded,
}

/// The constraints that a create states besides its quote.
#[derive(Debug, Clone)]
pub struct StatedConstraints {
    /// Constraints that are not stated have their defaults.
    pub constraints: Constraints,
    /// The tier and the price protection, if they are stated.
    pub tier: Option<SlaTier>,
    pub protection: Option<PriceProtection>,
}

/// A batch, and the client's view of the quote that was made for it.
#[derive(Debug)]
pub struct CreatedFromQuote {
    pub created: Created,
    /// `None` if the create named its quote, or if an earlier request had made the batch.
    pub shown: Option<Vec<u8>>,
}

impl CreatedFromQuote {
    /// A batch that an earlier request had made.
    fn found(batch: Batch) -> Self {
        Self { created: Created { batch, is_new: false }, shown: None }
    }
}

impl Service {
    /// Makes a batch of items. `show` renders the client's view of a quote that is made for them.
    ///
    /// # Errors
    /// When the batch cannot be made. Nothing is kept then, except for the quote if one was made.
    pub async fn create_quoted(
        self: &Arc<Self>,
        asked: QuotedCreate,
        show: fn(&Outcome) -> Vec<u8>,
    ) -> Result<CreatedFromQuote, ServiceError> {
        self.check_open()?;
        // Checked first: the quote of an earlier create is used up by now.
        if let Some(batch) = self.made_before(&asked.once).await? {
            return Ok(CreatedFromQuote::found(batch));
        }
        self.check_room(0)?;
        self.check_create(asked.org)?;
        let quote = match asked.quote {
            Some(id) => match self.quote_for(&asked, id).await {
                Ok(quote) => quote,
                // The same request may have made its batch a moment ago.
                Err(refused) => {
                    let batch = self.made_before(&asked.once).await?.ok_or(refused)?;
                    return Ok(CreatedFromQuote::found(batch));
                }
            },
            None => self.quote_of_items(&asked, show).await?,
        };
        let prepaid = self.prepays(asked.org).await?;
        let prepared = self.prepare(asked.items.clone(), asked.item_count, &asked.defaults, &quote, prepaid).await?;
        if prepared.estimate.is_none() && prepaid {
            return Err(ServiceError::PrepaidNeedsPrices);
        }
        let most = [asked.stated.constraints.max_price, quote.constraints.max_price].into_iter().flatten().min();
        most.map_or(Ok(()), |most| within(most, prepared.estimate, prepared.worst))?;
        // The quote that a create names comes without the client's view of it.
        let created = self.create_batch(self.new_batch(asked, &quote, prepared, most)).await?;
        let shown = Some(quote.shown).filter(|shown| created.is_new && !shown.is_empty());
        Ok(CreatedFromQuote { created, shown })
    }

    /// The quote that a create names, if a batch can be made from it.
    async fn quote_for(&self, asked: &QuotedCreate, id: QuoteId) -> Result<Quote, ServiceError> {
        let quote = self.usable_quote(asked.org, id).await?;
        match asked.stated.mismatch(&quote, &self.limits.quotes.tiers) {
            None => Ok(quote),
            Some(field) => Err(ServiceError::QuoteMismatch { field }),
        }
    }

    /// A quote of the items themselves, for a create that names no quote. This is our extension.
    async fn quote_of_items(self: &Arc<Self>, asked: &QuotedCreate, show: fn(&Outcome) -> Vec<u8>) -> Result<Quote, ServiceError> {
        let (org, items, defaults) = (asked.org, asked.items.clone(), asked.defaults.clone());
        let constraints = asked.stated.constraints.clone();
        let request = move |service: &Self| {
            let items = match items {
                Items::Inline(items) => items,
                Items::File(file) => manifest::items(service, org, file)?,
            };
            Ok::<_, ServiceError>((items, QuoteRequest { defaults, constraints, options: QuoteOptions::default() }))
        };
        let quote = self.make_quote(org, request, show).await?;
        self.store.add_quote(quote.clone()).await?;
        Ok(quote)
    }

    fn new_batch(&self, asked: QuotedCreate, quote: &Quote, prepared: PreparedInput, most: Option<Usd>) -> NewBatch {
        let PreparedInput { source, items, defaults, estimate, worst } = prepared;
        let order = QuotedInput {
            defaults,
            constraints: Constraints { max_price: most, ..quote.constraints.clone() },
            estimate,
            reserve: reserve(worst, estimate, most),
            items,
            metadata: asked.metadata,
            webhook: asked.webhook,
            ..QuotedInput::of(quote)
        };
        let order = BatchInput::Quoted(Box::new(order));
        let new = NewBatch::new(self.clock.now(), Dialect::BatchRouter, asked.org, asked.owner, order, source);
        NewBatch { fallback: Fallback::Never, headers: asked.headers, once: Some(asked.once), ..new }
    }
}

impl StatedConstraints {
    /// The first field that asks for more than the quote promises. A field that asks for less, or
    /// is not stated, gets what was quoted.
    fn mismatch(&self, quote: &Quote, tiers: &TierTimes) -> Option<&'static str> {
        let (asked, quoted) = (&self.constraints, &quote.constraints);
        let subset = |these: &[String], of: &[String]| these.iter().all(|each| of.contains(each));
        let (preferences, given) = (&asked.preferences, &quoted.preferences);
        let faster = self.tier.is_some_and(|tier| tiers.of(tier) < tiers.of(quoted.tier));
        let safer = self.protection == Some(PriceProtection::LockTotalAndFallback) && quoted.protection == PriceProtection::LockTotal;
        let (only, ignored) = (&preferences.only, &preferences.ignore);
        let mismatches = [
            ("sla_tier", faster),
            ("price_protection_policy", safer),
            ("routing_mode", asked.mode == RoutingMode::EdgeOnly && quoted.mode != RoutingMode::EdgeOnly),
            ("privacy_tier", asked.privacy_tier != STANDARD_PRIVACY && asked.privacy_tier != quoted.privacy_tier),
            ("allowed_regions", !asked.is_global() && (quoted.is_global() || !subset(&quoted.regions, &asked.regions))),
            ("required_tools", !asked.tools.iter().all(|tool| quoted.tools.contains(tool))),
            ("provider_preferences.zdr", preferences.zdr && !given.zdr),
            (
                "provider_preferences.data_collection",
                preferences.data_collection == Some(DataCollection::Deny) && given.data_collection != Some(DataCollection::Deny),
            ),
            ("provider_preferences.only", !only.is_empty() && (given.only.is_empty() || !subset(&given.only, only))),
            ("provider_preferences.ignore", !subset(ignored, &given.ignore) && !excludes(quote, ignored)),
            ("provider_preferences.allow_fallbacks", !preferences.allow_fallbacks && given.allow_fallbacks),
        ];
        mismatches.into_iter().find_map(|(field, mismatch)| mismatch.then_some(field))
    }
}

/// Whether no lane of the quote is by one of these providers.
fn excludes(quote: &Quote, providers: &[String]) -> bool {
    quote.groups.iter().flat_map(|group| &group.lanes).all(|lane| !providers.contains(&lane.provider))
}
