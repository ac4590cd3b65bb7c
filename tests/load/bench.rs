//! Load benchmarks: the daemon against a ceiling that is measured in the same run, with a load
//! generator and servers that are not ours.
//!
//! ```sh
//! cargo bench --bench load -- catalog
//! cargo bench --bench load -- rows 500000
//! ```
//!
//! needs `wrk`, `nginx` and `taskset` on the path and two cores. Figures of one run are comparable;
//! figures of two runs are not. Nothing here passes or fails.

mod catalog;
mod peers;
mod rows;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo bench --bench load -- catalog [ROUNDS] [SECONDS] | rows [ROWS] [SECONDS]";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its figures are its output")]
fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |index: usize, default| words.get(index).map_or(Ok(default), |word| word.parse::<u32>());
    let what = words.first().map(String::as_str);
    let (Some(what @ ("catalog" | "rows")), Ok(size), Ok(seconds)) = (what, number(1, 0), number(2, 5)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let seconds = seconds.max(1);
    let missing: Vec<_> = ["wrk", "nginx", "taskset"].into_iter().filter(|program| !peers::is_there(program)).collect();
    if !missing.is_empty() {
        eprintln!("not on the path: {}", missing.join(", "));
        return ExitCode::from(2);
    }
    let size = |default| if size == 0 { default } else { size };
    let report = match what {
        "catalog" => catalog::run(size(3), seconds),
        _ => rows::run(size(500_000), seconds),
    };
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
