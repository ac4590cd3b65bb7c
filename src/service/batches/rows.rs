//! Rows that are quoted in the form the client asked for, with the most that they may cost held
//! before any row runs.

use std::sync::Arc;

use bytes::Bytes;

use super::create::{InputSource, MadeRows};
use super::prepare::spooled;
use crate::domain::endpoint::Endpoint;
use crate::domain::id::{FileId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::Credits;
use crate::domain::quote::Quote;
use crate::service::quotes::create::{MadeQuote, QuoteRequest, split};
use crate::service::quotes::items::{NewItem, ParsedRow};
use crate::service::quotes::worst_case::{Demands, worst_case};
use crate::service::{Service, ServiceError};

/// Rows to run.
#[derive(Debug)]
pub enum RowsToQuote {
    /// The rows of a create, read by its dialect.
    Parsed { url: Endpoint, rows: Vec<ParsedRow> },
    /// A file that was uploaded. `sample` holds all of its rows or the first ones, as an array of
    /// the original texts.
    Uploaded { file: FileId, sample: Bytes },
}

/// Rows with everything that a batch of them needs.
#[derive(Debug)]
pub struct QuotedRows {
    /// Kept, but shown to no client.
    pub quote: Quote,
    pub source: InputSource,
    /// The most that the rows may cost; `None` if a provider lists no price. For a file, only the
    /// sample is counted.
    pub held: Option<Usd>,
    /// The number of rows; `None` if they are not counted yet.
    pub count: Option<u32>,
}

impl Service {
    /// Quotes rows, finds the most that they may cost, and keeps the rows of a create as a file.
    /// `request` must ask for the bounds of the rows.
    ///
    /// # Errors
    /// When the rows are faulty, cannot be served, or have no bound on their cost.
    pub async fn quote_rows(self: &Arc<Self>, org: OrgId, rows: RowsToQuote, request: QuoteRequest) -> Result<QuotedRows, ServiceError> {
        let account = self.store.account(org).await?;
        let service = self.clone();
        let quoting = move || {
            let prepaid = matches!(account.credits, Credits::Prepaid(_));
            let quoted = |items: &[NewItem<'_>]| {
                let MadeQuote { quote, read, .. } = service.quote_items(items, &request, org, account)?;
                let held = worst_case(&read, &quote, Demands { limits: true, prepaid })?.map(|worst| worst.all);
                Ok::<_, ServiceError>((quote, held))
            };
            match rows {
                RowsToQuote::Parsed { url, rows } => {
                    let (quote, held) = quoted(&rows.iter().map(|row| NewItem::Parsed(url, row)).collect::<Vec<_>>())?;
                    let content = spooled(&service.store, rows.iter().map(|row| row.line.as_str()))?;
                    let count = u32::try_from(rows.len()).ok();
                    Ok::<_, ServiceError>(QuotedRows { quote, source: InputSource::Made(MadeRows::of_request(content)), held, count })
                }
                RowsToQuote::Uploaded { file, sample } => {
                    let items: Vec<_> = split(&sample, usize::MAX)?.into_iter().map(NewItem::Written).collect();
                    let (quote, held) = quoted(&items)?;
                    Ok(QuotedRows { quote, source: InputSource::Uploaded(file), held, count: None })
                }
            }
        };
        let quoted = self.turns.take(org, quoting).await?;
        self.store.add_quote(quoted.quote.clone()).await?;
        Ok(quoted)
    }
}
