//! Whether a row costs the same in a small batch and in a large one, and how much memory the large
//! batch takes. The upstream answers at once; each size has a daemon of its own.

use std::io;

use super::rows::through;
use super::temp_dir;
use crate::batch::ANSWER;
use crate::options::Options;
use crate::peers::nginx_answering;
use crate::report::{Report, Target};

pub fn run(options: &Options) -> io::Result<Report> {
    let largest = options.get("rows");
    let dir = temp_dir()?;
    let upstream = nginx_answering(dir.path(), ANSWER)?;
    let mut report = Report::new(format_args!("batches of up to {largest} rows, an upstream that answers at once"));
    let mut per_row = Vec::new();
    let mut peak = 0;
    for rows in [largest / 100, largest / 10, largest] {
        let (run, cost) = through(upstream.address, rows)?;
        let (wall, cpu) = (1e6 / run.whole_rate(), cost.cpu_per_thousand() * 1e3);
        report.line(&format!("{rows} rows"), format_args!("{wall:.1} µs and {cpu:.1} CPU µs a row"));
        cost.tell(&mut report);
        per_row.push((wall, cpu));
        peak = cost.peak_resident;
    }
    if let [(wall, cpu), .., (last_wall, last_cpu)] = per_row[..] {
        report.figure("largest to smallest", format_args!("wall {:.2}, CPU {:.2}", last_wall / wall, last_cpu / cpu), Target::AtMost(1.1));
    }
    report.figure("memory of the largest", format_args!("{} MiB", peak >> 20), Target::AtMost(200.0));
    Ok(report)
}
