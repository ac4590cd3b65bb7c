//! An upstream that takes its time. The ceiling is arithmetic: calls at a time by the length of one.
//! What `wrk` gets out of the same kind of upstream tells how much of it the machine can bear.

use std::io;
use std::time::Duration;

use super::temp_dir;
use crate::batch::{self, Run, small_body};
use crate::daemon::Daemon;
use crate::options::Options;
use crate::peers::wrk_posting;
use crate::report::{Report, Target};
use crate::server::most_files;
use crate::upstream::{Behaviour, Upstream};

/// Files that a daemon has open besides the connections to its upstream.
const OTHER_FILES: u64 = 512;
/// Results that are not durable yet count as in flight.
const SETTLING: u64 = 8_192;
/// Memory of a call in flight, in KiB.
const KIB_A_CALL: f64 = 10.0;
/// How long `wrk` runs.
const SECONDS: u64 = 8;

/// Very many calls at a time.
pub fn wide(options: &Options) -> io::Result<Report> {
    let wanted = options.get("in-flight");
    let calls = wanted.min(most_files()?.saturating_sub(OTHER_FILES));
    let measured = measure(options.get("rows"), calls, options.get("delay-ms"))?;
    let mut report = measured.report;
    if calls < wanted {
        report.line("fewer than asked for", format_args!("{wanted} calls need more open files than a process may have here"));
    }
    let kib = measured.grown as f64 / 1_024.0 / calls as f64;
    report.figure("memory of a call", format_args!("{kib:.2} KiB"), Target::AtMost(KIB_A_CALL));
    for (label, rate) in [("whole run", measured.run.whole_rate()), ("steady", measured.run.steady_rate())] {
        report.compare(label, "rows/s", measured.ideal, rate, Target::AtLeast(0.95));
    }
    Ok(report)
}

/// Few calls at a time, which must follow each other without a gap.
pub fn slots(options: &Options) -> io::Result<Report> {
    let measured = measure(options.get("rows"), options.get("slots"), options.get("delay-ms"))?;
    let mut report = measured.report;
    for (label, rate) in [("whole run", measured.run.whole_rate()), ("steady", measured.run.steady_rate())] {
        report.compare(label, "rows/s", measured.ideal, rate, Target::AtLeast(0.97));
    }
    Ok(report)
}

struct Measured {
    report: Report,
    run: Run,
    /// Calls a second if there were no gaps.
    ideal: f64,
    /// The most memory that was resident, less that of the idle daemon, in bytes.
    grown: u64,
}

fn measure(rows: u64, calls: u64, delay_ms: u64) -> io::Result<Measured> {
    let behaviour = Behaviour { delay: Duration::from_millis(delay_ms), ..Behaviour::default() };
    let ideal = calls as f64 * 1_000.0 / delay_ms.max(1) as f64;
    let dir = temp_dir()?;
    let upstream = Upstream::start(dir.path(), behaviour)?;
    let (limit, each) = ((calls + SETTLING).to_string(), calls.to_string());
    let daemon = Daemon::in_front_of(upstream.address(), dir.path(), &["--in-flight-limit", &limit, "--upstream-concurrency", &each])?;
    let idle = daemon.server.resident()?;
    let file = batch::upload(daemon.address(), dir.path(), rows, small_body)?;
    let before = daemon.used()?;
    let run = Run::follow(daemon.address(), &file, rows)?;
    let cost = daemon.cost(before, rows)?;
    let counts = upstream.counts()?;
    let cpu = upstream.server.cpu_seconds()? * 1_000.0 / rows as f64;
    // Two crowds of connections at once would need twice the ports.
    drop((daemon, upstream));
    let other = Upstream::start(dir.path(), behaviour)?;
    let alone = wrk_posting(other.address(), &small_body(1_234), calls, SECONDS, dir.path())?;

    let mut report = Report::new(format_args!("{rows} rows, {calls} calls at a time, an upstream that takes {delay_ms} ms"));
    let trouble = alone.trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    report.compare("wrk on such an upstream", "calls/s", ideal, alone.per_second, Target::None);
    if !trouble.is_empty() {
        report.line("", trouble);
    }
    report.line("validation", format_args!("{:.2} s of {:.2} s", run.validation, run.took));
    report.line("upstream", format_args!("at most {} calls at a time, {cpu:.4} CPU s per 1,000 calls", counts.most_open));
    cost.tell(&mut report);
    Ok(Measured { report, run, ideal, grown: cost.peak_resident.saturating_sub(idle) })
}
