//! A large output file, read by the same client in turns from the daemon and from nginx with the
//! same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::process::Command;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, Run};
use crate::client::download;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::peers::nginx_files;
use crate::report::{Report, Target, median};

/// Approximate bytes of a line whose answer is as long as [`long_answer`] lets it be.
const LINE: u64 = 890;

pub fn run(options: &Options) -> io::Result<Report> {
    let rounds = options.get("rounds");
    let rows = (options.get("mib") << 20) / LINE;
    let dir = temp_dir()?;
    // Answers that differ: text that all of them share takes next to nothing in the store.
    let daemon = Daemon::start(dir.path(), &["--max-rows", &rows.to_string()])?;
    let file = batch::upload(daemon.address(), dir.path(), rows, long_answer)?;
    let run = Run::follow(daemon.address(), &file, rows)?;
    let output = run.output.ok_or_else(|| io::Error::other("there is no output file"))?;
    let path = format!("/v1/files/{output}/content");

    let mut copy = BufWriter::with_capacity(1 << 20, File::create(dir.path().join("output.jsonl"))?);
    let bytes = download(daemon.address(), &path, &mut copy)?;
    copy.flush()?;
    let nginx = nginx_files(dir.path(), Command::new("nginx"))?;
    let mib = bytes as f64 / (1 << 20) as f64;
    let (mut ceiling, mut ours) = (Vec::new(), Vec::new());
    let before = daemon.used()?;
    for _ in 0..rounds {
        let start = Instant::now();
        if download(nginx.address, "/output.jsonl", io::sink())? != bytes {
            return Err(io::Error::other("nginx served another file"));
        }
        ceiling.push(mib / start.elapsed().as_secs_f64());
        let start = Instant::now();
        download(daemon.address(), &path, io::sink())?;
        ours.push(mib / start.elapsed().as_secs_f64());
    }
    let mut report = Report::new(format_args!("an output file of {mib:.0} MiB in {rows} rows, {rounds} rounds, medians"));
    report.compare("download", "MiB/s", median(ceiling), median(ours), Target::AtLeast(0.3));
    daemon.cost(before, rows * rounds)?.tell(&mut report);
    Ok(report)
}

/// The body of a row that the simulated provider answers with other words than any other row.
fn long_answer(row: u64) -> String {
    format!(
        r#"{{"model":"simulated-instant","max_tokens":256,"messages":[{{"role":"user","content":"Tell me all that you know of the number {row}."}}]}}"#
    )
}
