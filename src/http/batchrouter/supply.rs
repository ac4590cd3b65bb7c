//! What an offering can take now: the live part of the catalog.

use serde::Serialize;

use crate::catalog::{Capacity, Offer};
use crate::domain::time::{Timestamp, later};
use crate::executor::LaneReport;
use crate::http::views::Live;

/// How long an answer of a provider shows that it is there, in seconds: what a supplier of BatchRouter
/// declared for its heartbeat.
const HEARTBEAT_SECONDS: u64 = 120;

/// What of an offering's supply is known from the catalog; the rest is live.
#[derive(Debug, Clone)]
pub struct Supply {
    provider: String,
    upstream: String,
    takes_work: bool,
    capacity: Capacity,
}

/// What a lane can take now.
#[derive(Serialize)]
struct SupplyObject {
    capacity_status: &'static str,
    available_queue_items: u64,
    available_queue_tokens: u64,
    capacity_freshness: Freshness,
}

#[derive(Serialize)]
struct Freshness {
    status: &'static str,
    last_heartbeat_at: Option<String>,
    ttl_seconds: u64,
}

impl Supply {
    /// What is known from the catalog.
    pub fn of(offer: &Offer<'_>) -> Self {
        Self {
            provider: offer.provider.id().to_owned(),
            upstream: offer.offering.upstream.clone(),
            takes_work: offer.takes_work(),
            capacity: offer.offering.capacity,
        }
    }

    fn report(&self, live: &Live<'_>) -> LaneReport {
        live.board.lane(&self.provider, &self.upstream)
    }

    fn room(&self, report: &LaneReport) -> (u64, u64) {
        if !self.takes_work {
            return (0, 0);
        }
        let Capacity { queue_items, queue_tokens } = self.capacity;
        (queue_items.saturating_sub(report.queued_rows), queue_tokens.saturating_sub(report.queued_tokens))
    }

    /// Routable right now.
    pub fn is_available(&self, live: &Live<'_>) -> bool {
        let report = self.report(live);
        let (items, tokens) = self.room(&report);
        self.takes_work && !live.board.draining && !report.unreachable && items > 0 && tokens > 0
    }

    /// Appends the live fields, without braces.
    pub fn write(&self, live: &Live<'_>, out: &mut Vec<u8>) -> Option<Timestamp> {
        let report = self.report(live);
        let (available_queue_items, available_queue_tokens) = self.room(&report);
        let capacity_status = match (self.takes_work, live.board.draining) {
            (false, _) => "paused",
            (true, true) => "draining",
            (true, false) => "active",
        };
        let fresh_until = report.last_answer.map(|at| later(at, std::time::Duration::from_secs(HEARTBEAT_SECONDS)));
        let fresh = fresh_until.filter(|until| live.now < *until);
        // A lane that nobody asked for a while is not stale: nobody knows, and it is routed to.
        let status = match (report.unreachable, fresh) {
            (true, _) => "stale_heartbeat",
            (false, Some(_)) => "fresh",
            (false, None) => "unknown",
        };
        let last_heartbeat_at = report.last_answer.map(|at| at.to_string());
        let capacity_freshness = Freshness { status, last_heartbeat_at, ttl_seconds: HEARTBEAT_SECONDS };
        let object = SupplyObject { capacity_status, available_queue_items, available_queue_tokens, capacity_freshness };
        let json = serde_json::to_vec(&object).unwrap_or_default();
        out.extend_from_slice(json.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).unwrap_or(&json));
        fresh
    }
}
