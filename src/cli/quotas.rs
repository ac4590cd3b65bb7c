//! Quotas, as `batchd orgs quotas` and `batchd keys quotas` take and show them.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::output::{CommandRefused, put, table};
use super::remote::RemoteArgs;
use crate::client::Client;
use crate::domain::org::quotas::Limit;

/// A quota to set, or to lift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaSetting {
    limit: Limit,
    /// JSON null lifts the quota.
    amount: Value,
}

/// The text is not a quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoQuota {
    #[error("must be a quota and its amount, such as `batches_at_a_time=10`, or `none` as the amount to lift it")]
    NoAmount,
    #[error("there is no quota `{0}`; there are {1}")]
    Unknown(String, String),
    #[error("the amount of `{0}` must be a whole number, or `none` to lift it")]
    NotWhole(&'static str),
}

impl FromStr for QuotaSetting {
    type Err = NoQuota;

    fn from_str(text: &str) -> Result<Self, NoQuota> {
        let (name, amount) = text.split_once('=').ok_or(NoQuota::NoAmount)?;
        let limit = Limit::ALL.into_iter().find(|limit| limit.as_str() == name).ok_or_else(|| {
            let all: Vec<_> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
            NoQuota::Unknown(name.to_owned(), all.join(", "))
        })?;
        let amount = match amount {
            "none" => Value::Null,
            // The daemon reads amounts of money to their last digit.
            amount if limit.is_money() => json!(amount),
            amount => json!(amount.parse::<u64>().map_err(|_| NoQuota::NotWhole(limit.as_str()))?),
        };
        Ok(Self { limit, amount })
    }
}

/// Changes the quotas at a route below an organisation if there is anything to change, and shows
/// them.
pub async fn run(client: &Client, org: &str, route: &str, set: &[QuotaSetting], remote: &RemoteArgs) -> Result<u8, CommandRefused> {
    let wish: Map<_, _> = set.iter().map(|set| (set.limit.as_str().to_owned(), set.amount.clone())).collect();
    let shown = match wish.is_empty() {
        true => client.quotas(org, route).await?,
        false => client.change_organisation(org, route, &Value::Object(wish)).await?,
    };
    put(&if remote.json { shown.to_string() } else { render(&shown["quotas"]) })?;
    Ok(0)
}

fn render(quotas: &Value) -> String {
    let cell =
        |value: &Value| value.as_str().map_or_else(|| if value.is_null() { "-".to_owned() } else { value.to_string() }, str::to_owned);
    let row = |limit: &Limit| {
        let quota = quotas.get(limit.as_str())?;
        Some(vec![limit.as_str().to_owned(), cell(&quota["limit"]), cell(&quota["used"])])
    };
    table(&["quota", "limit", "used"], Limit::ALL.iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_name_and_an_amount_or_none() {
        let read = |text: &str| text.parse::<QuotaSetting>().map(|set| (set.limit, set.amount));
        assert_eq!(read("rows_queued=10"), Ok((Limit::Rows, json!(10))));
        assert_eq!(read("usd_per_month=12.50"), Ok((Limit::DollarsAMonth, json!("12.50"))));
        assert_eq!(read("stored_bytes=none"), Ok((Limit::StoredBytes, Value::Null)));
        assert_eq!(read("rows_queued"), Err(NoQuota::NoAmount));
        assert_eq!(read("rows_queued=-1"), Err(NoQuota::NotWhole("rows_queued")));
        assert!(read("rows=1").unwrap_err().to_string().starts_with("there is no quota `rows`; there are requests_per_minute, "));
    }

    #[test]
    fn quotas_are_a_table() {
        let quotas = json!({
            "batches_at_a_time": { "limit": 10, "used": 3 },
            "usd_per_day": { "limit": "2.500000", "used": "0.100000" },
            "stored_bytes": { "limit": null, "used": 12_345 },
        });
        insta::assert_snapshot!(render(&quotas));
    }
}
