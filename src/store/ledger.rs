//! The ledger: the credits of organisations, what their batches reserve, and what they were
//! charged.
//!
//! A reservation is written in one step with the creation of its batch, and settled in one step
//! with the batch's end: whatever happens in between, the account is the sum of its batches.

use super::Store;
use super::format;
use super::op::Tx;
use super::record::ledger::{AccountRecord, ReceiptRecord, ReservationRecord};
use super::record::{self, Record};
use super::tree::Tree;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, Credits, Reservation, Shortfall};
use crate::domain::org::quotas::Spending;
use crate::domain::quote::receipt::Receipt;
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;

impl Store {
    /// The account of an organisation; unlimited credits if none were ever set.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn account(&self, org: OrgId) -> Result<Account, StoreError> {
        let found = self.read::<AccountRecord>(&format::account(org))?;
        self.await_durable().await?;
        Ok(found.map(Account::from).unwrap_or_default())
    }

    /// Sets what an organisation may spend, or grants it more: `change` makes the new credits from
    /// the old account. Returns the account after the change.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn change_credits(
        &self,
        org: OrgId,
        change: impl FnOnce(&Account) -> Credits + Send + 'static,
    ) -> Result<Account, StoreError> {
        self.commit(move |tx| {
            let account = account_in(tx, org)?;
            let account = Account { credits: change(&account), ..account };
            tx.put(format::account(org), &AccountRecord::from(&account))?;
            Ok(account)
        })
        .await
    }

    /// What a batch reserved, and how that was settled; `None` for a batch without items.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn reservation(&self, batch: BatchId) -> Result<Option<Reservation>, StoreError> {
        let found = self.read::<ReservationRecord>(&format::reservation(batch))?;
        self.await_durable().await?;
        Ok(found.map(Reservation::from))
    }

    /// Where the items of a batch ran; `None` before it has ended, and for batches without items.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn receipt(&self, batch: BatchId) -> Result<Option<Receipt>, StoreError> {
        let store = self.clone();
        let found = super::blocking(move || store.read_blob::<ReceiptRecord>(batch, format::Blob::Receipt)).await?;
        self.await_durable().await?;
        Ok(found.map(Receipt::try_from).transpose()?)
    }

    fn read<T: Record>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        Ok(self.inner.tree.get(key)?.map(|bytes| record::decode::<T>(&bytes)).transpose()?)
    }
}

pub(super) fn account_at(tree: &Tree, org: OrgId) -> Result<Account, StoreError> {
    let found = tree.get(format::account(org))?.map(|bytes| record::decode::<AccountRecord>(&bytes)).transpose()?;
    Ok(found.map(Account::from).unwrap_or_default())
}

fn account_in(tx: &Tx<'_>, org: OrgId) -> Result<Account, StoreError> {
    account_at(tx.tree(), org)
}

/// Reserves credits for a new batch; changes nothing if they do not suffice.
pub(super) fn reserve(tx: &mut Tx<'_>, batch: BatchId, reservation: Reservation) -> Result<Result<(), Shortfall>, StoreError> {
    let account = match account_in(tx, reservation.org)?.reserve(reservation.amount) {
        Ok(account) => account,
        Err(shortfall) => return Ok(Err(shortfall)),
    };
    tx.put(format::account(reservation.org), &AccountRecord::from(&account))?;
    tx.put(format::reservation(batch), &ReservationRecord::from(&reservation))?;
    Ok(Ok(()))
}

/// Raises the reservation of a batch to `amount`; changes nothing if the credits do not suffice, or
/// if the batch reserves as much already.
pub(super) fn raise(tx: &mut Tx<'_>, batch: BatchId, amount: Usd) -> Result<Result<(), Shortfall>, StoreError> {
    let key = format::reservation(batch);
    let Some(reservation) = tx.get::<ReservationRecord>(&key)?.map(Reservation::from) else { return Ok(Ok(())) };
    if reservation.settlement.is_some() || reservation.amount >= amount {
        return Ok(Ok(()));
    }
    let more = Usd(amount.0.saturating_sub(reservation.amount.0));
    let account = match account_in(tx, reservation.org)?.reserve(more) {
        Ok(account) => account,
        Err(shortfall) => return Ok(Err(shortfall)),
    };
    tx.put(format::account(reservation.org), &AccountRecord::from(&account))?;
    tx.put(key, &ReservationRecord::from(&Reservation { amount, ..reservation }))?;
    Ok(Ok(()))
}

/// What a batch that ends has cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    /// What its providers charge.
    pub cost: Usd,
    pub tokens: u64,
    pub at: Timestamp,
}

/// Settles the reservation of a batch that ends now, if it has one, and counts what it cost in the
/// day and the month of its organisation.
pub(super) fn close(tx: &mut Tx<'_>, batch: BatchId, charge: Charge) -> Result<(), StoreError> {
    let Charge { cost, tokens, at } = charge;
    if tx.tree().contains_key(format::reservation(batch))? {
        return settle_with(tx, batch, cost, |account, charged| account.spending.plus(at, charged, tokens));
    }
    let owner = tx.tree().holdings().and_then(|holdings| holdings.owner(batch));
    let Some(org) = owner.filter(|_| !cost.is_zero() || tokens > 0) else { return Ok(()) };
    let account = account_in(tx, org)?;
    let account = Account { spending: account.spending.plus(at, cost, tokens), ..account };
    tx.put(format::account(org), &AccountRecord::from(&account))
}

/// Settles the reservation of a batch that ends: its providers charge `cost`. Does nothing if the
/// batch has no reservation.
pub(super) fn settle(tx: &mut Tx<'_>, batch: BatchId, cost: Usd) -> Result<(), StoreError> {
    settle_with(tx, batch, cost, |account, _| account.spending)
}

/// Settles a reservation; `spent` makes the account's new spending of the account and the charge.
fn settle_with(tx: &mut Tx<'_>, batch: BatchId, cost: Usd, spent: impl FnOnce(&Account, Usd) -> Spending) -> Result<(), StoreError> {
    let key = format::reservation(batch);
    let Some(reservation) = tx.get::<ReservationRecord>(&key)?.map(Reservation::from) else { return Ok(()) };
    if reservation.settlement.is_some() {
        return Ok(());
    }
    let (account, settlement) = account_in(tx, reservation.org)?.settle(&reservation, cost);
    let account = Account { spending: spent(&account, settlement.charged), ..account };
    tx.put(format::account(reservation.org), &AccountRecord::from(&account))?;
    tx.put(key, &ReservationRecord::from(&Reservation { settlement: Some(settlement), ..reservation }))?;
    Ok(())
}
