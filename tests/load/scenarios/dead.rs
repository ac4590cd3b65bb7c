//! Rows that can never be answered among healthy ones. The ceiling is the same healthy rows alone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, body};
use crate::client;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target};
use crate::upstream::{Behaviour, DEAD, Upstream};

/// How often the batch is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Measures how long healthy rows take beside some that always fail, for each way of failing.
pub fn run(options: &Options) -> io::Result<Report> {
    let (rows, every, delay) = (options.get("rows"), options.get("every").max(2), Duration::from_millis(options.get("delay-ms")));
    let mut report = Report::new(format_args!("{rows} rows, answers after {delay:?}, one row in {every} fails at once and always"));
    let clean = healthy_seconds(rows, every, delay, None)?;
    for status in [503, 500] {
        let beside = healthy_seconds(rows, every, delay, Some(status))?;
        let healthy = (rows - rows / every) as f64;
        report.compare(&format!("healthy rows beside {status}"), "rows/s", healthy / clean, healthy / beside, Target::AtLeast(0.95));
    }
    Ok(report)
}

/// Seconds from the first call until the last healthy row is done; `status` is what the others get,
/// which are left out without it.
fn healthy_seconds(rows: u64, every: u64, delay: Duration, status: Option<u16>) -> io::Result<f64> {
    let dir = temp_dir()?;
    let upstream = Upstream::start(dir.path(), Behaviour { delay, dead: status, ..Behaviour::default() })?;
    let daemon = Daemon::in_front_of(upstream.address(), dir.path(), &[])?;
    let healthy = rows - rows / every;
    let question = |row: u64| format!("Question number {row}, which is somewhat longer than needed to make the row of usual size.");
    let is_dead = |row: u64| status.is_some() && row % every == every / 2;
    let all = if status.is_some() { rows } else { healthy };
    let file = batch::upload(daemon.address(), dir.path(), all, |row| body("m", if is_dead(row) { DEAD } else { "load" }, &question(row)))?;
    let batch = batch::create(daemon.address(), &file)?;
    Upstream::next_call(upstream.address())?;
    let started = Instant::now();
    while completed(daemon.address(), &batch)? < healthy {
        std::thread::sleep(LOOK);
    }
    Ok(started.elapsed().as_secs_f64())
}

fn completed(daemon: SocketAddr, batch: &str) -> io::Result<u64> {
    let object = client::get_json(daemon, &format!("/v1/batches/{batch}"))?;
    Ok(object["request_counts"]["completed"].as_u64().unwrap_or(0))
}
