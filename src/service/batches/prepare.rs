//! Prepares the input of a batch that is made from a quote, and checks as much as can be checked at
//! once.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::create::{InputSource, MadeRows};
use super::expected_cost::{of_items, scaled};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::id::FileId;
use crate::domain::quote::{Estimate, Quote};
use crate::domain::row::batchrouter::Defaults;
use crate::domain::vocabulary::Operation;
use crate::quote::Group;
use crate::service::quotes::create::split;
use crate::service::quotes::items::{self, AttachedFiles, NewItem, ReadItems, Reading};
use crate::service::quotes::manifest;
use crate::service::quotes::worst_case::{Demands, WorstCase, worst_case};
use crate::service::{Issue, IssueCode, IssuePath, MAX_ISSUES, Service, ServiceError};
use crate::store::error::StoreError;
use crate::store::{Sealed, Store};

/// Where the items of a batch are.
#[derive(Debug, Clone)]
pub enum Items {
    /// In the request: an array, as the client wrote it.
    Inline(Bytes),
    File(FileId),
}

/// The result of preparing an input.
#[derive(Debug)]
pub struct PreparedInput {
    pub source: InputSource,
    /// The number of items, as far as it is known.
    pub items: Option<u32>,
    pub defaults: Defaults,
    /// The expected cost of the items; `None` if it is unknown.
    pub estimate: Option<Estimate>,
    /// The most that the items may cost; `None` if it is unknown, or will be known once the items are
    /// counted.
    pub worst: Option<WorstCase>,
}

impl Service {
    /// Checks items against the quote that they will run on, and keeps the items of a request as a
    /// file. `stated` holds the defaults that the create states for all items; `count` is the
    /// number of items that the client states for a file.
    ///
    /// # Errors
    /// When the items are faulty, or do not belong to the quoted ones.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        items: Items,
        count: Option<u32>,
        stated: &Defaults,
        quote: &Quote,
        prepaid: bool,
    ) -> Result<PreparedInput, ServiceError> {
        let defaults = Defaults {
            operation: stated.operation.or(quote.defaults.operation),
            models: if stated.models.is_empty() { quote.defaults.models.clone() } else { stated.models.clone() },
        };
        match items {
            Items::File(id) => {
                manifest::check(self.store.file(id, self.clock.now()).await?, quote.org, id)?;
                let estimate = scaled(quote, count.unwrap_or(quote.items));
                Ok(PreparedInput { source: InputSource::Uploaded(id), items: count, defaults, estimate, worst: None })
            }
            Items::Inline(items) => {
                let (service, quote) = (self.clone(), quote.clone());
                self.turns.take(quote.org, move || service.prepare_inline(&items, &quote, defaults, prepaid)).await
            }
        }
    }

    fn prepare_inline(&self, items: &Bytes, quote: &Quote, defaults: Defaults, prepaid: bool) -> Result<PreparedInput, ServiceError> {
        let written = split(items, self.limits.quotes.max_items)?;
        let too_long = too_long(&written, self.limits.max_line_bytes);
        if !too_long.is_empty() {
            return Err(ServiceError::preflight(too_long));
        }
        let files = AttachedFiles { store: &self.store, org: quote.org, now: self.clock.now() };
        let reading = Reading { defaults: &defaults, as_asked: false };
        let new: Vec<_> = written.iter().copied().map(NewItem::Written).collect();
        let read = items::read(&new, reading, &self.catalog.current(), &files).map_err(ServiceError::preflight)?;
        let issues = not_quoted(&read, quote);
        if !issues.is_empty() {
            return Err(ServiceError::preflight(issues));
        }
        let count = u32::try_from(written.len()).unwrap_or(u32::MAX);
        let estimate = of_items(&read, count, quote);
        let worst = worst_case(&read, quote, Demands { limits: prepaid, prepaid })?;
        let content = spooled(&self.store, written.iter().map(|item| item.get()))?;
        Ok(PreparedInput { source: InputSource::Made(MadeRows::of_request(content)), items: Some(count), defaults, estimate, worst })
    }
}

/// Issues for items that are longer than a row may be.
fn too_long(items: &[&RawValue], most: usize) -> Vec<Issue> {
    let long = (0_u32..).zip(items).filter(|(_, item)| item.get().len() > most);
    let issue = |(place, _)| Issue {
        code: IssueCode::Row(ProblemCode::RowTooLong),
        path: IssuePath::item(place),
        message: format!("the item is longer than the limit of {most} bytes"),
    };
    long.map(issue).take(MAX_ISSUES).collect()
}

/// Issues for items of kinds that the quote has no lane for.
fn not_quoted(read: &ReadItems, quote: &Quote) -> Vec<Issue> {
    let groups = read.groups.iter().zip(&read.operations).zip(&read.asked);
    let unknown = groups.filter(|((group, operation), _)| quote.group(**operation, &group.models).is_none());
    let issue = |((group, operation), asked): ((&Group, &Operation), &Vec<String>)| {
        let names = asked.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Issue {
            code: IssueCode::ModelNotQuoted,
            path: IssuePath::Item(group.items.first().copied().unwrap_or(0), "model".to_owned()),
            message: format!("the quote has no lane for {names} with the operation `{operation}`; quote a sample of every kind of item"),
        }
    };
    unknown.map(issue).take(MAX_ISSUES).collect()
}

/// Writes JSON texts as the lines of a file, so that inline items and files share one path from
/// then on. Blocks.
///
/// # Errors
/// When the store cannot keep them.
pub(super) fn spooled<'a>(store: &Store, texts: impl Iterator<Item = &'a str>) -> Result<Sealed, StoreError> {
    let mut spool = store.spool()?;
    let mut lines = Vec::with_capacity(1 << 20);
    for text in texts {
        // Line breaks can only stand between tokens, where a space means the same.
        lines.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        lines.push(b'\n');
        if lines.len() >= 1 << 20 {
            spool.write(&lines)?;
            lines.clear();
        }
    }
    spool.write(&lines)?;
    spool.seal()
}
