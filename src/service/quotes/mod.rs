//! Quotes: the items are read, the lanes of their models are looked at, one decision is made, and
//! its whole outcome is handed on. The client's view of the outcome is the dialect's.

pub mod create;
pub mod items;
pub mod lanes;
pub mod manifest;
pub mod outcome;
pub mod pricing;
pub mod turns;
mod uncounted;
pub mod worst_case;

use crate::domain::id::{OrgId, QuoteId};
use crate::domain::quote::{KeptQuote, Quote};
use crate::service::{Service, ServiceError};

impl Service {
    /// A quote of an organisation.
    ///
    /// # Errors
    /// When the organisation has no such quote.
    pub async fn quote(&self, org: OrgId, id: QuoteId) -> Result<KeptQuote, ServiceError> {
        // A quote that was never shown does not belong to any client.
        let kept = self.store.quote(id).await?.filter(|kept| !kept.quote.shown.is_empty() && kept.quote.org == org);
        kept.ok_or(ServiceError::QuoteNotFound(id))
    }

    /// A quote that a batch can be made from, without the client's view of it.
    ///
    /// # Errors
    /// When the organisation has no such quote, or it is used or has expired.
    pub async fn usable_quote(&self, org: OrgId, id: QuoteId) -> Result<Quote, ServiceError> {
        let look = self.turns.look(org).await;
        let KeptQuote { quote, batch } = self.quote(org, id).await?;
        // The client's view may be long and is not needed here, so the quote waits for its turn
        // without it.
        let quote = Quote { shown: Vec::new(), ..quote };
        drop(look);
        if let Some(batch) = batch {
            return Err(ServiceError::QuoteUsed(batch));
        }
        if quote.is_valid(self.clock.now()) { Ok(quote) } else { Err(ServiceError::QuoteExpired) }
    }
}
