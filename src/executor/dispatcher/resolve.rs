//! Looks up the names behind which there may be several servers of the operator's own, again and
//! again, so that a server that joins or leaves is noticed. Calls never wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Event};
use crate::executor::lane::addresses::{Found, NameOf};

/// How often a name is looked up, and how often while a server behind it cannot be reached.
const TIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));
/// How long the answer may take: longer than resolvers try by themselves.
const BUDGET: Duration = Duration::from_secs(30);

/// The outcome of a look-up.
#[derive(Debug)]
pub(in crate::executor) struct Resolved {
    name: NameOf,
    found: Found,
}

impl Dispatcher {
    /// Looks up the names that are due.
    pub(super) fn resolve(&mut self) {
        if self.draining {
            return;
        }
        for (name, asked) in self.lanes.names_due(Instant::now(), TIMES) {
            let Some(answer) = asked.addresses() else { continue };
            let events = self.events.clone();
            self.tasks.spawn(async move {
                let found = match tokio::time::timeout(BUDGET, answer).await {
                    Ok(found) => found.map_err(|error| Arc::from(error.to_string())),
                    Err(_) => Err("there is no answer".into()),
                };
                // The dispatcher is gone only if the daemon stops.
                let _ = events.send(Event::Resolved(Resolved { name, found }));
            });
        }
    }

    pub(super) fn resolved(&mut self, Resolved { name, found }: Resolved) {
        if self.lanes.on_found(&name, found) {
            self.ways_changed();
        }
    }
}
