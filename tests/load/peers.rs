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

impl Server {
    /// One nginx worker that answers every request with the same body, wherever the system puts it.
    pub fn answering(dir: &Path, body: &str) -> io::Result<Self> {
        let address = free_address()?;
        let root = dir.display();
        let config = format!(
            "worker_processes 1; daemon off; master_process off; pid {root}/up.pid; error_log /dev/null;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {root}/up-bodies;\n\
             server {{ listen {address} backlog=4096; location / {{ default_type application/json; return 200 '{body}'; }} }} }}\n"
        );
        let path = dir.join("up.conf");
        fs::write(&path, config)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(path).arg("-p").arg(dir);
        Self::start(command, address)
    }

    /// The daemon, wherever the system puts it.
    pub fn batchd_free(dir: &Path, args: &[&str]) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_batchd"));
        command.args(["serve", "--log", "warn", "--listen"]).arg(address.to_string()).arg("--data-dir").arg(dir.join("data")).args(args);
        Self::start(command, address)
    }

    fn proc_file(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Processor time used so far, of user and system together, in seconds.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        /// What `sysconf(_SC_CLK_TCK)` is on every Linux.
        const TICKS: f64 = 100.0;
        let stat = self.proc_file("stat")?;
        // The name in parentheses may hold spaces.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    /// The most memory that was resident, in bytes.
    pub fn peak_resident(&self) -> io::Result<u64> {
        Ok(labelled(&self.proc_file("status")?, "VmHWM:") << 10)
    }

    /// Bytes handed to the disk so far.
    pub fn written_bytes(&self) -> io::Result<u64> {
        Ok(labelled(&self.proc_file("io")?, "write_bytes:"))
    }
}

/// The number behind a label of a file below `/proc`.
fn labelled(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
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
    measure(command.arg(url))
}

/// Requests a second that `wrk` gets answered when it posts the same body all the time.
pub fn wrk_posting(url: &str, body: &str, connections: u32, seconds: u32, dir: &Path) -> io::Result<f64> {
    let script = dir.join("post.lua");
    fs::write(&script, format!("wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = [==[{body}]==]\n"))?;
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]).arg(script).arg(url);
    let load = measure(&mut command)?;
    match load.trouble {
        Some(trouble) => Err(io::Error::other(trouble)),
        None => Ok(load.per_second),
    }
}

fn measure(command: &mut Command) -> io::Result<Load> {
    let output = command.output()?;
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
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept-encoding: {coding}\r\nconnection: close\r\n\r\n"), &[])
}

/// Sends a body; the body of the answer.
pub fn send(address: SocketAddr, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    exchange(address, &head, body)
}

fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| io::Error::other("no head"))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&answer[..head]).into_owned()));
    }
    Ok(answer.split_off(head + 4))
}
