//! Quotes: items are read, the lanes of their models looked at, one decision made, and everything that came out
//! of it handed on. What a client sees of it is its dialect's.

pub mod create;
pub mod items;
pub mod lanes;
pub mod manifest;
pub mod outcome;
pub mod pricing;
pub mod turns;
mod uncounted;

use crate::domain::id::{OrgId, QuoteId};
use crate::domain::quote::{KeptQuote, Quote};
use crate::service::{Service, ServiceError};

impl Service {
    /// A quote of an organisation's.
    ///
    /// # Errors
    /// When there is none, or it is another organisation's.
    pub async fn quote(&self, org: OrgId, id: QuoteId) -> Result<KeptQuote, ServiceError> {
        // One that was never shown is no client's.
        let kept = self.store.quote(id).await?.filter(|kept| !kept.quote.shown.is_empty());
        let kept = kept.ok_or(ServiceError::QuoteNotFound(id))?;
        if kept.quote.org == org { Ok(kept) } else { Err(ServiceError::QuoteForeign) }
    }

    /// A quote that a batch can be made from, without what was shown of it.
    ///
    /// # Errors
    /// When there is none, or it is another organisation's, used or expired.
    pub async fn usable_quote(&self, org: OrgId, id: QuoteId) -> Result<Quote, ServiceError> {
        let look = self.turns.look().await?;
        let KeptQuote { quote, batch } = self.quote(org, id).await?;
        // What was shown of it may be long, and is not needed: it waits for its turn without.
        let quote = Quote { shown: Vec::new(), ..quote };
        drop(look);
        if let Some(batch) = batch {
            return Err(ServiceError::QuoteUsed(batch));
        }
        if quote.is_valid(self.clock.now()) { Ok(quote) } else { Err(ServiceError::QuoteExpired) }
    }
}
