//! Quotes: written once, read back, and forgotten a day after they have expired. A quote from which
//! a batch was made is kept: the batch's receipt tells what the quote said.

use std::time::Duration;

use super::format::{self, ExpiryKind};
use super::record::packed::{self, Packed};
use super::record::quote::QuoteRecord;
use super::record::{decode_body, encode_body};
use super::results::chunks::read_packed;
use super::{Store, blocking};
use crate::domain::id::{BatchId, QuoteId};
use crate::domain::quote::{KeptQuote, Quote};
use crate::domain::time::later;
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;

/// How long an expired quote can be read: a client that uses it too late learns that it has
/// expired, not that it does not exist.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Records a quote.
    ///
    /// # Errors
    /// When the store has failed, or the quote is too large.
    pub async fn add_quote(&self, quote: Quote) -> Result<(), StoreError> {
        let id = quote.id;
        let (org, created_at, forget_at) = (quote.org, quote.created_at, later(quote.valid_until, REMEMBERED));
        let packed = blocking(move || Ok(packed::pack::<QuoteRecord>(0, &encode_body(&QuoteRecord::from(&quote))?)?)).await?;
        self.commit(move |tx| {
            tx.put_chunks(&format::quote(id), &packed)?;
            // The entry says whose quote it is, so that its bytes count for them.
            let owner = org.as_u128().to_be_bytes();
            tx.put_raw(format::expiry(super::format::seconds(forget_at), ExpiryKind::Quote, &id.as_u128().to_be_bytes()), &owner);
            super::quotas::admit_bytes(tx, org, 0, created_at)
        })
        .await
    }

    /// Reads a quote, expired or not, used or not.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn quote(&self, id: QuoteId) -> Result<Option<KeptQuote>, StoreError> {
        let store = self.clone();
        let quote = blocking(move || {
            let Some(bytes) = read_packed::<QuoteRecord>(&store.inner.tree, &format::quote(id))? else { return Ok(None) };
            let record: QuoteRecord = match Packed::open::<QuoteRecord>(&bytes)?.with_body::<QuoteRecord, _>(decode_body) {
                Err(RecordError::Version { found: 1, .. }) => return Ok(None),
                other => other?,
            };
            let used = store.inner.tree.get(format::used_quote(id))?;
            let batch = used.as_deref().and_then(format::trailing_id).map(BatchId::from_u128);
            Ok(Some(KeptQuote { quote: Quote::try_from(record)?, batch }))
        })
        .await?;
        self.await_durable().await?;
        Ok(quote)
    }

    /// Forgets a quote from which no batch was made.
    pub(super) async fn forget_quote(&self, id: QuoteId) -> Result<(), StoreError> {
        self.commit(move |tx| {
            if tx.tree().contains_key(format::used_quote(id))? {
                return Ok(());
            }
            tx.remove_all(format::quote(id))
        })
        .await
    }
}
