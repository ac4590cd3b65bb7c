//! How a call gets a connection where none is free: it opens one, at the pace of the [`Ramp`], and takes
//! one that becomes free meanwhile if that is slow.
//!
//! [`Ramp`]: super::ramp::Ramp

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connect::BoxError;
use super::link::Link;
use super::pool::Pool;
use crate::descriptors::Place;

/// A connection that is not open after this time may take far longer.
const SLOW: Duration = Duration::from_millis(250);

/// What came first.
enum Raced<T> {
    Done(T),
    /// A connection that another call has given back.
    Free(Link),
}

impl Pool {
    /// Opens a connection on this place. While that is slow, or has to wait for its turn, another
    /// call's connection that becomes free is taken instead; the flag says whether it was.
    ///
    /// # Errors
    /// When no connection is open within the limit.
    pub async fn obtain(self: &Arc<Self>, place: Place) -> Result<(Link, bool), BoxError> {
        let turn = match self.ramp.try_turn() {
            Some(turn) => turn,
            None => match self.race(self.ramp.turn()).await {
                Raced::Done(turn) => turn,
                Raced::Free(link) => return Ok((link, true)),
            },
        };
        let pool = self.clone();
        let mut opening = Box::pin(async move {
            let start = Instant::now();
            let opened = pool.open(place).await;
            if opened.is_ok() {
                pool.ramp.on_open(start.elapsed());
            }
            drop(turn);
            opened
        });
        if let Ok(opened) = timeout(SLOW, &mut opening).await {
            return opened.map(|link| (link, false));
        }
        match self.race(&mut opening).await {
            Raced::Done(opened) => opened.map(|link| (link, false)),
            Raced::Free(link) => {
                // It is finished all the same: otherwise slow handshakes would never add a connection
                // as long as calls are quick.
                let pool = self.clone();
                TokioExecutor::new().execute(async move {
                    if let Ok(link) = opening.await {
                        pool.put(link);
                    }
                });
                Ok((link, true))
            }
        }
    }

    /// Waits for `work`, or for a connection that becomes free before.
    async fn race<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> Raced<T> {
        let (gives, mut given) = oneshot::channel();
        {
            let mut kept = self.lock();
            kept.stuck.retain(|stuck| !stuck.is_closed());
            if kept.waiting.is_empty()
                && let Some(link) = kept.take()
            {
                return Raced::Free(link);
            }
            kept.stuck.push_back(gives);
        }
        let mut work = pin!(work);
        let done = tokio::select! {
            biased;
            done = &mut work => done,
            link = &mut given => match link {
                Ok(link) => return Raced::Free(link),
                Err(_) => work.await,
            },
        };
        // A connection that was given at this very moment goes to the next one.
        given.close();
        if let Ok(link) = given.try_recv() {
            self.put(link);
        }
        Raced::Done(done)
    }
}
