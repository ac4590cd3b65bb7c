//! Servers as child processes, and the kernel's figures about them.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// A listening server; killed when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program and waits until it listens. Its standard error goes to `log`.
    pub fn start(mut command: Command, address: SocketAddr, log: &Path) -> io::Result<Self> {
        // The program's standard input stays open for as long as this process lives.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(log)?);
        let mut server = Self { address, child: command.spawn()? };
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        Err(io::Error::other(format!("nobody listens on {address}: {}", fs::read_to_string(log).unwrap_or_default())))
    }

    fn proc_file(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Processor time used so far, user and system together, in seconds.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        /// The value of `sysconf(_SC_CLK_TCK)` on every Linux.
        const TICKS: f64 = 100.0;
        let stat = self.proc_file("stat")?;
        // The name in parentheses may contain spaces.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    /// The peak of resident memory, in bytes.
    pub fn peak_resident(&self) -> io::Result<u64> {
        Ok(labelled(&self.proc_file("status")?, "VmHWM:") << 10)
    }

    /// The resident memory, in bytes.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(labelled(&self.proc_file("status")?, "VmRSS:") << 10)
    }

    /// Bytes handed to the disk so far.
    pub fn written_bytes(&self) -> io::Result<u64> {
        Ok(labelled(&self.proc_file("io")?, "write_bytes:"))
    }
}

/// The number after a label in a file below `/proc`.
fn labelled(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// An unused address on loopback.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A program that may open as many files as this user is allowed to.
pub fn with_all_files(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#]).arg(program);
    command
}

/// The most files that a process of this user may open.
pub fn most_files() -> io::Result<u64> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    Ok(line.split_ascii_whitespace().nth(1).and_then(|hard| hard.parse().ok()).unwrap_or(u64::MAX))
}
