//! Quotas of organisations: setting them, how much of them is used, and refusing what exceeds them.
//!
//! A refusal is part of the write that it refuses, so that many requests at once cannot exceed a
//! quota together. What nobody can know before it is there, such as results, is kept in any case;
//! the next request is then refused.

use super::Store;
use super::format;
use super::ledger::account_at;
use super::live::Lives;
use super::op::Tx;
use super::record::page::Page;
use super::tree::Tree;
use crate::domain::batch::BatchSpec;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::quotas::{Limit, Quotas, Used, to_micros};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;

/// What a write needs of a limit.
pub type Ask = (Limit, u64);

impl Store {
    /// The quotas of an organisation, from memory.
    pub fn quotas(&self, org: OrgId) -> Quotas {
        self.inner.tree.holdings().map_or(Quotas::NONE, |holdings| holdings.quotas(org))
    }

    /// How much of each quota an organisation uses; requests and calls are not counted here.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn quotas_used(&self, org: OrgId, now: Timestamp) -> Result<Used, StoreError> {
        let mut all = Used::default();
        for limit in Limit::ALL {
            all.set(limit, used(&self.inner.tree, &self.inner.lives, org, limit, now)?);
        }
        // What is shown must survive, results included.
        self.settle().await?;
        Ok(all)
    }

    /// Refuses early what its write would refuse, before anything is read or kept for it.
    ///
    /// # Errors
    /// [`StoreError::Quota`] when a quota has no room for it, or when the store has failed.
    pub fn check_quotas(&self, org: OrgId, asks: &[Ask], now: Timestamp) -> Result<(), StoreError> {
        admit_in(&self.inner.tree, &self.inner.lives, org, asks, now)
    }
}

/// Refuses a write for which a quota of the organisation has no room.
pub(super) fn admit(tx: &Tx<'_>, org: OrgId, asks: &[Ask], now: Timestamp) -> Result<(), StoreError> {
    admit_in(tx.tree(), tx.lives, org, asks, now)
}

/// Refuses a write with all that it has gathered and `content` bytes in files beside it, if that
/// is more than the organisation may store.
pub(super) fn admit_bytes(tx: &Tx<'_>, org: OrgId, content: u64, now: Timestamp) -> Result<(), StoreError> {
    admit(tx, org, &[(Limit::StoredBytes, content.saturating_add(tx.writes.bytes() as u64))], now)
}

/// Refuses to queue the rows of a batch, as many as its input turned out to have.
pub(super) fn admit_rows(tx: &Tx<'_>, batch: BatchId, rows: u32) -> Result<(), StoreError> {
    let Some(holdings) = tx.tree().holdings() else { return Ok(()) };
    let Some(org) = holdings.owner(batch) else { return Ok(()) };
    if holdings.quotas(org).get(Limit::Rows).is_none() {
        return Ok(());
    }
    // Rows that were announced at the create are among those that are queued.
    holdings.set_rows(batch, 0);
    admit(tx, org, &[(Limit::Rows, rows.into())], Timestamp::UNIX_EPOCH)
}

/// Notes the rows that a new batch announces; they count before the batch is looked at.
pub(super) fn announce(tx: &Tx<'_>, spec: &BatchSpec, rows: u32) {
    if let Some(holdings) = tx.tree().holdings().filter(|_| spec.org != OrgId::OPERATOR) {
        holdings.announce(spec.id, spec.org, rows);
    }
}

/// Notes how many rows a batch has, which are queued until they have a result.
pub(super) fn note_rows(tree: &Tree, batch: BatchId, pages: &[Page]) {
    if let Some(holdings) = tree.holdings() {
        holdings.set_rows(batch, pages.iter().map(|page| u32::from(page.rows)).fold(0, u32::saturating_add));
    }
}

fn admit_in(tree: &Tree, lives: &Lives, org: OrgId, asks: &[Ask], now: Timestamp) -> Result<(), StoreError> {
    let Some(holdings) = tree.holdings() else { return Ok(()) };
    let quotas = holdings.quotas(org);
    for (limit, asked) in asks.iter().filter(|(limit, _)| quotas.get(*limit).is_some()) {
        quotas.admit(*limit, used(tree, lives, org, *limit, now)?, *asked, now)?;
    }
    Ok(())
}

/// How much an organisation uses of what a limit counts.
fn used(tree: &Tree, lives: &Lives, org: OrgId, limit: Limit, now: Timestamp) -> Result<u64, StoreError> {
    let Some(holdings) = tree.holdings() else { return Ok(0) };
    let spending = || Ok::<_, StoreError>(account_at(tree, org)?.spending.at(now));
    Ok(match limit {
        Limit::StoredBytes => holdings.bytes(org),
        Limit::Batches => holdings.batches(org),
        Limit::Rows => holdings.rows(org, lives),
        Limit::DollarsADay => to_micros(spending()?.day.usd.plus(unsettled(tree, lives, org)?)),
        Limit::DollarsAMonth => to_micros(spending()?.month.usd.plus(unsettled(tree, lives, org)?)),
        Limit::TokensADay => spending()?.day.tokens.saturating_add(running_tokens(tree, lives, org)),
        Limit::TokensAMonth => spending()?.month.tokens.saturating_add(running_tokens(tree, lives, org)),
        Limit::Requests | Limit::Calls => 0,
    })
}

/// What the batches of an organisation that have not ended reserve, and what those without a
/// reservation have cost so far.
fn unsettled(tree: &Tree, lives: &Lives, org: OrgId) -> Result<Usd, StoreError> {
    let mut open = account_at(tree, org)?.reserved;
    for batch in tree.holdings().map_or_else(Vec::new, |holdings| holdings.active(org)) {
        let Some(live) = lives.get(batch) else { continue };
        if !tree.contains_key(format::reservation(batch))? {
            open = open.plus(live.progress().cost);
        }
    }
    Ok(open)
}

/// The tokens so far of batches that have not ended.
fn running_tokens(tree: &Tree, lives: &Lives, org: OrgId) -> u64 {
    let active = tree.holdings().map_or_else(Vec::new, |holdings| holdings.active(org));
    let tokens = active.into_iter().filter_map(|batch| lives.get(batch)).map(|live| live.progress().usage.total_tokens());
    tokens.fold(0, u64::saturating_add)
}
