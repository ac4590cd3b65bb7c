//! Limits the quotes that are made at the same time. Each takes up to a second of a core, and a
//! multiple of its request's size in memory while it is made.
//!
//! Invariant: the next turn goes to the organisation with the fewest turns, so that what waits for one
//! of them never delays another by more than the turn that is being taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::id::OrgId;
use crate::flow::places::Places;
use crate::service::ServiceError;

/// The most quotes that are made at the same time.
const TURNS: usize = 2;
/// The most quotes that are looked at at the same time. Each may be some megabytes, and several
/// times that once it is parsed.
const LOOKS: usize = 4;

/// Bounds the quotes that are made or looked at at the same time.
#[derive(Debug)]
pub struct QuoteTurns {
    turns: FairTurns,
    looks: FairTurns,
}

impl Default for QuoteTurns {
    fn default() -> Self {
        Self { turns: FairTurns::new(TURNS), looks: FairTurns::new(LOOKS) }
    }
}

impl QuoteTurns {
    /// Permission to look at a quote of an organisation, as long as the turn is kept.
    pub async fn look(&self, org: OrgId) -> Turn {
        self.looks.turn(org).await
    }

    /// Runs slow work for an organisation when its turn has come, on a thread of its own. The work
    /// continues, and keeps its turn, when the client goes away.
    ///
    /// # Errors
    /// Errors of `work`, or when `work` has panicked.
    pub async fn take<T, E>(&self, org: OrgId, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ServiceError> + Send + 'static,
    {
        let (turn, span) = (self.turns.turn(org).await, tracing::Span::current());
        let work = move || {
            let _turn = turn;
            span.in_scope(work)
        };
        tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?
    }
}

/// A number of turns, shared by organisation.
#[derive(Debug)]
struct FairTurns(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    places: Places<u64, OrgId, ()>,
    /// By ticket: who waits.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    tickets: u64,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    line: Arc<Mutex<Line>>,
    ticket: u64,
}

impl FairTurns {
    fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { places: Places::new(most), waiting: HashMap::new(), tickets: 0 })))
    }

    /// Waits for a turn. Who stops waiting gives the ticket back.
    async fn turn(&self, org: OrgId) -> Turn {
        let (turn, comes) = {
            let mut line = lock(&self.0);
            let (sender, comes) = oneshot::channel();
            line.tickets += 1;
            let ticket = line.tickets;
            line.waiting.insert(ticket, sender);
            line.places.put(ticket, org, (), false);
            line.call();
            (Turn { line: self.0.clone(), ticket }, comes)
        };
        // The sender is dropped only with the ticket.
        let _ = comes.await;
        turn
    }
}

impl Line {
    /// Calls those whose turn it is.
    fn call(&mut self) {
        while let Some(ticket) = self.places.give() {
            if let Some(waits) = self.waiting.remove(&ticket) {
                let _ = waits.send(());
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = lock(&self.line);
        line.waiting.remove(&self.ticket);
        line.places.remove(self.ticket);
        line.call();
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_one_organisation_delays_no_other() {
        let turns = FairTurns::new(2);
        let (many, few) = (OrgId::from_u128(1), OrgId::from_u128(2));
        let (one, two) = (turns.turn(many).await, turns.turn(many).await);
        let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(turns.turn(many))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let mut other = Box::pin(turns.turn(few));
        assert!(other.as_mut().now_or_never().is_none());
        drop(one);
        let other = other.as_mut().now_or_never().expect("the next turn");
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        // Who goes away gives the ticket back; the others follow in their order.
        drop(waiting.remove(0));
        drop((two, other));
        let called: Vec<_> = waiting.iter_mut().map(|turn| turn.as_mut().now_or_never()).collect();
        assert_eq!(called.iter().map(Option::is_some).collect::<Vec<_>>()[..3], [true, true, false]);
        drop((called, waiting));
        let line = lock(&turns.0);
        assert_eq!((line.places.held(), line.waiting.len()), (0, 0));
    }
}
