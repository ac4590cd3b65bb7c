//! Accounts and receipts on disk, version 2, and reservations, version 1.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::constraints::operation;
use super::page::{pack_usage, unpack_usage};
use super::{Record, decode_old};
use crate::domain::id::OrgId;
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, Credits, Reservation, Settlement};
use crate::domain::org::quotas::{Spending, Spent};
use crate::domain::quote::receipt::{LaneReceipt, Receipt, Rows};
use crate::store::record::error::RecordError;

type Amount = [u8; 16];

fn pack(amount: Usd) -> Amount {
    amount.0.serialize()
}

fn unpack(amount: Amount) -> Usd {
    Usd(Decimal::deserialize(amount))
}

/// Version 2 of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    first: AccountRecord1,
    /// What was spent in the latest day and month with a charge.
    spent: [SpentRecord; 2],
}

/// The number of the period, the amount and the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SpentRecord(i32, Amount, u64);

impl From<Spent> for SpentRecord {
    fn from(spent: Spent) -> Self {
        Self(spent.period, pack(spent.usd), spent.tokens)
    }
}

impl From<SpentRecord> for Spent {
    fn from(SpentRecord(period, usd, tokens): SpentRecord) -> Self {
        Self { period, usd: unpack(usd), tokens }
    }
}

/// Version 1, from when it was not kept what was spent lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AccountRecord1 {
    /// The amount that was granted; `None` if the account needs no grant.
    granted: Option<Amount>,
    reserved: Amount,
    charged: Amount,
}

impl Record for AccountRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "account";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => Ok(Self { first: decode_old::<Self, _>(body)?, spent: [Spent::default().into(); 2] }),
            other => Err(RecordError::unknown::<Self>(other)),
        }
    }
}

impl From<&Account> for AccountRecord {
    fn from(account: &Account) -> Self {
        let granted = match account.credits {
            Credits::Unlimited => None,
            Credits::Prepaid(granted) => Some(pack(granted)),
        };
        let first = AccountRecord1 { granted, reserved: pack(account.reserved), charged: pack(account.charged) };
        Self { first, spent: [account.spending.day, account.spending.month].map(SpentRecord::from) }
    }
}

impl From<AccountRecord> for Account {
    fn from(AccountRecord { first: record, spent: [day, month] }: AccountRecord) -> Self {
        let credits = record.granted.map_or(Credits::Unlimited, |granted| Credits::Prepaid(unpack(granted)));
        let spending = Spending { day: day.into(), month: month.into() };
        Self { credits, reserved: unpack(record.reserved), charged: unpack(record.charged), spending }
    }
}

/// Version 1 of a batch's reservation.
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

/// Version 2 of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRecord {
    lanes: Vec<(LaneRecord, Ranges)>,
    unreadable: u32,
}

/// The first and the last of each range of rows; `None` if there are too many.
type Ranges = Option<Vec<(u32, u32)>>;

/// A lane of a receipt, the same in all versions.
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
    const VERSION: u8 = 2;
    const NAME: &'static str = "receipt";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            // Version 1 did not say which items they are.
            1 => {
                let lanes: Vec<LaneRecord> = decode_old::<Self, _>(body)?;
                Ok(Self { lanes: lanes.into_iter().map(|lane| (lane, None)).collect(), unreadable: 0 })
            }
            other => Err(RecordError::unknown::<Self>(other)),
        }
    }
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
        let rows = |lane: &LaneReceipt| lane.rows.as_ref().map(|rows| rows.ranges().to_vec());
        let lanes = receipt.lanes.iter().map(|each| (lane(each), rows(each))).collect();
        Self { lanes, unreadable: receipt.unreadable }
    }
}

impl TryFrom<ReceiptRecord> for Receipt {
    type Error = RecordError;

    fn try_from(record: ReceiptRecord) -> Result<Self, RecordError> {
        let lane = |(lane, rows): (LaneRecord, Ranges)| {
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
                rows: rows.map(Rows::from_ranges),
            })
        };
        let lanes = record.lanes.into_iter().map(lane).collect::<Result<_, RecordError>>()?;
        Ok(Self { lanes, unreadable: record.unreadable })
    }
}

#[cfg(test)]
mod tests {
    use bincode::Options as _;

    use super::super::{decode, encode, encode_body};
    use super::*;
    use crate::domain::id::RowIndex;

    /// What version 1 wrote.
    #[derive(Serialize, Deserialize)]
    struct First(Vec<LaneRecord>);

    impl Record for First {
        const VERSION: u8 = 1;
        const NAME: &'static str = "receipt";
    }

    #[test]
    fn accounts_of_both_versions_are_read() {
        let usd = |dollars: u32| Usd(dollars.into());
        let spending =
            Spending { day: Spent { period: 20_000, usd: usd(1), tokens: 7 }, month: Spent { period: 24_320, usd: usd(2), tokens: 9 } };
        let account = Account { credits: Credits::Prepaid(usd(9)), reserved: usd(3), charged: usd(2), spending };
        let record = AccountRecord::from(&account);
        assert_eq!(Account::from(decode::<AccountRecord>(&encode(&record).unwrap()).unwrap()), account);
        let first = [vec![1], super::super::options().serialize(&record.first).unwrap()].concat();
        let old = Account { spending: Spending::default(), ..account };
        assert_eq!(Account::from(decode::<AccountRecord>(&first).unwrap()), old);
    }

    #[test]
    fn receipts_of_both_versions_are_read() {
        let lane = LaneReceipt {
            provider: "p".into(),
            upstream: "u".into(),
            model: "m".into(),
            operation: None,
            items: 3,
            answered: 2,
            taken_over: 1,
            usage: Default::default(),
            cost: Usd(Decimal::ONE),
            rows: [0, 1, 5].into_iter().try_fold(Rows::default(), |rows, row| rows.and(RowIndex(row))),
        };
        let receipt = Receipt { lanes: vec![lane.clone()], unreadable: 2 };
        let record = ReceiptRecord::from(&receipt);
        let read = |bytes: &[u8]| Receipt::try_from(decode::<ReceiptRecord>(bytes).unwrap()).unwrap();
        assert_eq!(read(&encode(&record).unwrap()), receipt);
        let first = First(record.lanes.into_iter().map(|(lane, _)| lane).collect());
        let old = Receipt { lanes: vec![LaneReceipt { rows: None, ..lane }], unreadable: 0 };
        assert_eq!(read(&[vec![1], encode_body(&first).unwrap()].concat()), old);
    }
}
