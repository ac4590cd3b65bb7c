//! Accounts, reservations and receipts on disk, version 1.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::demands::operation;
use super::page::{pack_usage, unpack_usage};
use super::{Record, RecordError};
use crate::domain::id::OrgId;
use crate::domain::ledger::{Account, Credits, Reservation, Settlement};
use crate::domain::money::Usd;
use crate::domain::receipt::{LaneReceipt, Receipt};

type Amount = [u8; 16];

fn pack(amount: Usd) -> Amount {
    amount.0.serialize()
}

fn unpack(amount: Amount) -> Usd {
    Usd(Decimal::deserialize(amount))
}

/// Version 1 of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// What was granted; `None` if nothing needs to be.
    granted: Option<Amount>,
    reserved: Amount,
    charged: Amount,
}

impl Record for AccountRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "account";
}

impl From<&Account> for AccountRecord {
    fn from(account: &Account) -> Self {
        let granted = match account.credits {
            Credits::Unlimited => None,
            Credits::Prepaid(granted) => Some(pack(granted)),
        };
        Self { granted, reserved: pack(account.reserved), charged: pack(account.charged) }
    }
}

impl From<AccountRecord> for Account {
    fn from(record: AccountRecord) -> Self {
        let credits = record.granted.map_or(Credits::Unlimited, |granted| Credits::Prepaid(unpack(granted)));
        Self { credits, reserved: unpack(record.reserved), charged: unpack(record.charged) }
    }
}

/// Version 1 of what a batch reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRecord {
    org: u128,
    amount: Amount,
    fee: Amount,
    /// Reserved, charged, released, overrun.
    settlement: Option<[Amount; 4]>,
}

impl Record for ReservationRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "reservation";
}

impl From<&Reservation> for ReservationRecord {
    fn from(reservation: &Reservation) -> Self {
        let settled = |s: Settlement| [s.reserved, s.charged, s.released, s.overrun].map(pack);
        Self {
            org: reservation.org.as_u128(),
            amount: pack(reservation.amount),
            fee: reservation.fee.serialize(),
            settlement: reservation.settlement.map(settled),
        }
    }
}

impl From<ReservationRecord> for Reservation {
    fn from(record: ReservationRecord) -> Self {
        let settlement = record.settlement.map(|amounts| {
            let [reserved, charged, released, overrun] = amounts.map(unpack);
            Settlement { reserved, charged, released, overrun }
        });
        Self { org: OrgId::from_u128(record.org), amount: unpack(record.amount), fee: Decimal::deserialize(record.fee), settlement }
    }
}

/// Version 1 of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRecord(Vec<LaneRecord>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LaneRecord {
    provider: String,
    upstream: String,
    model: String,
    operation: Option<String>,
    items: u32,
    answered: u32,
    taken_over: u32,
    usage: [u64; 5],
    cost: Amount,
}

impl Record for ReceiptRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "receipt";
}

impl From<&Receipt> for ReceiptRecord {
    fn from(receipt: &Receipt) -> Self {
        let lane = |lane: &LaneReceipt| LaneRecord {
            provider: lane.provider.clone(),
            upstream: lane.upstream.clone(),
            model: lane.model.clone(),
            operation: lane.operation.map(|operation| operation.to_string()),
            items: lane.items,
            answered: lane.answered,
            taken_over: lane.taken_over,
            usage: pack_usage(&lane.usage),
            cost: pack(lane.cost),
        };
        Self(receipt.lanes.iter().map(lane).collect())
    }
}

impl TryFrom<ReceiptRecord> for Receipt {
    type Error = RecordError;

    fn try_from(record: ReceiptRecord) -> Result<Self, RecordError> {
        let lane = |lane: LaneRecord| {
            Ok(LaneReceipt {
                provider: lane.provider,
                upstream: lane.upstream,
                model: lane.model,
                operation: lane.operation.map(|word| operation::<ReceiptRecord>(&word)).transpose()?,
                items: lane.items,
                answered: lane.answered,
                taken_over: lane.taken_over,
                usage: unpack_usage(lane.usage),
                cost: unpack(lane.cost),
            })
        };
        Ok(Self { lanes: record.0.into_iter().map(lane).collect::<Result<_, RecordError>>()? })
    }
}
