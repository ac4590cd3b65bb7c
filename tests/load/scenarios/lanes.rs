//! Two lanes with a limit each, and three batches over both of them: two that keep the lanes full,
//! and an urgent batch that comes while they run.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::limit::BURST;
use super::temp_dir;
use crate::batch::{self, body};
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target};
use crate::upstream::{Behaviour, Counts, Kind, Limit, Tally, Upstream};

const MODELS: [&str; 2] = ["one", "two"];
const NORMAL: &str = "normal";
const URGENT: &str = "urgent";
const LOOK: Duration = Duration::from_millis(50);

pub fn run(options: &Options) -> io::Result<Report> {
    let (rate, rows) = (options.get("rate"), options.get("urgent-rows"));
    let (warm_up, seconds) = (options.get("warm-up"), options.get("seconds"));
    let together = options.get("models") > 0;
    let limit = Some(Limit { rate, kind: Kind::Bucket { burst: BURST } });
    let dir = temp_dir()?;
    let upstream =
        Upstream::start(dir.path(), Behaviour { delay: Duration::from_millis(options.get("delay-ms")), limit, ..Behaviour::default() })?;
    let daemon = start_daemon(&upstream, dir.path(), together)?;
    // Enough for twice the time: the urgent batch may run its own rows after the rest.
    let many = rate * (warm_up + 2 * seconds);
    for _ in 0..2 {
        submit(daemon.address(), dir.path(), many, NORMAL)?;
    }
    while upstream.counts()?.all() == (0, 0) {
        std::thread::sleep(LOOK);
    }
    std::thread::sleep(Duration::from_secs(warm_up));
    let address = upstream.address();
    // The lanes are measured for their own time, however long the urgent batch takes.
    let lanes = std::thread::spawn(move || watch(address, Duration::from_secs(seconds)));
    // The two batches run alone for a while, so that there are calls to displace.
    std::thread::sleep(Duration::from_secs(seconds / 6));
    let urgent = Urgent::follow(&daemon, &upstream, dir.path(), rows)?;
    let (from, to, took) = lanes.join().map_err(|_| io::Error::other("the watching thread panicked"))??;

    let place = if together { "models of one provider" } else { "providers" };
    let mut report = Report::new(format_args!("two {place} that take {rate} calls/s each, two batches, and {rows} urgent rows later"));
    for model in MODELS {
        let (taken, refused) = since(&from, &to, |tally| tally.model == model);
        report.compare(&format!("lane {model}"), "calls/s taken", rate as f64, taken as f64 / took, Target::AtLeast(0.95));
        report.figure("refused", format_args!("{:.2} %", percent(refused, taken + refused)), Target::AtMost(3.0));
    }
    urgent.tell(&mut report, rows as f64 / (2 * rate) as f64);
    Ok(report)
}

fn start_daemon(upstream: &Upstream, dir: &Path, together: bool) -> io::Result<Daemon> {
    // Servers with one URL are one provider.
    let url = |model| {
        if together { format!("{model}=http://{}", upstream.address()) } else { format!("{model}=http://{}/{model}", upstream.address()) }
    };
    let [one, two] = MODELS.map(url);
    Daemon::start(dir, &["--upstream", &one, "--upstream", &two])
}

/// Uploads rows that name the two models in turn; returns the file.
fn upload(daemon: SocketAddr, dir: &Path, rows: u64, mark: &str) -> io::Result<String> {
    batch::upload(daemon, dir, rows, |row| body(if row % 2 == 0 { MODELS[0] } else { MODELS[1] }, mark, "Which lane is this?"))
}

fn submit(daemon: SocketAddr, dir: &Path, rows: u64, mark: &str) -> io::Result<String> {
    batch::create(daemon, &upload(daemon, dir, rows, mark)?)
}

/// The course of the urgent batch.
struct Urgent {
    /// Whether the daemon knows urgent batches.
    known: bool,
    /// From the end of its validation to its end, in seconds.
    took: f64,
    /// The calls that were taken in that time: the batch's own, and all.
    own: u64,
    all: u64,
}

impl Urgent {
    fn follow(daemon: &Daemon, upstream: &Upstream, dir: &Path, rows: u64) -> io::Result<Self> {
        let address = daemon.address();
        let file = upload(address, dir, rows, URGENT)?;
        let (known, id) = match batch::create_urgent(address, &file)? {
            Some(id) => (true, id),
            None => (false, batch::create(address, &file)?),
        };
        batch::wait(address, &id, Duration::from_millis(5), batch::Look::is_validated)?;
        let (start, from) = (Instant::now(), upstream.counts()?);
        batch::wait(address, &id, LOOK, batch::Look::has_ended)?;
        let (took, to) = (start.elapsed().as_secs_f64(), upstream.counts()?);
        let (own, _) = since(&from, &to, |tally| tally.mark == URGENT);
        let (all, _) = since(&from, &to, |_| true);
        Ok(Self { known, took, own, all })
    }

    fn tell(&self, report: &mut Report, ideal: f64) {
        if !self.known {
            report.line("not urgent", "this daemon knows no priority; the third batch is like the others");
        }
        report.compare("urgent batch took", "s", ideal, self.took, Target::None);
        report.figure("its share of the calls", format_args!("{:.1} %", percent(self.own, self.all)), Target::None);
    }
}

/// Returns the counts before and after a while, and its length in seconds.
fn watch(upstream: SocketAddr, length: Duration) -> io::Result<(Counts, Counts, f64)> {
    let (start, from) = (Instant::now(), Upstream::counts_at(upstream)?);
    std::thread::sleep(length);
    Ok((from, Upstream::counts_at(upstream)?, start.elapsed().as_secs_f64()))
}

/// Counts calls taken and refused between two moments, for the wanted models and users.
fn since(from: &Counts, to: &Counts, wanted: impl Fn(&Tally) -> bool) -> (u64, u64) {
    let (from, to) = (from.of(&wanted), to.of(&wanted));
    (to.0 - from.0, to.1 - from.1)
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}
