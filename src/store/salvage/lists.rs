//! Rebuilds the lists that lead to the copied records.

use std::time::Duration;

use super::super::examine::{Examined, examine};
use super::super::format::{self, ExpiryKind};
use super::super::key::{self, Key};
use super::Salvage;
use super::copy::Copied;
use crate::domain::id::EventId;
use crate::domain::time::later;
use crate::store::error::StoreError;
use crate::store::format::seconds;

/// How long an idempotency key is kept when the time of its use is unknown: the longest that any
/// key is kept.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How long an expired quote is remembered.
const REMEMBERED: Duration = Duration::from_secs(86_400);

impl Salvage<'_> {
    pub(super) fn make_lists(&mut self, copied: &Copied) -> Result<(), StoreError> {
        self.list_keys()?;
        self.list_deliveries(copied)?;
        self.list_expiries(copied)?;
        self.out.write()
    }

    /// Rebuilds the lists of client keys, by organisation and by key id.
    fn list_keys(&mut self) -> Result<(), StoreError> {
        let tree = self.out.tree.clone();
        for entry in tree.scan_prefix(format::key_at(&[])) {
            let (at, value) = entry?;
            let Some((place @ Key::Access(digest), _)) = key::parse(&at) else { continue };
            if let Ok(Examined::ApiKey(found)) = examine(&place, &value) {
                self.out.writes.insert(format::key_of(found.org, found.id), digest.as_slice());
                self.out.writes.insert(format::owner_of_key(found.id), &found.org.as_u128().to_be_bytes());
                self.out.write_much()?;
            }
        }
        Ok(())
    }

    /// Rebuilds the list of when messages are due.
    fn list_deliveries(&mut self, copied: &Copied) -> Result<(), StoreError> {
        for id in &copied.deliveries {
            if let Some(Examined::Delivery(delivery)) = self.read_chunks(Key::Delivery(*id), &format::delivery(*id))? {
                let key = format::delivery_due(delivery.org, seconds(delivery.due_at), EventId::from_u128(id.as_u128()));
                self.out.writes.insert(key, &delivery.route().host.to_be_bytes());
                self.out.write_much()?;
            }
        }
        Ok(())
    }

    fn read_chunks(&self, key: Key, prefix: &[u8]) -> Result<Option<Examined>, StoreError> {
        let mut bytes = Vec::new();
        for entry in self.out.tree.scan_prefix(prefix) {
            bytes.extend_from_slice(&entry?.1);
        }
        Ok(examine(&key, &bytes).ok())
    }

    /// Adds missing expiry entries, and removes idempotency keys that lead to lost batches.
    fn list_expiries(&mut self, copied: &Copied) -> Result<(), StoreError> {
        for (digest, batch) in &copied.idempotency {
            let is_there = match batch {
                Some(batch) => self.out.tree.contains_key(format::batch(*batch))?,
                // The key stays used, although its batch was deleted.
                None => true,
            };
            if !is_there {
                // A client that asks again gets a new batch.
                self.out.writes.remove(format::idempotency(digest));
                self.remove_expiry(Key::ExpiryOfIdempotency(*digest))?;
            } else if !copied.expiring.contains(&Key::ExpiryOfIdempotency(*digest)) {
                let at = seconds(later(self.now, LIFETIME));
                self.out.writes.insert(format::expiry(at, ExpiryKind::IdempotencyKey, digest), b"".as_slice());
            }
        }
        for (id, upload) in &copied.uploads {
            if !copied.expiring.contains(&Key::ExpiryOfUpload(*id)) {
                let key = format::expiry(seconds(upload.expires_at), ExpiryKind::Upload, &id.as_u128().to_be_bytes());
                self.out.writes.insert(key, b"".as_slice());
            }
        }
        for (id, valid_until) in &copied.quotes {
            let is_used = self.out.tree.contains_key(format::used_quote(*id))?;
            if !is_used && !copied.expiring.contains(&Key::ExpiryOfQuote(*id)) {
                let key = format::expiry(seconds(later(*valid_until, REMEMBERED)), ExpiryKind::Quote, &id.as_u128().to_be_bytes());
                self.out.writes.insert(key, b"".as_slice());
            }
        }
        Ok(())
    }

    fn remove_expiry(&mut self, wanted: Key) -> Result<(), StoreError> {
        let tree = self.out.tree.clone();
        for key in tree.scan_prefix(format::EXPIRY).keys() {
            let key = key?;
            if key::parse(&key).is_some_and(|(found, _)| found == wanted) {
                self.out.writes.remove(key.to_vec());
            }
        }
        Ok(())
    }
}
