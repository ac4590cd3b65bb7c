//! The real binary as a child process, in a directory that is removed with the test.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use super::wait;

/// A first start may have to write its whole store.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A temporary directory on a real disk, not in memory.
pub fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// Variables that describe the environment of the daemon: directories, credentials, the service
/// manager.
const SURROUNDINGS: [&str; 10] = [
    "RUST_LOG",
    "STATE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
];

/// The binary, without settings that the environment may hold, with its home in `dir`.
pub fn batchd(dir: &Path) -> Command {
    local_only(Command::new(env!("CARGO_BIN_EXE_batchd")), dir)
}

/// The same binary behind a limit that the shell sets, such as `ulimit -n 256`.
fn batchd_behind(limit: &str, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_batchd")]);
    local_only(shell, dir)
}

fn local_only(mut command: Command, dir: &Path) -> Command {
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        if upper.starts_with("BATCHD_")
            || upper.ends_with("_PROXY")
            || upper.ends_with("_API_KEY")
            || SURROUNDINGS.contains(&upper.as_str())
        {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    command
}

/// Sends a signal by name, such as `TERM`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().expect("sh runs");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}

/// Waits for the child; kills it and returns `None` once `limit` has passed.
pub fn wait_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let status = wait::poll(limit, || child.try_wait().expect("the state of the child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// A running `batchd serve`.
pub struct Daemon {
    addr: SocketAddr,
    child: Option<Child>,
    dir: TempDir,
    args: Vec<String>,
    /// The limit that the shell sets before it starts the daemon.
    limit: Option<String>,
}

impl Daemon {
    /// Starts the daemon with the built-in provider and defaults.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts the daemon with further arguments of `serve`.
    pub fn with(args: &[&str]) -> Self {
        Self::start_behind(None, args)
    }

    /// Starts the daemon behind a limit that the shell sets, such as `ulimit -n 256`.
    pub fn behind(limit: &str, args: &[&str]) -> Self {
        Self::start_behind(Some(limit.to_owned()), args)
    }

    fn start_behind(limit: Option<String>, args: &[&str]) -> Self {
        let dir = temp_dir();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (child, addr) = spawn(dir.path(), limit.as_deref(), &args, "127.0.0.1:0");
        Self { addr, child: Some(child), dir, args, limit }
    }

    /// Starts the daemon in front of an upstream, with backoffs short enough for tests.
    pub fn with_upstream(url: &str, args: &[&str]) -> Self {
        let mut all = vec!["--upstream", url, "--retry-base", "5ms", "--retry-cap", "50ms"];
        all.extend_from_slice(args);
        Self::with(&all)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL in the form that SDKs expect.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The last lines of the daemon's log, for failure messages.
    pub fn log_tail(&self) -> String {
        log_tail(self.dir.path())
    }

    /// Sends SIGKILL: the daemon has no chance to clean up.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("the killed daemon is reaped");
        }
    }

    /// Sends SIGTERM; returns the exit status of the drained daemon.
    ///
    /// # Panics
    /// If the daemon has not ended within `limit`.
    pub fn sigterm_and_wait(&mut self, limit: Duration) -> ExitStatus {
        self.sigterm();
        self.wait_stopped(limit)
    }

    /// Sends SIGTERM without waiting.
    pub fn sigterm(&self) {
        signal(self.pid(), "TERM");
    }

    /// Returns the exit status of a daemon that is shutting down.
    ///
    /// # Panics
    /// If the daemon has not ended within `limit`.
    pub fn wait_stopped(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        wait_exit(&mut child, limit).unwrap_or_else(|| panic!("no exit within {limit:?} of SIGTERM; log:\n{}", self.log_tail()))
    }

    /// Starts again on the same data directory, on a new port.
    pub fn restart(&mut self) {
        self.restart_listening("127.0.0.1:0");
    }

    /// Starts again on the previous port, for clients that reconnect.
    pub fn restart_on_same_port(&mut self) {
        self.restart_listening(&self.addr.to_string());
    }

    fn restart_listening(&mut self, listen: &str) {
        self.kill9();
        let (child, addr) = spawn(self.dir.path(), self.limit.as_deref(), &self.args, listen);
        self.child = Some(child);
        self.addr = addr;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            wait::say(&format!("log of the daemon:\n{}", self.log_tail()));
        }
        self.kill9();
    }
}

fn log_tail(dir: &Path) -> String {
    const LINES: usize = 40;
    let log = std::fs::read(dir.join("stderr.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a log file")
}

fn spawn(dir: &Path, limit: Option<&str>, args: &[String], listen: &str) -> (Child, SocketAddr) {
    let mut command = limit.map_or_else(|| batchd(dir), |limit| batchd_behind(limit, dir));
    command.args(["serve", "--listen", listen, "--data-dir"]).arg(dir.join("data")).args(args);
    let mut child = command.stdout(Stdio::piped()).stderr(append(&dir.join("stderr.log"))).spawn().expect("batchd starts");

    // stdout is read to its end, so that the daemon can never block on it.
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut copy = append(&dir.join("stdout.log"));
    let (ready, listening) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(addr) = line.trim().strip_prefix("listening on http://") {
                let _ = ready.send(addr.trim_end_matches('/').parse::<SocketAddr>());
            }
            let _ = writeln!(copy, "{line}");
        }
    });
    match listening.recv_timeout(START_LIMIT) {
        Ok(Ok(addr)) => (child, addr),
        other => {
            let _ = child.kill();
            let status = child.wait();
            panic!("batchd did not say where it listens ({other:?}, {status:?}); log:\n{}", log_tail(dir));
        }
    }
}
