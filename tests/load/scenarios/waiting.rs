//! An upstream with slow answers. The ceiling is arithmetic: concurrent calls divided by the length
//! of a call. The rate of `wrk` at such an upstream shows how much of that the machine can bear.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::temp_dir;
use crate::batch::{self, Run, small_body, small_body_for};
use crate::daemon::{Cost, Daemon};
use crate::options::Options;
use crate::peers::{Load, wrk_posting};
use crate::report::{Report, Target};
use crate::server::most_files;
use crate::upstream::{Behaviour, Upstream};

/// Files that a daemon has open besides the connections to its upstream.
const OTHER_FILES: u64 = 512;
/// Results that are not yet durable count as in flight.
const SETTLING: u64 = 8_192;
/// Memory of a call in flight, in KiB.
const KIB_A_CALL: f64 = 10.0;
/// Concurrent calls that need negligible memory.
const FEW: u64 = 64;
/// The longest time that a daemon takes to come to rest after its start.
const SETTLED: Duration = Duration::from_secs(1);
/// How long `wrk` runs.
const SECONDS: u64 = 20;

/// Measures very many concurrent calls.
///
/// The calls are spread over a few addresses, each a provider with a model of its own: where most
/// of the ports between two addresses are taken, the kernel takes a millisecond to find a free
/// port.
pub fn wide(options: &Options) -> io::Result<Report> {
    let wanted = options.get("in-flight");
    let hosts = u8::try_from(options.get("hosts")).map_err(io::Error::other)?.max(1);
    let calls = wanted.min(most_files()?.saturating_sub(OTHER_FILES)) / u64::from(hosts) * u64::from(hosts);
    let waiting = Waiting { rows: options.get("rows"), calls, hosts, delay: Duration::from_millis(options.get("delay-ms")) };
    // The memory that the daemon needs for the same rows with hardly a call in flight does not
    // belong to the calls.
    let narrow = Waiting { calls: FEW, hosts: 1, delay: Duration::ZERO, ..waiting };
    let base = narrow.work()?.cost.peak_resident;
    let measured = waiting.measure()?;
    let mut report = waiting.report(&measured, 0.95);
    if calls < wanted {
        report.line("fewer than asked for", format_args!("{wanted} calls need more open files than a process may have here"));
    }
    let kib = |beside: u64| measured.worked.cost.peak_resident.saturating_sub(beside) as f64 / 1_024.0 / calls as f64;
    let of_a_call = format_args!("{:.2} KiB beside the {} MiB of the same rows with {FEW} calls", kib(base), base >> 20);
    report.figure("memory of a call", of_a_call, Target::AtMost(KIB_A_CALL));
    let idle = measured.worked.idle;
    report.line("all that rows take", format_args!("{:.2} KiB a call beside {} MiB when idle", kib(idle), idle >> 20));
    Ok(report)
}

/// Measures few concurrent calls, which must follow each other without a gap.
pub fn slots(options: &Options) -> io::Result<Report> {
    let delay = Duration::from_millis(options.get("delay-ms"));
    let waiting = Waiting { rows: options.get("rows"), calls: options.get("slots"), hosts: 1, delay };
    Ok(waiting.report(&waiting.measure()?, 0.97))
}

#[derive(Clone, Copy)]
struct Waiting {
    rows: u64,
    /// Concurrent calls, over all hosts.
    calls: u64,
    hosts: u8,
    delay: Duration,
}

/// The result of the daemon's work.
struct Worked {
    run: Run,
    cost: Cost,
    /// Memory of the daemon before it had any work, in bytes.
    idle: u64,
    most_open: u64,
    /// Processor seconds of the upstream.
    upstream_cpu: f64,
}

struct Measured {
    worked: Worked,
    /// Results of `wrk` on each host.
    alone: Vec<Load>,
}

impl Waiting {
    fn upstream(&self, dir: &Path) -> io::Result<Upstream> {
        Upstream::start_at(dir, Behaviour { delay: self.delay, ..Behaviour::default() }, self.hosts)
    }

    fn work(&self) -> io::Result<Worked> {
        let dir = temp_dir()?;
        let upstream = self.upstream(dir.path())?;
        let models: Vec<_> = upstream.hosts(self.hosts).enumerate().map(|(number, host)| (format!("m{number}"), host)).collect();
        let (limit, each) = ((self.calls + SETTLING).to_string(), self.calls_to_each().to_string());
        let daemon = Daemon::in_front_of_each(&models, dir.path(), &["--in-flight-limit", &limit, "--upstream-concurrency", &each])?;
        // The daemon listens before it has read everything that it keeps in memory.
        std::thread::sleep(SETTLED);
        let idle = daemon.server.resident()?;
        let model = |row: u64| models[usize::try_from(row).unwrap_or(0) % models.len()].0.as_str();
        let file = batch::upload(daemon.address(), dir.path(), self.rows, |row| small_body_for(model(row), row))?;
        let before = daemon.used()?;
        let run = Run::follow(daemon.address(), &file, self.rows)?;
        let cost = daemon.cost(before, self.rows)?;
        Ok(Worked { run, cost, idle, most_open: upstream.counts()?.most_open, upstream_cpu: upstream.server.cpu_seconds()? })
    }

    fn measure(&self) -> io::Result<Measured> {
        let worked = self.work()?;
        // Two crowds of connections to one port would disturb each other.
        let dir = temp_dir()?;
        let other = self.upstream(dir.path())?;
        let alone = std::thread::scope(|scope| {
            let load = |host| wrk_posting(host, &small_body(1_234), self.calls_to_each(), SECONDS, dir.path());
            let loads: Vec<_> = other.hosts(self.hosts).map(|host| scope.spawn(move || load(host))).collect();
            let joined = loads.into_iter().map(|load| load.join().map_err(|_| io::Error::other("a thread panicked"))?);
            joined.collect::<io::Result<Vec<_>>>()
        })?;
        Ok(Measured { worked, alone })
    }

    fn calls_to_each(&self) -> u64 {
        self.calls / u64::from(self.hosts)
    }

    fn report(&self, measured: &Measured, target: f64) -> Report {
        let Self { rows, calls, hosts, delay } = self;
        let Measured { worked: Worked { run, cost, most_open, upstream_cpu, .. }, alone } = measured;
        let mut report = Report::new(format_args!("{rows} rows, {calls} calls at a time to {hosts} address(es), answers after {delay:?}"));
        let ideal = *calls as f64 / delay.as_secs_f64();
        for (label, rate) in [("whole run", run.whole_rate()), ("steady", run.steady_rate())] {
            report.compare(label, "rows/s", ideal, rate, Target::AtLeast(target));
        }
        let by_wrk = alone.iter().map(|load| load.per_second).sum();
        report.compare("steady, against wrk", "rows/s", by_wrk, run.steady_rate(), Target::None);
        let latencies: Vec<_> = alone.iter().map(|load| load.latency.as_str()).collect();
        let troubles = alone.iter().filter_map(|load| load.trouble.as_deref()).map(|trouble| format!("; {trouble}")).collect::<String>();
        report.line("wrk", format_args!("{by_wrk:.0} calls/s in {SECONDS} s, answers after {} on average{troubles}", latencies.join(", ")));
        report.line("validation", format_args!("{:.2} s of {:.2} s", run.validation, run.took));
        let cpu = upstream_cpu * 1_000.0 / *rows as f64;
        report.line("upstream", format_args!("at most {most_open} calls at a time, {cpu:.4} CPU s per 1,000 calls"));
        cost.tell(&mut report);
        report
    }
}
