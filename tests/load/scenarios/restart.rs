//! The daemon is killed in the middle of a large batch and started again on the same directory: how
//! long until the upstream sees the next call. The directory is still in the kernel's cache, as it
//! would be in practice.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, small_body};
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target};
use crate::upstream::{Behaviour, Upstream};

const LOOK: Duration = Duration::from_millis(10);
/// After this long without a call, the calls of the killed daemon are over.
const QUIET: Duration = Duration::from_millis(300);

pub fn run(options: &Options) -> io::Result<Report> {
    let (rows, stored) = (options.get("rows"), options.get("stored"));
    let dir = temp_dir()?;
    let upstream = Upstream::start(dir.path(), Behaviour::default())?;
    let args = ["--max-rows", &rows.to_string()];
    let daemon = Daemon::in_front_of(upstream.address(), dir.path(), &args)?;
    let file = batch::upload(daemon.address(), dir.path(), rows, small_body)?;
    let batch = batch::create(daemon.address(), &file)?;
    batch::wait(daemon.address(), &batch, LOOK, |look| look.done >= stored)?;
    // SIGKILL.
    drop(daemon);
    wait_until_quiet(&upstream)?;

    let address = upstream.address();
    let waiter = std::thread::spawn(move || Upstream::next_call(address).map(|()| Instant::now()));
    // The wait for the next call must begin before the daemon starts.
    std::thread::sleep(QUIET);
    let start = Instant::now();
    let daemon = Daemon::in_front_of(address, dir.path(), &args)?;
    let listening = start.elapsed().as_secs_f64();
    let called = waiter.join().map_err(|_| io::Error::other("the waiting thread panicked"))??;
    let before = batch::look(daemon.address(), &batch)?.done;
    batch::wait(daemon.address(), &batch, LOOK, batch::Look::has_ended)?;
    let (calls, _) = upstream.counts()?.all();

    let mut report = Report::new(format_args!("a batch of {rows} rows, killed with at least {stored} results stored"));
    report.figure("first call after", format_args!("{:.3} s", (called - start).as_secs_f64()), Target::AtMost(2.0));
    report.line("listens after", format_args!("{listening:.3} s"));
    report.line("then", format_args!("{before} rows were done by the first look; all are now, {} calls were made twice", calls - rows));
    report.line("memory", format_args!("at most {} MiB resident after the restart", daemon.server.peak_resident()? >> 20));
    Ok(report)
}

fn wait_until_quiet(upstream: &Upstream) -> io::Result<()> {
    let mut before = upstream.counts()?.all();
    loop {
        std::thread::sleep(QUIET);
        let now = upstream.counts()?.all();
        if now == before {
            return Ok(());
        }
        before = now;
    }
}
