//! Very many followers of one batch, over WebSockets and by server-sent events: what each follower
//! costs in memory, and what all of them cost the rows. The batch is paused until every follower
//! has received its first state; the upstream answers at once.
//!
//! Rounds without followers and with all of them take turns. Each round with followers is compared
//! with the two beside it, and the difference between those two is the noise.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, ANSWER, small_body};
use crate::client;
use crate::daemon::{Cost, Daemon};
use crate::followers::{Followers, Kind};
use crate::options::Options;
use crate::peers::nginx_answering;
use crate::report::{Report, Target, median};
use crate::server::most_files;

/// Concurrent calls.
const CALLS: u64 = 64;
/// Files that the daemon has open besides followers.
const OTHER_FILES: u64 = 512;
const LOOK: Duration = Duration::from_millis(50);
/// The longest time that the daemon takes to come to rest.
const SETTLED: Duration = Duration::from_secs(2);

pub fn run(options: &Options) -> io::Result<Report> {
    let (rows, sockets, events) = (options.get("rows"), options.get("sockets"), options.get("events"));
    let files = sockets + events + OTHER_FILES;
    if most_files()? < files {
        return Err(io::Error::other(format!("{files} files must be open at a time; raise the hard limit of `ulimit -n`")));
    }
    let dir = temp_dir()?;
    let upstream = nginx_answering(dir.path(), ANSWER)?;
    let with_nobody = || Worked::with(upstream.address, rows, 0, 0);
    let (mut alone, mut followed) = (vec![with_nobody()?], Vec::new());
    for _ in 0..options.get("rounds").max(1) {
        followed.push(Worked::with(upstream.address, rows, sockets, events)?);
        alone.push(with_nobody()?);
    }
    let mut report = Report::new(format_args!("{rows} rows with nobody and with {sockets} + {events} who follow them, both cores"));
    let rates = |rounds: &[Worked]| rounds.iter().map(|worked| worked.rate).collect::<Vec<_>>();
    let neighbours: Vec<_> = rates(&alone).windows(2).map(|pair| (pair[0], pair[1])).collect();
    let (ceiling, ours) = (median(rates(&alone)), median(rates(&followed)));
    report.compare("rows", "rows/s", ceiling, ours, Target::None);
    let beside = rates(&followed).into_iter().zip(&neighbours).map(|(rate, (before, after))| rate * 2.0 / (before + after));
    report.figure(
        "beside its neighbours",
        format_args!("{:.3}, the median of the rounds", median(beside.collect())),
        Target::AtLeast(0.97),
    );
    let apart = neighbours.iter().map(|(before, after)| 1.0 - before.min(*after) / before.max(*after));
    report.line("noise", format_args!("{:.3} between two rounds with nobody, the median", median(apart.collect())));
    let told = |rounds: &[Worked]| rates(rounds).iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(", ");
    report.line("each round", format_args!("with nobody {}; followed {}", told(&alone), told(&followed)));
    let cpu = |rounds: &[Worked]| median(rounds.iter().map(|worked| worked.cost.cpu_per_thousand()).collect());
    report.line("CPU s per 1,000 rows", format_args!("{:.4} with nobody, {:.4} followed, the medians", cpu(&alone), cpu(&followed)));
    let Some(followed) = followed.last() else { return Ok(report) };
    let [idle, with_sockets, with_both] = followed.resident;
    let each = |from: u64, to: u64, count: u64| to.saturating_sub(from) as f64 / 1_024.0 / count.max(1) as f64;
    report.line("a WebSocket", format_args!("{:.1} KiB resident beside {} MiB without any", each(idle, with_sockets, sockets), idle >> 20));
    report.line("a stream of events", format_args!("{:.1} KiB resident", each(with_sockets, with_both, events)));
    let (told, seconds) = (followed.updates, followed.took);
    report
        .line("updates", format_args!("{told} in {seconds:.1} s, {:.1} for each follower", told as f64 / (sockets + events).max(1) as f64));
    followed.cost.tell(&mut report);
    Ok(report)
}

/// A batch that was completed.
struct Worked {
    /// Memory of the daemon with the paused batch: without followers, with the sockets, with all,
    /// in bytes.
    resident: [u64; 3],
    /// Rows a second from the batch's resumption to its end.
    rate: f64,
    took: f64,
    updates: u64,
    cost: Cost,
}

impl Worked {
    fn with(upstream: SocketAddr, rows: u64, sockets: u64, events: u64) -> io::Result<Self> {
        let dir = temp_dir()?;
        let connections = (sockets + events + OTHER_FILES).to_string();
        let args = ["--upstream-concurrency", &CALLS.to_string(), "--max-connections", &connections];
        let daemon = Daemon::in_front_of(upstream, dir.path(), &args)?;
        let address = daemon.address();
        let file = batch::upload(address, dir.path(), rows, small_body)?;
        let batch = batch::create(address, &file)?;
        let control = |what: &str| client::post_json(address, &format!("/v1/batches/{batch}/{what}"), &json!({}));
        control("pause")?;
        batch::wait(address, &batch, LOOK, batch::Look::is_validated)?;
        let resident = || {
            std::thread::sleep(SETTLED);
            daemon.server.resident()
        };
        let idle = resident()?;
        let by_socket = Followers::start(Kind::Socket, address, &batch, sockets)?;
        let with_sockets = resident()?;
        let by_events = Followers::start(Kind::Events, address, &batch, events)?;
        let with_both = resident()?;
        let (before, done) = (daemon.used()?, batch::look(address, &batch)?.done);
        let start = Instant::now();
        control("resume")?;
        batch::wait(address, &batch, LOOK, batch::Look::has_ended)?;
        let took = start.elapsed().as_secs_f64();
        let cost = daemon.cost(before, rows - done)?;
        let updates = by_socket.ended()? + by_events.ended()?;
        Ok(Self { resident: [idle, with_sockets, with_both], rate: (rows - done) as f64 / took, took, updates, cost })
    }
}
