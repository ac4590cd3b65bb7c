//! An upstream that takes a limited number of calls a second and refuses the rest. The daemon is
//! not given the limit; it finds the limit by trying. Refusals say nothing on how long to wait, or ask
//! for a wait in each of the usual spellings. Everything is measured at the upstream,
//! second by second, once the daemon has had time to learn.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, small_body};
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target};
use crate::upstream::{Behaviour, Kind, Limit, Spelling, Told, Upstream};

const SECOND: Duration = Duration::from_secs(1);
/// Calls that the bucket takes at once.
pub(super) const BURST: u64 = 20;
/// The largest allowed share of refused calls after the warm-up, in percent.
const MOST_REFUSED: f64 = 3.0;

/// Servers start one after the other: each takes a port that was free a moment ago.
static STARTING: Mutex<()> = Mutex::new(());
/// The waits that refusals ask for, in seconds, and the calls that the bucket takes at once.
const WAITS: [u64; 2] = [1, 10];
const BURSTS: [u64; 2] = [10, 50];

/// How long a limit is watched, and what it is.
#[derive(Clone, Copy)]
struct Plan {
    rate: u64,
    delay: Duration,
    warm_up: u64,
    seconds: u64,
}

pub fn run(options: &Options) -> io::Result<Report> {
    let plan = Plan {
        rate: options.get("rate"),
        delay: Duration::from_millis(options.get("delay-ms")),
        warm_up: options.get("warm-up"),
        seconds: options.get("seconds"),
    };
    let Plan { rate, warm_up, seconds, .. } = plan;
    let mut report =
        Report::new(format_args!("an upstream that takes {rate} calls/s and answers 429 beyond; {seconds} s after {warm_up} s of warm-up"));
    for (name, kind) in [("bucket", Kind::Bucket { burst: BURST }), ("windows of 1 s", Kind::Windows { length: SECOND })] {
        plan.measure(&mut report, name, kind, None)?;
    }
    // Such a limit takes little of the machine, so all of these are measured side by side.
    let told = WAITS.into_iter().flat_map(|wait| [(wait, Spelling::Seconds), (wait, Spelling::Date), (wait, Spelling::Milliseconds)]);
    let forms = told.flat_map(|(seconds, spelling)| BURSTS.map(|burst| (Told { seconds, spelling }, burst)));
    let reports = std::thread::scope(|scope| {
        let running: Vec<_> = forms.map(|(told, burst)| scope.spawn(move || plan.measure_told(told, burst))).collect();
        let joined = running.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?);
        joined.collect::<io::Result<Vec<_>>>()
    })?;
    reports.iter().for_each(|other| report.append(other));
    Ok(report)
}

impl Plan {
    /// Measures a bucket whose refusals ask for a wait.
    fn measure_told(self, told: Told, burst: u64) -> io::Result<Report> {
        let header = match told.spelling {
            Spelling::Seconds => "retry-after in seconds",
            Spelling::Date => "retry-after as a date",
            Spelling::Milliseconds => "retry-after-ms",
        };
        let mut report = Report::new(format_args!("a bucket of {burst}, and {header}: {} s", told.seconds));
        self.measure(&mut report, "bucket", Kind::Bucket { burst }, Some(told))?;
        Ok(report)
    }

    fn measure(self, report: &mut Report, name: &str, kind: Kind, told: Option<Told>) -> io::Result<()> {
        let behaviour = Behaviour { delay: self.delay, limit: Some(Limit { rate: self.rate, kind }), told, dead: None };
        measure(report, name, behaviour, self)
    }
}

fn measure(report: &mut Report, name: &str, behaviour: Behaviour, Plan { rate, warm_up, seconds, .. }: Plan) -> io::Result<()> {
    let dir = temp_dir()?;
    let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = Upstream::start(dir.path(), behaviour)?;
    let daemon = Daemon::in_front_of(upstream.address(), dir.path(), &[])?;
    drop(starting);
    // More rows than can be done, so that the end of the batch is not measured.
    let file = batch::upload(daemon.address(), dir.path(), rate * (warm_up + seconds + 30), small_body)?;
    batch::create(daemon.address(), &file)?;
    while upstream.counts()?.all() == (0, 0) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let learning = watch(&upstream, warm_up)?;
    let before = daemon.used()?;
    let (start, from) = (Instant::now(), upstream.counts()?.all());
    let learnt = watch(&upstream, seconds)?;
    let (took, to) = (start.elapsed().as_secs_f64(), upstream.counts()?.all());
    let (accepted, refused) = (to.0 - from.0, to.1 - from.1);
    let cost = daemon.cost(before, accepted)?;

    report.compare(name, "calls/s taken", rate as f64, accepted as f64 / took, Target::AtLeast(0.95));
    let share = refused as f64 * 100.0 / (accepted + refused).max(1) as f64;
    report.figure("refused", format_args!("{refused} calls, {share:.2} %"), Target::AtMost(MOST_REFUSED));
    report.line("warm-up, each second", learning.join(" "));
    report.line("then, each second", learnt.join(" "));
    cost.tell(report);
    Ok(())
}

/// The upstream's calls in each of `seconds` seconds, as `taken` or `taken-refused`.
fn watch(upstream: &Upstream, seconds: u64) -> io::Result<Vec<String>> {
    let start = Instant::now();
    let mut before = upstream.counts()?.all();
    let mut each = Vec::new();
    for second in 1..=u32::try_from(seconds).unwrap_or(u32::MAX) {
        std::thread::sleep((SECOND * second).saturating_sub(start.elapsed()));
        let now = upstream.counts()?.all();
        each.push(match (now.0 - before.0, now.1 - before.1) {
            (taken, 0) => taken.to_string(),
            (taken, refused) => format!("{taken}-{refused}"),
        });
        before = now;
    }
    Ok(each)
}
