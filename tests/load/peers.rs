//! Other people's programs: the server that sets the ceiling, and the one that makes the load.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The core that servers run on; the load comes from another.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a program can be started.
pub fn is_there(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A server on its core; killed when it is dropped.
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
    fn start(mut command: Command, address: SocketAddr) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { address, child };
        for _ in 0..PATIENCE.as_millis() / 20 {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("nobody listens on {address}")))
    }

    /// One nginx worker that serves the files of `dir`, without a log, as its own documentation
    /// recommends for static content.
    pub fn nginx(dir: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let root = dir.display();
        let config = format!(
            "worker_processes 1; daemon off; master_process off; pid {root}/nginx.pid; error_log /dev/null;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; gzip_static on; open_file_cache max=100;\n\
             types {{ application/json json; }}\n\
             server {{ listen {address}; root {root}; }} }}\n"
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, config)?;
        let mut command = pinned(SERVER_CORE, "nginx");
        command.arg("-c").arg(path).arg("-p").arg(dir);
        Self::start(command, address)
    }

    /// The daemon, with its defaults but for the log.
    pub fn batchd(dir: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = pinned(SERVER_CORE, env!("CARGO_BIN_EXE_batchd"));
        command.args(["serve", "--log", "warn", "--listen"]).arg(address.to_string()).arg("--data-dir").arg(dir.join("data"));
        Self::start(command, address)
    }
}

fn pinned(core: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, program]);
    command
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Requests that `wrk` got answered in a second, and what went wrong in its words.
pub struct Load {
    pub per_second: f64,
    pub trouble: Option<String>,
}

/// Loads a URL over 64 connections from one thread.
pub fn wrk(url: &str, coding: Option<&str>, seconds: u32) -> io::Result<Load> {
    let mut command = pinned(LOAD_CORE, "wrk");
    command.args(["-t1", "-c64", &format!("-d{seconds}s")]);
    if let Some(coding) = coding {
        command.args(["-H", &format!("Accept-Encoding: {coding}")]);
    }
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    let trouble = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")).map(|line| line.trim().to_owned());
    match rate {
        Some(per_second) => Ok(Load { per_second, trouble }),
        None => Err(io::Error::other(format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// The body of one answer.
pub fn get(address: SocketAddr, path: &str, coding: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept-encoding: {coding}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| io::Error::other("no head"))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&answer[..head]).into_owned()));
    }
    Ok(answer.split_off(head + 4))
}
