//! What organisations hold in a store that is about to be opened, gathered entry by entry in any
//! order.
//!
//! Memory grows with the number of batches, quotes and parts of uploads, not with rows or bytes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::{Held, Holdings, OfBatch, Owned, Owner, Table, content_of_file, content_of_part, decoded, owner_of};
use crate::domain::file::upload::Upload;
use crate::domain::id::{BatchId, OrgId, PartId, QuoteId, UploadId};
use crate::domain::org::Organisation;
use crate::store::format;
use crate::store::key::{self, Key};
use crate::store::record::org::OrgRecord;
use crate::store::record::upload::UploadRecord;

/// What was found so far.
#[derive(Debug, Default)]
pub(in crate::store) struct Found {
    table: Table,
    batches: HashMap<BatchId, u64>,
    quotes: HashMap<QuoteId, u64>,
    used: Vec<(QuoteId, BatchId)>,
    active: HashSet<BatchId>,
    uploads: HashMap<UploadId, OrgId>,
    parts: Vec<(UploadId, PartId, u64)>,
}

impl Found {
    /// Adds an entry.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let Some((place, _)) = key::parse(key) else { return };
        let len = (key.len() + value.len()) as u64;
        if let Some(batch) = place.batch() {
            *self.batches.entry(batch).or_default() += len;
        }
        match place {
            Key::Active(batch) => drop(self.active.insert(batch)),
            Key::Quote(quote) => *self.quotes.entry(quote).or_default() += len,
            Key::UsedQuote(quote) => {
                self.used.extend(format::trailing_id(value).map(|batch| (quote, BatchId::from_u128(batch))));
            }
            Key::Receiver(org, _) => self.table.change(org, len, true),
            Key::File(_) | Key::Deleted(_) => {
                if let Some((org, content)) = content_of_file(value) {
                    self.table.change(org, content + len, true);
                }
            }
            Key::Upload(id) => {
                if let Some(upload) = decoded::<UploadRecord, Upload>(value) {
                    self.table.change(upload.org, len, true);
                    self.uploads.insert(id, upload.org);
                }
            }
            Key::Part(upload, part) => self.parts.push((upload, part, len + content_of_part(Some(value)))),
            Key::Org(_) => {
                if let Some(org) = decoded::<OrgRecord, Organisation>(value) {
                    self.table.orgs.entry(org.id).or_default().quotas = org.quotas;
                }
            }
            _ => {}
        }
        if let Some(owner) = owner_of(key, value) {
            self.table.own(owner);
        }
    }

    /// Puts together what belongs together.
    pub fn into_holdings(self) -> Holdings {
        let Self { mut table, batches, quotes, used, active, uploads, parts } = self;
        for (quote, batch) in used {
            if let Some(org) = table.batches.get(&batch).map(|batch| batch.owned.org) {
                table.own(Owner::Quote(quote, org));
            }
        }
        for (upload, part, bytes) in parts {
            if let Some(org) = uploads.get(&upload) {
                table.own(Owner::Part(part, *org));
                table.count_part(part, 0, bytes);
            }
        }
        for (quote, bytes) in quotes {
            table.count_quote(quote, 0, bytes);
        }
        // An entry without any bytes belongs to a quote that is gone.
        table.quotes.retain(|_, quote| quote.bytes > 0);
        let Table { orgs, batches: of_batches, .. } = &mut table;
        for (id, OfBatch { owned: Owned { org, bytes }, .. }) in of_batches.iter_mut() {
            *bytes = batches.get(id).copied().unwrap_or(0);
            let held: &mut Held = orgs.entry(*org).or_default();
            held.bytes += *bytes;
            if active.contains(id) {
                held.active.insert(*id);
            }
        }
        Holdings(Arc::new(Mutex::new(table)))
    }
}
