//! The connections to one upstream: those that rest, and those that calls share.
//!
//! Knows nothing of limits but the one for opening a connection, and nothing of answers.
//!
//! Invariants: a connection of HTTP/1.1 has one user at a time, and there are never more of them
//! than there were calls at the same time; none rests for much longer than [`IDLE`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use http::Uri;
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::connect::{BoxError, ConnectTimedOut, Connector};
use super::http1::Own;
use super::http2::Shared;
use super::link::Link;

/// Idle connections are closed after this long; most servers and load balancers wait at least as
/// long, and whoever closes first decides whether a request meets a dead connection.
const IDLE: Duration = Duration::from_secs(60);
/// Sweeps in that time. One timer for all connections, and no look at the clock for a call.
const SWEEPS: u32 = 4;

/// The connections to one upstream.
pub(super) struct Pool {
    connector: Connector,
    /// Scheme, host and port are what counts.
    target: Uri,
    /// How long opening a connection may take.
    limit: Duration,
    kept: Mutex<Kept>,
    /// The server has chosen HTTP/2 before.
    shares: AtomicBool,
    /// Held while a connection to a server that is known to speak HTTP/2 is opened, so that a
    /// crowd of calls opens one.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// The one that came last is the first to be used again, so that the others can expire.
    resting: Vec<(Own, u32)>,
    shared: Vec<(Shared, u32)>,
    /// Sweeps so far; stands for the time in the lists above.
    sweep: u32,
    sweeping: bool,
}

impl Pool {
    pub fn new(connector: Connector, target: Uri, limit: Duration) -> Arc<Self> {
        let (kept, shares, opening) = (Mutex::default(), AtomicBool::new(false), tokio::sync::Mutex::default());
        Arc::new(Self { connector, target, limit, kept, shares, opening })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A connection that is there already. It may be closed without having noticed.
    pub fn take(&self) -> Option<Link> {
        let mut kept = self.lock();
        if !kept.shared.is_empty() {
            let now = kept.sweep;
            kept.shared.retain(|(shared, _)| !shared.is_closed());
            for (shared, used) in &mut kept.shared {
                if let Some(share) = shared.share() {
                    *used = now;
                    return Some(Link::Shared(share));
                }
            }
        }
        kept.resting.pop().map(|(own, _)| Link::Own(own))
    }

    /// Opens a connection, or shares one that somebody else opened in the meantime.
    ///
    /// # Errors
    /// When there is none within the limit.
    pub async fn open(self: &Arc<Self>) -> Result<Link, BoxError> {
        if !self.shares.load(Ordering::Relaxed) {
            return self.connect().await;
        }
        let turn = async {
            let _turn = self.opening.lock().await;
            match self.take() {
                Some(link) => Ok(link),
                None => self.connect().await,
            }
        };
        timeout(self.limit, turn).await.map_err(|_| ConnectTimedOut)?
    }

    async fn connect(self: &Arc<Self>) -> Result<Link, BoxError> {
        let stream = self.connector.clone().oneshot(self.target.clone()).await?;
        let connected = stream.connected();
        if !connected.is_negotiated_h2() {
            return Ok(Link::Own(Own::over(stream, connected.is_proxied())));
        }
        self.shares.store(true, Ordering::Relaxed);
        if let Some(link) = self.take() {
            return Ok(link);
        }
        let shared = Shared::over(stream).await?;
        let share = shared.share();
        {
            let mut kept = self.lock();
            let now = kept.sweep;
            kept.shared.push((shared, now));
            self.begin_to_sweep(kept);
        }
        share.map(Link::Shared).ok_or_else(|| "the server allows no call on a new connection".into())
    }

    /// Takes back a connection whose answer was read to its end.
    pub fn put(self: &Arc<Self>, link: Link) {
        let Link::Own(mut own) = link else { return };
        if !own.rest() {
            return;
        }
        let mut kept = self.lock();
        let now = kept.sweep;
        kept.resting.push((own, now));
        self.begin_to_sweep(kept);
    }

    fn begin_to_sweep(self: &Arc<Self>, mut kept: MutexGuard<'_, Kept>) {
        if !std::mem::replace(&mut kept.sweeping, true) {
            drop(kept);
            // Ends by itself when the pool is gone or empty.
            TokioExecutor::new().execute(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what was not used for [`SWEEPS`] sweeps; returns whether there is anything left.
    pub(super) fn sweep(&self) -> bool {
        let mut kept = self.lock();
        kept.sweep = kept.sweep.wrapping_add(1);
        let now = kept.sweep;
        for (shared, used) in &mut kept.shared {
            if shared.is_used() {
                *used = now;
            }
        }
        let expired = |since: u32| now.wrapping_sub(since) > SWEEPS;
        kept.shared.retain(|(shared, used)| !shared.is_closed() && !expired(*used));
        // They rest in the order of their age.
        let old = kept.resting.partition_point(|(_, since)| expired(*since));
        let closed: Vec<_> = kept.resting.drain(..old).collect();
        let rest = kept.resting.len();
        kept.resting.shrink_to(rest * 2);
        kept.sweeping = !(kept.shared.is_empty() && kept.resting.is_empty());
        let more = kept.sweeping;
        drop(kept);
        // Closing takes a call into the kernel for each.
        drop(closed);
        more
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(IDLE / SWEEPS).await;
        // Not held while asleep, so that a provider that is gone closes its connections.
        let Some(pool) = pool.upgrade() else { return };
        if !pool.sweep() {
            return;
        }
    }
}
