//! The connections to one upstream: the idle ones, and those that calls share.
//!
//! Knows no limits except the one for opening a connection, and nothing of answers.
//!
//! Invariants: an HTTP/1.1 connection has one user at a time, and there are never more such
//! connections than there were calls at the same time. No connection rests for much longer than
//! [`IDLE`], and none rests while any call waits for a place to open a connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use http::Uri;
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::connect::{BoxError, ConnectTimedOut, Connector};
use super::http1::Own;
use super::http2::Shared;
use super::link::Link;
use super::ramp::Ramp;
use crate::descriptors::{Place, Places, Spare};

/// Idle connections are closed after this long. Most servers and load balancers wait at least as
/// long, and the side that closes first decides whether a request meets a dead connection.
const IDLE: Duration = Duration::from_secs(60);
/// Sweeps in that time. One timer serves all connections, and a call never reads the clock.
const SWEEPS: u32 = 4;
/// How often a call that waits for a place checks whether a shared connection has room for it.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// The connections to one upstream.
pub(super) struct Pool {
    connector: Connector,
    /// Only scheme, host and port matter.
    target: Uri,
    /// How long opening a connection may take.
    limit: Duration,
    places: Arc<Places>,
    /// Calls that wait for a connection or a place.
    waiting: AtomicUsize,
    kept: Mutex<KeptLinks>,
    /// The server has chosen HTTP/2 before.
    shares: AtomicBool,
    /// Held while a connection to a server that is known to speak HTTP/2 is opened, so that a
    /// crowd of calls opens one.
    opening: tokio::sync::Mutex<()>,
    pub(super) ramp: Ramp,
}

#[derive(Default)]
pub(super) struct KeptLinks {
    /// The connection that came last is used first, so that the others can expire.
    resting: Vec<(Own, u32)>,
    shared: Vec<(Shared, u32)>,
    /// Calls that have found neither a connection nor a place, in the order of their requests.
    pub(super) waiting: VecDeque<oneshot::Sender<Link>>,
    /// Calls whose own connection is slow to open.
    pub(super) stuck: VecDeque<oneshot::Sender<Link>>,
    /// Sweeps so far; serves as the time in the lists above.
    sweep: u32,
    sweeping: bool,
}

impl KeptLinks {
    pub(super) fn take(&mut self) -> Option<Link> {
        self.share().or_else(|| self.resting.pop().map(|(own, _)| Link::Own(own)))
    }

    /// Takes room on a shared connection.
    fn share(&mut self) -> Option<Link> {
        let now = self.sweep;
        self.shared.retain(|(shared, _)| !shared.is_closed());
        self.shared.iter_mut().find_map(|(shared, used)| {
            let share = shared.share()?;
            *used = now;
            Some(Link::Shared(share))
        })
    }

    /// Gives room on shared connections to the calls that wait.
    fn share_out(&mut self) {
        self.waiting.retain(|waits| !waits.is_closed());
        while !self.waiting.is_empty()
            && let Some(link) = self.share()
            && let Some(waits) = self.waiting.pop_front()
        {
            // A call that has given up meanwhile returns the link by dropping it.
            let _ = waits.send(link);
        }
        self.stuck.retain(|stuck| !stuck.is_closed());
        while !self.stuck.is_empty()
            && let Some(link) = self.share()
            && let Some(stuck) = self.stuck.pop_front()
        {
            let _ = stuck.send(link);
        }
    }

    /// Gives a connection to the first of these calls that still wants one, or returns it.
    fn give(queue: &mut VecDeque<oneshot::Sender<Link>>, mut own: Own) -> Option<Own> {
        while let Some(waits) = queue.pop_front() {
            match waits.send(Link::Own(own)) {
                // The call has given up.
                Err(Link::Own(back)) => own = back,
                Ok(()) | Err(Link::Shared(_)) => return None,
            }
        }
        Some(own)
    }
}

/// Counts a waiting call for as long as this lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn in_this(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a call needs to be sent.
pub(super) enum Next {
    /// A connection that was used before. It may have been closed without having noticed.
    There(Link),
    /// The right to open a connection.
    Place(Place),
}

impl Pool {
    pub fn new(connector: Connector, target: Uri, limit: Duration, places: Arc<Places>) -> Arc<Self> {
        let (kept, shares, opening) = (Mutex::default(), AtomicBool::new(false), tokio::sync::Mutex::default());
        let pool =
            Arc::new(Self { connector, target, limit, places, waiting: AtomicUsize::new(0), kept, shares, opening, ramp: Ramp::new() });
        let spare: Arc<dyn Spare> = pool.clone();
        pool.places.ask(Arc::downgrade(&spare));
        pool
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, KeptLinks> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes an existing connection, unless other calls wait for one. The connection may have been
    /// closed without having noticed.
    pub fn take(&self) -> Option<Link> {
        let mut kept = self.lock();
        if kept.waiting.is_empty() { kept.take() } else { None }
    }

    /// An existing connection, or a place for a new one; waits until either is available.
    pub async fn next(&self) -> Next {
        let free = || if self.lock().waiting.is_empty() { self.places.try_take() } else { None };
        if let Some(place) = free() {
            return Next::Place(place);
        }
        // Counted here first and last, so that no call of this pool is ever taken for a call of
        // another.
        let _counted = Counted::in_this(&self.waiting);
        let _waits = self.places.wait();
        loop {
            let (gives, mut given) = oneshot::channel();
            {
                let mut kept = self.lock();
                kept.waiting.retain(|waits| !waits.is_closed());
                // A connection that became idle since the caller looked.
                if kept.waiting.is_empty()
                    && let Some(link) = kept.take()
                {
                    return Next::There(link);
                }
                kept.waiting.push_back(gives);
            }
            let place = tokio::select! {
                biased;
                link = &mut given => match link {
                    Ok(link) => return Next::There(link),
                    Err(_) => continue,
                },
                place = self.places.take() => Some(place),
                () = sleep(SCAN_INTERVAL) => None,
            };
            given.close();
            match (given.try_recv(), place) {
                (Ok(link), _) => return Next::There(link),
                (Err(_), Some(place)) => return Next::Place(place),
                (Err(_), None) => {
                    if let Some(link) = self.lock().take() {
                        return Next::There(link);
                    }
                }
            }
        }
    }

    /// Opens a connection on this place, or shares one that another call opened in the meantime.
    ///
    /// # Errors
    /// When no connection is open within the limit.
    pub async fn open(self: &Arc<Self>, place: Place) -> Result<Link, BoxError> {
        if !self.shares.load(Ordering::Relaxed) {
            return self.connect(place).await;
        }
        let turn = async {
            let _turn = self.opening.lock().await;
            // The calls that wait get the place instead.
            let there = self.lock().take();
            match there {
                Some(link) => Ok(link),
                None => self.connect(place).await,
            }
        };
        timeout(self.limit, turn).await.map_err(|_| ConnectTimedOut)?
    }

    async fn connect(self: &Arc<Self>, place: Place) -> Result<Link, BoxError> {
        let stream = self.connector.clone().oneshot(self.target.clone()).await?.on(place);
        let connected = stream.connected();
        if !connected.is_negotiated_h2() {
            return Ok(Link::Own(Own::over(stream, connected.is_proxied())));
        }
        self.shares.store(true, Ordering::Relaxed);
        let there = self.lock().take();
        if let Some(link) = there {
            return Ok(link);
        }
        let shared = Shared::over(stream).await?;
        let share = shared.share();
        {
            let mut kept = self.lock();
            let now = kept.sweep;
            kept.shared.push((shared, now));
            kept.share_out();
            self.begin_to_sweep(kept);
        }
        share.map(Link::Shared).ok_or_else(|| "the server allows no call on a new connection".into())
    }

    /// Takes back a connection whose answer was read to its end. A call that waits for a connection
    /// gets it. Where calls to other upstreams wait, they get its place in proportion to their
    /// number.
    pub fn put(self: &Arc<Self>, link: Link) {
        // Calls of this pool may begin or cease to wait between the two reads around the total
        // count.
        let own_before = self.waiting.load(Ordering::Relaxed);
        let waiting = self.places.waiting();
        let mut own = match link {
            Link::Own(own) => own,
            Link::Shared(share) => {
                drop(share);
                let mut kept = self.lock();
                if waiting > 0 || !kept.stuck.is_empty() {
                    kept.share_out();
                }
                return;
            }
        };
        if !own.rest() {
            return;
        }
        let mut kept = self.lock();
        if waiting > 0 {
            let others = waiting.saturating_sub(own_before.max(self.waiting.load(Ordering::Relaxed)));
            if others > 0 && fastrand::usize(..others + kept.waiting.len()) < others {
                return;
            }
            match KeptLinks::give(&mut kept.waiting, own) {
                Some(back) => own = back,
                None => return,
            }
        }
        let Some(own) = KeptLinks::give(&mut kept.stuck, own) else { return };
        let now = kept.sweep;
        kept.resting.push((own, now));
        self.begin_to_sweep(kept);
    }

    fn begin_to_sweep(self: &Arc<Self>, mut kept: MutexGuard<'_, KeptLinks>) {
        if !std::mem::replace(&mut kept.sweeping, true) {
            drop(kept);
            // The sweep ends by itself when the pool is gone or empty.
            TokioExecutor::new().execute(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes connections that were not used for [`SWEEPS`] sweeps; returns whether any are left.
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
        // Idle connections are in the order of their age.
        let old = kept.resting.partition_point(|(_, since)| expired(*since));
        let closed: Vec<_> = kept.resting.drain(..old).collect();
        let rest = kept.resting.len();
        kept.resting.shrink_to(rest * 2);
        kept.sweeping = !(kept.shared.is_empty() && kept.resting.is_empty());
        let more = kept.sweeping;
        drop(kept);
        // Each close takes a call into the kernel.
        drop(closed);
        more
    }
}

impl Spare for Pool {
    fn spare(&self) -> bool {
        let mut kept = self.lock();
        // The connection that has rested longest.
        let own = (!kept.resting.is_empty()).then(|| kept.resting.remove(0));
        if own.is_none() {
            // A shared connection is closed by its own task, a little later.
            kept.shared.retain(|(shared, _)| shared.is_used() && !shared.is_closed());
        }
        drop(kept);
        own.is_some()
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(IDLE / SWEEPS).await;
        // Not held while asleep, so that the connections of a dropped provider are closed.
        let Some(pool) = pool.upgrade() else { return };
        if !pool.sweep() {
            return;
        }
    }
}
