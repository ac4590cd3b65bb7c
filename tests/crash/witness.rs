//! A record of everything that was shown of a batch; the daemon must take none of it back.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rust_decimal::Decimal;
use serde_json::Value;

use super::support::api::counts;

/// Everything the daemon has ever shown of one batch; fails when the daemon takes something back.
pub struct Witness {
    /// Number of rows of its input.
    rows: usize,
    rank: u8,
    total: u64,
    pub completed: u64,
    pub failed: u64,
    cost: Decimal,
    /// Hash of each line ever shown, by custom id.
    pub lines: HashMap<String, u64>,
    pub looks: u64,
}

impl Witness {
    /// A witness of a batch with this many rows.
    pub fn of(rows: usize) -> Self {
        Self { rows, rank: 0, total: 0, completed: 0, failed: 0, cost: Decimal::ZERO, lines: HashMap::new(), looks: 0 }
    }

    pub fn see_batch(&mut self, batch: &Value) {
        let (total, completed, failed) = counts(batch);
        let rank = match batch["status"].as_str() {
            Some("validating") => 0,
            Some("in_progress") => 1,
            Some("finalizing") => 2,
            Some("completed") => 3,
            _ => panic!("an unexpected state: {batch}"),
        };
        let cost = dollars(&batch["batchd"]["cost_usd"]);
        let before = (self.rank, self.total, self.completed, self.failed, self.cost);
        assert!(
            rank >= self.rank && total >= self.total && completed >= self.completed && failed >= self.failed && cost >= self.cost,
            "something shown was taken back: {before:?}, then {batch}"
        );
        assert!(rank == 0 || total == self.rows as u64, "{batch}");
        (self.rank, self.total, self.completed, self.failed, self.cost) = (rank, total, completed, failed, cost);
        self.looks += 1;
    }

    /// Remembers complete lines; a stream that a kill has cut may end in the middle of a line.
    pub fn see_lines(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
            let hash = hash(line);
            let id = custom_id(line);
            if let Some(earlier) = self.lines.get(&id) {
                assert_eq!(*earlier, hash, "row {id} was shown with another result before: {}", String::from_utf8_lossy(line));
            } else {
                self.lines.insert(id, hash);
            }
        }
    }
}

/// An amount as the API writes it.
pub fn dollars(amount: &Value) -> Decimal {
    amount.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{amount} is no amount"))
}

fn hash(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

pub fn custom_id(line: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        custom_id: String,
    }
    let named: Named = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(line)));
    named.custom_id
}
