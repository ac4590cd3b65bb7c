//! A large output file, read from the daemon and from nginx with the same bytes by the same client,
//! in turns.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::process::Command;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, ANSWER, Run, small_body};
use crate::client::download;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::peers::{nginx_answering, nginx_files};
use crate::report::{Report, Target, median};

/// Bytes of an answer, and about those of the line around it.
const ANSWER_BYTES: usize = 1_024;
const AROUND: usize = 200;
const SHORT: &str = "The answer is forty-two, as everybody knows.";

pub fn run(options: &Options) -> io::Result<Report> {
    let rounds = options.get("rounds");
    let rows = (options.get("mib") << 20) / (ANSWER_BYTES + AROUND) as u64;
    let dir = temp_dir()?;
    let upstream = nginx_answering(dir.path(), &long_answer())?;
    let daemon = Daemon::in_front_of(upstream.address, dir.path(), &["--max-rows", &rows.to_string()])?;
    let file = batch::upload(daemon.address(), dir.path(), rows, small_body)?;
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

fn long_answer() -> String {
    let missing = ANSWER_BYTES.saturating_sub(ANSWER.len());
    let words = SHORT.repeat(missing / SHORT.len() + 1);
    ANSWER.replace(SHORT, &format!("{SHORT}{}", &words[..missing]))
}
