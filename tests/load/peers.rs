//! Third-party programs: the server that sets the ceiling, and the load generator.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::server::{Server, free_address, with_all_files};

/// The core that servers run on when the load comes from another core.
pub const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// Whether a program can be started.
pub fn is_there(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A command that stays on one core.
pub fn pinned(core: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, program]);
    command
}

/// One nginx worker that serves the files of `dir`, without a log, as its own documentation
/// recommends for static content.
pub fn nginx_files(dir: &Path, nginx: Command) -> io::Result<Server> {
    let http = "sendfile on; tcp_nopush on; gzip_static on; open_file_cache max=100; types { application/json json; }";
    let location = format!("root {};", dir.display());
    nginx_server(dir, "files", nginx, http, &location)
}

/// One nginx worker that answers every request with the same body.
pub fn nginx_answering(dir: &Path, body: &str) -> io::Result<Server> {
    let http = format!("client_body_temp_path {}/bodies;", dir.display());
    let location = format!("location / {{ default_type application/json; return 200 '{body}'; }}");
    nginx_server(dir, "answering", Command::new("nginx"), &http, &location)
}

fn nginx_server(dir: &Path, name: &str, mut nginx: Command, http: &str, location: &str) -> io::Result<Server> {
    let address = free_address()?;
    let root = dir.display();
    let config = format!(
        "worker_processes 1; daemon off; master_process off; pid {root}/{name}.pid; error_log /dev/null;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; {http}\n\
         server {{ listen {address} backlog=4096; {location} }} }}\n"
    );
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, config)?;
    nginx.arg("-c").arg(path).arg("-p").arg(dir);
    Server::start(nginx, address, &dir.join(format!("{name}.log")))
}

/// Requests per second that were answered to `wrk`, and the errors in its words.
pub struct Load {
    pub per_second: f64,
    /// The average time of an answer, in the words of `wrk`.
    pub latency: String,
    pub trouble: Option<String>,
}

/// Loads a URL over 64 connections from one thread on a core of its own.
pub fn wrk(url: &str, coding: Option<&str>, seconds: u64) -> io::Result<Load> {
    let mut command = pinned(LOAD_CORE, "wrk");
    command.args(["-t1", "-c64", &format!("-d{seconds}s")]);
    if let Some(coding) = coding {
        command.args(["-H", &format!("Accept-Encoding: {coding}")]);
    }
    measure(command.arg(url))
}

/// Posts the same body all the time, as a chat row would.
pub fn wrk_posting(upstream: SocketAddr, body: &str, connections: u64, seconds: u64, dir: &Path) -> io::Result<Load> {
    let script = dir.join("post.lua");
    fs::write(&script, format!("wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = [==[{body}]==]\n"))?;
    let mut command = with_all_files("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]).arg(script);
    measure(command.arg(format!("http://{upstream}/v1/chat/completions")))
}

fn measure(command: &mut Command) -> io::Result<Load> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    let trouble = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")).map(|line| line.trim().to_owned());
    let latency = text.lines().find_map(|line| line.trim().strip_prefix("Latency")?.split_ascii_whitespace().next());
    let latency = latency.unwrap_or_default().to_owned();
    match rate {
        Some(per_second) => Ok(Load { per_second, latency, trouble }),
        None => Err(io::Error::other(format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)))),
    }
}

impl Load {
    /// Returns the rate, unless an error was reported.
    pub fn clean(self) -> io::Result<f64> {
        match self.trouble {
            Some(trouble) => Err(io::Error::other(format!("wrk: {trouble}"))),
            None => Ok(self.per_second),
        }
    }
}
