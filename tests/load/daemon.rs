//! The daemon under test, and the cost of its work.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::client;
use super::report::Report;
use super::server::{Server, free_address, with_all_files};

/// A running `batchd serve`.
pub struct Daemon {
    pub server: Server,
}

/// The resources that the daemon had used by a moment.
#[derive(Clone, Copy)]
pub struct Used {
    pub cpu_seconds: f64,
    pub written_bytes: u64,
    /// Flushes of the store, if the daemon reports them.
    pub commits: Option<u64>,
}

impl Daemon {
    /// Starts the daemon on `dir`, with its defaults except for the log and `args`.
    pub fn start(dir: &Path, args: &[&str]) -> io::Result<Self> {
        Self::start_as(with_all_files(env!("CARGO_BIN_EXE_batchd")), dir, args)
    }

    /// Starts the daemon by another command that ends up as the daemon.
    pub fn start_as(mut command: Command, dir: &Path, args: &[&str]) -> io::Result<Self> {
        let address = free_address()?;
        // Nothing is inherited from the environment: no settings, keys or proxies.
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", dir);
        command.args(["serve", "--log", "warn", "--listen"]).arg(address.to_string()).arg("--data-dir").arg(dir.join("data")).args(args);
        Ok(Self { server: Server::start(command, address, &dir.join("batchd.log"))? })
    }

    /// Starts the daemon in front of one upstream that serves every model.
    pub fn in_front_of(upstream: SocketAddr, dir: &Path, args: &[&str]) -> io::Result<Self> {
        let url = format!("http://{upstream}");
        Self::start(dir, &[&["--upstream", &url], args].concat())
    }

    /// Starts the daemon in front of several upstreams, each with the model that is named beside
    /// it.
    pub fn in_front_of_each(upstreams: &[(String, SocketAddr)], dir: &Path, args: &[&str]) -> io::Result<Self> {
        let urls: Vec<_> = upstreams.iter().map(|(model, address)| format!("{model}=http://{address}")).collect();
        let mut all: Vec<&str> = urls.iter().flat_map(|url| ["--upstream", url]).collect();
        all.extend(args);
        Self::start(dir, &all)
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub fn used(&self) -> io::Result<Used> {
        let metrics = client::get(self.address(), "/metrics", "identity")?;
        let metrics = String::from_utf8_lossy(&metrics);
        let commits = metrics.lines().find_map(|line| line.strip_prefix("batchd_store_commits_total ")?.trim().parse().ok());
        Ok(Used { cpu_seconds: self.server.cpu_seconds()?, written_bytes: self.server.written_bytes()?, commits })
    }

    /// The cost of this many rows since `before`.
    pub fn cost(&self, before: Used, rows: u64) -> io::Result<Cost> {
        let now = self.used()?;
        Ok(Cost {
            rows,
            cpu_seconds: now.cpu_seconds - before.cpu_seconds,
            written_bytes: now.written_bytes - before.written_bytes,
            commits: now.commits.zip(before.commits).map(|(now, before)| now - before),
            peak_resident: self.server.peak_resident()?,
        })
    }
}

/// The cost of some rows to the daemon.
pub struct Cost {
    pub rows: u64,
    pub cpu_seconds: f64,
    pub written_bytes: u64,
    pub commits: Option<u64>,
    pub peak_resident: u64,
}

impl Cost {
    /// Processor seconds per thousand rows.
    pub fn cpu_per_thousand(&self) -> f64 {
        self.cpu_seconds * 1_000.0 / self.rows as f64
    }

    pub fn tell(&self, report: &mut Report) {
        let commits = self.commits.map_or_else(|| "flushes not told".to_owned(), |commits| format!("{commits} flushes"));
        report.line(
            "cost",
            format_args!(
                "{:.4} CPU s per 1,000 rows, at most {} MiB resident, {commits}, {} bytes written a row",
                self.cpu_per_thousand(),
                self.peak_resident >> 20,
                self.written_bytes / self.rows.max(1)
            ),
        );
    }
}
