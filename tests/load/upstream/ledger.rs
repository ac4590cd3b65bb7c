//! Decides which calls are taken and which are refused, and counts both.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Kind, Limit};

/// The counts of an upstream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Calls that have no answer yet, and the most at any time.
    pub open: u64,
    pub most_open: u64,
    pub tallies: Vec<Tally>,
}

/// The calls of one model and one user.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tally {
    pub model: String,
    pub mark: String,
    pub accepted: u64,
    pub refused: u64,
}

impl Counts {
    /// Calls accepted and refused for the wanted models and users.
    pub fn of(&self, wanted: impl Fn(&Tally) -> bool) -> (u64, u64) {
        let tallies = self.tallies.iter().filter(|tally| wanted(tally));
        tallies.fold((0, 0), |(accepted, refused), tally| (accepted + tally.accepted, refused + tally.refused))
    }

    /// All calls, accepted and refused.
    pub fn all(&self) -> (u64, u64) {
        self.of(|_| true)
    }
}

/// Counts calls and enforces the limit.
pub struct Ledger {
    limit: Option<Limit>,
    gates: Vec<Gate>,
    counts: Counts,
}

/// The limit of one model.
struct Gate {
    model: String,
    /// Calls that the model still takes.
    left: f64,
    /// The moment when `left` was last refilled.
    filled: Instant,
}

impl Ledger {
    pub fn new(limit: Option<Limit>) -> Self {
        Self { limit, gates: Vec::new(), counts: Counts::default() }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Records an incoming call; returns whether it is taken.
    pub fn begin(&mut self, body: &[u8], now: Instant) -> bool {
        let (model, mark) = (field(body, b"\"model\":\""), field(body, b"\"user\":\""));
        let taken = self.limit.is_none_or(|limit| self.gate(model, limit, now).take(limit, now));
        let tally = self.tally(model, mark);
        if taken {
            tally.accepted += 1;
        } else {
            tally.refused += 1;
        }
        self.counts.open += 1;
        self.counts.most_open = self.counts.most_open.max(self.counts.open);
        taken
    }

    /// Records that a call gets its answer.
    pub fn end(&mut self) {
        self.counts.open -= 1;
    }

    fn gate(&mut self, model: &str, limit: Limit, now: Instant) -> &mut Gate {
        let known = self.gates.iter().position(|gate| gate.model == model);
        let index = known.unwrap_or_else(|| {
            self.gates.push(Gate { model: model.to_owned(), left: limit.most(), filled: now });
            self.gates.len() - 1
        });
        &mut self.gates[index]
    }

    fn tally(&mut self, model: &str, mark: &str) -> &mut Tally {
        let tallies = &mut self.counts.tallies;
        let known = tallies.iter().position(|tally| tally.model == model && tally.mark == mark);
        let index = known.unwrap_or_else(|| {
            tallies.push(Tally { model: model.to_owned(), mark: mark.to_owned(), ..Tally::default() });
            tallies.len() - 1
        });
        &mut tallies[index]
    }
}

impl Limit {
    /// The most calls that are taken at once.
    fn most(self) -> f64 {
        match self.kind {
            Kind::Bucket { burst } => burst.max(1) as f64,
            Kind::Windows { length } => self.rate as f64 * length.as_secs_f64(),
        }
    }
}

impl Gate {
    fn take(&mut self, limit: Limit, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        match limit.kind {
            Kind::Bucket { .. } => {
                self.left = (self.left + passed.as_secs_f64() * limit.rate as f64).min(limit.most());
                self.filled = now;
            }
            Kind::Windows { length } => {
                let windows = passed.as_nanos() / length.as_nanos().max(1);
                if windows > 0 {
                    self.left = limit.most();
                    self.filled += length.saturating_mul(u32::try_from(windows).unwrap_or(u32::MAX));
                }
            }
        }
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }
}

/// The text of a key, found without parsing: only this benchmark writes these bodies.
fn field<'a>(body: &'a [u8], key: &[u8]) -> &'a str {
    let Some(start) = memchr::memmem::find(body, key).map(|at| at + key.len()) else { return "" };
    let length = memchr::memchr(b'"', &body[start..]).unwrap_or(0);
    std::str::from_utf8(&body[start..start + length]).unwrap_or_default()
}
