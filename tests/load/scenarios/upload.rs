//! A large input, from its first byte to the end of validation, against writing the same bytes to
//! the same disk and syncing them. The upstream never answers, so that no row runs meanwhile.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{self, body, line};
use crate::client;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target, median};
use crate::upstream::{Behaviour, Upstream};

/// Bytes of a row, including the line break.
const ROW: usize = 1_024;
const WORDS: &str = "a row of the usual length has some words in it and goes on for a while ";
/// How often the batch is looked at.
const LOOK: Duration = Duration::from_millis(10);

pub fn run(options: &Options) -> io::Result<Report> {
    let bytes = options.get("mib") << 20;
    let (rounds, rows) = (options.get("rounds"), bytes / ROW as u64);
    let dir = temp_dir()?;
    let input = dir.path().join("large.jsonl");
    write_input(&input, rows)?;
    let upstream = Upstream::start(dir.path(), Behaviour { delay: Duration::from_secs(86_400), ..Behaviour::default() })?;
    let mut report = Report::new(format_args!("{} MiB in rows of {ROW} bytes, {rounds} rounds, medians", bytes >> 20));
    let [mut plain, mut uploads, mut validations, mut both] = [const { Vec::new() }; 4];
    for round in 1..=rounds {
        plain.push(write_plainly(&input, &dir.path().join("plain"))?);
        let home = temp_dir()?;
        let many = (rows + 1).to_string();
        let daemon = Daemon::in_front_of(
            upstream.address(),
            home.path(),
            &["--in-flight-limit", "1", "--max-rows", &many, "--max-file-bytes", "16GiB"],
        )?;
        let before = daemon.used()?;
        let start = Instant::now();
        let file = client::upload(daemon.address(), &input)?;
        let uploaded = start.elapsed().as_secs_f64();
        let batch = batch::create(daemon.address(), &file)?;
        batch::wait(daemon.address(), &batch, LOOK, batch::Look::is_validated)?;
        let validated = start.elapsed().as_secs_f64();
        uploads.push(uploaded);
        validations.push(validated - uploaded);
        both.push(validated);
        if round == rounds {
            daemon.cost(before, rows)?.tell(&mut report);
        }
    }
    let all = |times: &[f64]| times.iter().map(|time| format!("{time:.2}")).collect::<Vec<_>>().join(" ");
    report.line("writes, in s", all(&plain));
    report.line("uploads, in s", all(&uploads));
    report.line("validations, in s", all(&validations));
    let ceiling = median(plain);
    report.compare("upload", "s", ceiling, median(uploads), Target::None);
    report.compare("validation", "s", ceiling, median(validations), Target::None);
    report.compare("both", "s", ceiling, median(both), Target::AtMost(4.0));
    Ok(report)
}

fn write_input(path: &Path, rows: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let words = WORDS.repeat(ROW / WORDS.len() + 1);
    for row in 0..rows {
        let around = line(row, &body("m", "load", "")).len() + 1;
        writeln!(file, "{}", line(row, &body("m", "load", &words[..ROW.saturating_sub(around)])))?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Copies a file to another through a buffer, and syncs it; returns the seconds taken.
fn write_plainly(from: &Path, to: &Path) -> io::Result<f64> {
    let mut from = File::open(from)?;
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut file = File::create(to)?;
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            n => file.write_all(&buffer[..n])?,
        }
    }
    file.sync_all()?;
    let took = start.elapsed().as_secs_f64();
    std::fs::remove_file(to)?;
    Ok(took)
}
