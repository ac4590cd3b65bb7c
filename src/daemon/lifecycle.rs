//! The life and end of the process: tasks, the two stages of a stop, signals, systemd.
//!
//! A stop has two stages. *Drain*: no new work is taken on, and running work may finish. *Abort*:
//! running work is given up; its rows go back to pending by themselves, because in-flight is never
//! stored. The first SIGTERM or SIGINT drains, the second aborts, and so does the end of the drain
//! timeout.
//!
//! Invariant others rely on: every task of the daemon is started by [`Tasks::spawn`], so it has a
//! name, its death is logged, and the process does not end before the task does.

mod systemd;

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use systemd::Notifier;

/// Whether the process should end, and how. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// No stop has been requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when no new work may be taken on. Stays cancelled.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when running work must be given up; never before [`Self::drain`].
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Starts the drain.
    pub fn begin(&self) {
        self.drain.cancel();
    }

    /// Gives up the work that still runs.
    pub fn force(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Starts the drain because the daemon cannot go on: the process will end with a failure.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.begin();
    }

    /// `true` once [`Self::fail`] was called.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// What the end of a task means for the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The daemon is of no use without the task: if the task panics, or ends before the drain has
    /// begun, the daemon stops with a failure and its supervisor restarts it.
    Essential,
    /// The task may end at any time; a panic is logged.
    Optional,
}

/// Starts every task of the daemon and knows when the last has ended. Clones share one state.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl Tasks {
    /// No tasks yet.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown }
    }

    /// The stop state that the tasks should watch.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task on the current runtime.
    pub fn spawn(&self, name: &'static str, fate: Fate, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let watched = async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let early = !shutdown.drain().is_cancelled();
            match (ended, fate) {
                // The panic hook has logged the reason.
                (Err(_), Fate::Essential) => {
                    tracing::error!("an essential task panicked; stopping");
                    shutdown.fail();
                }
                (Err(_), Fate::Optional) => tracing::error!("a task panicked; the daemon goes on without it"),
                (Ok(()), Fate::Essential) if early => {
                    tracing::error!("an essential task ended early; stopping");
                    shutdown.fail();
                }
                (Ok(()), Fate::Essential | Fate::Optional) => {}
            }
        };
        self.tracker.spawn(watched.instrument(tracing::info_span!("task", name)));
    }

    /// Waits until every task has ended. When `drain_timeout` has passed, or an abort was
    /// requested, aborts and waits `grace` for the last tasks to notice; any task left is dropped
    /// with the runtime.
    pub async fn finish(&self, drain_timeout: Duration, grace: Duration) -> Finish {
        self.tracker.close();
        let drained = tokio::select! {
            ended = tokio::time::timeout(drain_timeout, self.tracker.wait()) => ended.is_ok(),
            () = self.shutdown.abort().cancelled() => false,
        };
        self.shutdown.force();
        if drained {
            return Finish::Drained;
        }
        let left = self.tracker.len();
        tracing::warn!(tasks = left, "the drain did not finish in time; giving up what still runs");
        match tokio::time::timeout(grace, self.tracker.wait()).await {
            Ok(()) => Finish::Aborted,
            Err(_) => Finish::Stuck { tasks: self.tracker.len() },
        }
    }
}

/// How the tasks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// All tasks ended by themselves, in time.
    Drained,
    /// All tasks ended, some only after the abort.
    Aborted,
    /// Some tasks did not end.
    Stuck { tasks: usize },
}

/// Listens for signals from now on: the first SIGTERM or SIGINT drains, the second aborts; SIGHUP
/// calls `on_hangup`, which must not block.
///
/// # Errors
/// When a handler cannot be installed.
pub fn watch_signals(tasks: &Tasks, on_hangup: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let shutdown = tasks.shutdown().clone();
    // The watch ends with the abort at the latest, which `Tasks::finish` always brings about. It
    // must not keep a drain from completing, so it is not counted among the tasks.
    let stop = shutdown.abort().clone();
    let watch = async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: reloading");
                    on_hangup();
                    continue;
                }
            };
            if shutdown.drain().is_cancelled() {
                tracing::warn!(signal = name, "stopping at once");
                shutdown.force();
            } else {
                tracing::info!(signal = name, "stopping; a second signal stops at once");
                shutdown.begin();
            }
        }
    };
    spawn_uncounted("signals", stop, watch);
    Ok(())
}

/// Pings systemd's watchdog at half its interval until the abort. The ping comes from a timer on
/// the runtime: if all workers are blocked, the ping stays out and systemd restarts the daemon.
pub fn keep_alive(shutdown: &Shutdown, notifier: Arc<Notifier>) {
    let Some(interval) = notifier.watchdog() else { return };
    let pings = async move {
        let mut ticks = tokio::time::interval(interval / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            notifier.ping();
        }
    };
    spawn_uncounted("watchdog", shutdown.abort().clone(), pings);
}

/// Starts a task that serves the stop itself, and so runs until `until` without being waited for.
fn spawn_uncounted(name: &'static str, until: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let bounded = async move {
        until.run_until_cancelled_owned(task).await;
    };
    #[expect(clippy::disallowed_methods, reason = "ends with the stop that it serves; waiting for it would be waiting for oneself")]
    drop(tokio::task::spawn(bounded.instrument(tracing::info_span!("task", name))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(Shutdown::new())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_drain_lets_running_work_finish() {
        let tasks = tasks();
        let drain = tasks.shutdown().drain().clone();
        tasks.spawn("worker", Fate::Essential, async move {
            drain.cancelled().await;
            tokio::time::sleep(3 * SECOND).await;
        });
        tasks.shutdown().begin();
        assert_eq!(tasks.finish(10 * SECOND, SECOND).await, Finish::Drained);
        assert!(!tasks.shutdown().failed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_timeout_and_the_second_signal_abort() {
        for early in [false, true] {
            let tasks = tasks();
            let abort = tasks.shutdown().abort().clone();
            tasks.spawn("worker", Fate::Essential, async move { abort.cancelled().await });
            tasks.shutdown().begin();
            if early {
                tasks.shutdown().force();
            }
            let started = tokio::time::Instant::now();
            assert_eq!(tasks.finish(10 * SECOND, SECOND).await, Finish::Aborted);
            assert_eq!(started.elapsed() >= 10 * SECOND, !early);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_abort_does_not_hold_the_process() {
        let tasks = tasks();
        tasks.spawn("deaf", Fate::Optional, std::future::pending());
        assert_eq!(tasks.finish(SECOND, SECOND).await, Finish::Stuck { tasks: 1 });
    }

    #[tokio::test]
    async fn the_death_of_an_essential_task_stops_the_daemon() {
        let panicking = tasks();
        panicking.spawn("broken", Fate::Essential, async { panic!("on purpose") });
        panicking.shutdown().drain().cancelled().await;
        assert!(panicking.shutdown().failed());
        assert!(!panicking.shutdown().abort().is_cancelled());

        let ending = tasks();
        ending.spawn("short", Fate::Essential, async {});
        ending.shutdown().drain().cancelled().await;
        assert!(ending.shutdown().failed());
    }

    #[tokio::test]
    async fn the_death_of_an_optional_task_does_not() {
        let tasks = tasks();
        tasks.spawn("broken", Fate::Optional, async { panic!("on purpose") });
        tasks.spawn("short", Fate::Optional, async {});
        assert_eq!(tasks.finish(SECOND, SECOND).await, Finish::Drained);
        assert!(!tasks.shutdown().failed());
    }

    #[tokio::test]
    async fn signals_drain_then_abort() {
        let tasks = tasks();
        let (hangups, mut heard) = tokio::sync::mpsc::unbounded_channel();
        watch_signals(&tasks, move || _ = hangups.send(())).unwrap();
        let raise = |signal: &str| {
            let own = std::process::id().to_string();
            // The shell's own `kill`: a slim machine has no program of that name.
            let kill = format!("kill -s {signal} {own}");
            assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        };
        raise("HUP");
        heard.recv().await.unwrap();
        assert!(!tasks.shutdown().drain().is_cancelled());
        raise("TERM");
        tasks.shutdown().drain().cancelled().await;
        assert!(!tasks.shutdown().abort().is_cancelled());
        raise("TERM");
        tasks.shutdown().abort().cancelled().await;
    }
}
