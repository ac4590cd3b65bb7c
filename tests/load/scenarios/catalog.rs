//! `GET /v1/catalog/models` on the shipped catalog, against nginx serving the same bytes as a file:
//! same connections, same cores, in turns.

use std::{fs, io};

use super::temp_dir;
use crate::client::get;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::peers::{SERVER_CORE, nginx_files, pinned, wrk};
use crate::report::{Report, Target, median};

const PATH: &str = "/v1/catalog/models";

pub fn run(options: &Options) -> io::Result<Report> {
    let (rounds, seconds) = (options.get("rounds"), options.get("seconds"));
    let dir = temp_dir()?;
    let daemon = Daemon::start_as(pinned(SERVER_CORE, env!("CARGO_BIN_EXE_batchd")), dir.path(), &[])?;
    // nginx serves the compressed form from a file beside the plain one.
    let (plain, packed) = (get(daemon.address(), PATH, "identity")?, get(daemon.address(), PATH, "gzip")?);
    fs::write(dir.path().join("models.json"), &plain)?;
    fs::write(dir.path().join("models.json.gz"), &packed)?;
    let nginx = nginx_files(dir.path(), pinned(SERVER_CORE, "nginx"))?;
    let mut report = Report::new(format_args!("{PATH} against nginx, 64 connections, one core each side, {rounds} rounds of {seconds} s"));
    for (coding, bytes) in [(None, plain.len()), (Some("gzip"), packed.len())] {
        let (mut ceiling, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ceiling.push(wrk(&format!("http://{}/models.json", nginx.address), coding, seconds)?.clean()?);
            ours.push(wrk(&format!("http://{}{PATH}", daemon.address()), coding, seconds)?.clean()?);
        }
        let label = format!("{}, {bytes} bytes", coding.unwrap_or("plain"));
        report.compare(&label, "answers/s", median(ceiling), median(ours), Target::None);
    }
    Ok(report)
}
