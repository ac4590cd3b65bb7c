//! Small chat rows through an upstream that answers at once, against the rate of an independent
//! load generator at the same upstream with the same bodies. Both use both cores.

use std::io;
use std::net::SocketAddr;

use super::temp_dir;
use crate::batch::{self, ANSWER, Run, small_body};
use crate::daemon::{Cost, Daemon};
use crate::options::Options;
use crate::peers::{nginx_answering, wrk_posting};
use crate::report::{Report, Target};

/// Concurrent calls, on both sides.
const CONNECTIONS: u64 = 64;

pub fn run(options: &Options) -> io::Result<Report> {
    let (rows, seconds) = (options.get("rows"), options.get("seconds"));
    let dir = temp_dir()?;
    let upstream = nginx_answering(dir.path(), ANSWER)?;
    let alone = || wrk_posting(upstream.address, &small_body(1_234), CONNECTIONS, seconds, dir.path())?.clean();
    let before = alone()?;
    let (run, cost) = through(upstream.address, rows)?;
    let after = alone()?;
    let mut report = Report::new(format_args!("{rows} rows, {CONNECTIONS} calls at a time, an upstream that answers at once, both cores"));
    report.line("wrk on the upstream", format_args!("{before:.0} calls/s before, {after:.0} calls/s after"));
    report.compare("whole run", "rows/s", (before + after) / 2.0, run.whole_rate(), Target::AtLeast(0.4));
    report.compare("steady", "rows/s", (before + after) / 2.0, run.steady_rate(), Target::None);
    cost.tell(&mut report);
    Ok(report)
}

/// Sends this many rows through a daemon of their own.
pub(super) fn through(upstream: SocketAddr, rows: u64) -> io::Result<(Run, Cost)> {
    let dir = temp_dir()?;
    let daemon = Daemon::in_front_of(upstream, dir.path(), &["--upstream-concurrency", &CONNECTIONS.to_string()])?;
    let file = batch::upload(daemon.address(), dir.path(), rows, small_body)?;
    let before = daemon.used()?;
    let run = Run::follow(daemon.address(), &file, rows)?;
    let cost = daemon.cost(before, rows)?;
    Ok((run, cost))
}
