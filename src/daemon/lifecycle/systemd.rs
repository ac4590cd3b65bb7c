//! Messages to systemd, or to any other listener on `NOTIFY_SOCKET`. Without a listener nothing is
//! sent and nothing fails.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::daemon::config::Strings;

/// The connection to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Connects to the socket that the environment names. A socket that cannot be reached only
    /// causes a warning: shells and containers inherit the variable from services that are long
    /// gone.
    pub fn from_env(env: &dyn Strings) -> Self {
        let name = env.filled("NOTIFY_SOCKET").map_err(io::Error::other);
        let socket = name.and_then(|name| name.as_deref().map(connect).transpose()).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot notify the service manager: NOTIFY_SOCKET names no socket");
            None
        });
        Self { socket, watchdog: watchdog(env, std::process::id()) }
    }

    /// How often systemd expects a ping, if at all.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// Reports that the daemon serves from now on. `status` is shown by `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports that a reload has begun. The manager takes it for an answer to its own signal if the
    /// time is later than that of the signal; [`Self::ready`] ends the reload.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
            Err(error) => tracing::warn!(%error, "cannot notify the service manager of a reload"),
        }
    }

    /// Reports that the stop has begun and may take until `within` from now, whatever the unit's
    /// own timeout is.
    pub fn stopping(&self, within: Duration) {
        let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status("draining")]);
    }

    /// Reports that the daemon is alive.
    pub fn ping(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(fault) = socket.send(message.as_bytes()) {
            tracing::warn!(%fault, "cannot notify the service manager");
        }
    }
}

/// A leading `@` names a socket in the abstract namespace.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not block a worker.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The watchdog's interval, if the watchdog is meant for this process and not for a parent.
fn watchdog(env: &dyn Strings, own: u32) -> Option<Duration> {
    let number = |name| env.filled(name).ok().flatten()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(own)) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|micros| *micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::daemon::lifecycle::{Shutdown, keep_alive};

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// As the manager reads its clock, in microseconds.
    fn monotonic() -> i128 {
        match NotifyState::monotonic_usec_now().unwrap() {
            NotifyState::MonotonicUsec(micros) => micros,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn readiness_reload_and_stop_reach_the_manager() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::from_env(&HashMap::from([("NOTIFY_SOCKET", path.to_str().unwrap())]));
        notifier.ready("listening on 127.0.0.1:7400");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=listening on 127.0.0.1:7400\n");
        let before = monotonic();
        notifier.reloading();
        let heard_of_reload = heard(&manager);
        let lines: Vec<_> = heard_of_reload.lines().collect();
        let [first, time, "STATUS=reloading"] = lines[..] else { panic!("{heard_of_reload}") };
        let micros: i128 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(first == "RELOADING=1" && (before..=monotonic()).contains(&micros), "{heard_of_reload}");
        notifier.stopping(Duration::from_secs(40));
        assert_eq!(heard(&manager), "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=draining\n");
        assert_eq!(notifier.watchdog(), None);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let notifier = Notifier::from_env(&HashMap::from([("WATCHDOG_USEC", "1000000")]));
        notifier.ready("ready");
        assert_eq!(notifier.watchdog(), None);
        assert!(Notifier::from_env(&HashMap::from([("NOTIFY_SOCKET", "/nowhere/notify")])).socket.is_none(), "nobody is told anything");
    }

    #[test]
    fn a_watchdog_for_another_process_is_ignored() {
        let usec = ("WATCHDOG_USEC", "30000000");
        assert_eq!(watchdog(&HashMap::from([usec]), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&HashMap::from([usec, ("WATCHDOG_PID", "7")]), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&HashMap::from([usec, ("WATCHDOG_PID", "8")]), 7), None);
        assert_eq!(watchdog(&HashMap::from([("WATCHDOG_USEC", "0")]), 7), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_hears_twice_an_interval_until_the_abort() {
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("batchd-test-{}", std::process::id())).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let name = format!("@batchd-test-{}", std::process::id());
        let env = HashMap::from([("NOTIFY_SOCKET", name.as_str()), ("WATCHDOG_USEC", "30000000")]);
        let shutdown = Shutdown::new();
        keep_alive(&shutdown, Arc::new(Notifier::from_env(&env)));
        let count = || std::iter::from_fn(|| manager.recv(&mut [0; 64]).ok()).count();
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(count(), 5);
        shutdown.begin();
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(count(), 1, "a drain may be long, and is watched too");
        shutdown.force();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(count(), 0);
    }
}
