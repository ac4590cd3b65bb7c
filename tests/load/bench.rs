//! Load benchmarks: the daemon against a ceiling of the same run. The ceiling is the result of a
//! load generator or a third-party server for the same work, or plain arithmetic where the upstream
//! sets the pace.
//!
//! ```sh
//! cargo bench --bench load                              # lists the scenarios
//! cargo bench --bench load -- rows
//! cargo bench --bench load -- wide rows=400000 in-flight=10000
//! cargo bench --bench load -- all
//! ```
//!
//! needs `wrk`, `nginx` and `taskset` on the path, two cores and 8 GiB of free disk. The daemon,
//! its upstream and the benchmark share the cores. Figures of one run are comparable; figures of
//! two runs are not. Nothing here passes or fails: the targets are printed beside the figures.

mod batch;
mod client;
mod daemon;
mod followers;
mod options;
mod peers;
mod report;
mod scenarios;
mod server;
mod upstream;

use std::io;
use std::process::ExitCode;

use options::Options;
use report::Report;

/// A scenario to measure.
struct Scenario {
    name: &'static str,
    what: &'static str,
    /// Names and defaults of the options, in the order in which plain numbers are taken.
    options: &'static [(&'static str, u64)],
    run: fn(&Options) -> io::Result<Report>,
}

const SCENARIOS: [Scenario; 14] = [
    Scenario {
        name: "catalog",
        what: "the list of models against nginx with the same bytes",
        options: &[("rounds", 3), ("seconds", 5)],
        run: scenarios::catalog::run,
    },
    Scenario {
        name: "rows",
        what: "small rows through an upstream that answers at once, against wrk",
        options: &[("rows", 500_000), ("seconds", 5)],
        run: scenarios::rows::run,
    },
    Scenario {
        name: "wide",
        what: "very many calls at a time to an upstream that takes a second",
        options: &[("rows", 300_000), ("in-flight", 20_000), ("delay-ms", 1_000), ("hosts", 4)],
        run: scenarios::waiting::wide,
    },
    Scenario {
        name: "slots",
        what: "few calls at a time to an upstream that takes a tenth of a second",
        options: &[("rows", 20_000), ("slots", 64), ("delay-ms", 100)],
        run: scenarios::waiting::slots,
    },
    Scenario {
        name: "dead",
        what: "healthy rows beside some that always fail, against the healthy ones alone",
        options: &[("rows", 4_000), ("every", 100), ("delay-ms", 100)],
        run: scenarios::dead::run,
    },
    Scenario {
        name: "limit",
        what: "an upstream that refuses calls beyond a rate that nobody has told",
        options: &[("seconds", 50), ("warm-up", 10), ("rate", 200), ("delay-ms", 50)],
        run: scenarios::limit::run,
    },
    Scenario {
        name: "lanes",
        what: "two such limits, three batches over both, the last one urgent; models=1 puts both at one provider",
        options: &[("seconds", 60), ("warm-up", 10), ("rate", 200), ("delay-ms", 50), ("urgent-rows", 4_000), ("models", 0)],
        run: scenarios::lanes::run,
    },
    Scenario {
        name: "upload",
        what: "a large file in, and checked, against writing it",
        options: &[("mib", 1_024), ("rounds", 3)],
        run: scenarios::upload::run,
    },
    Scenario {
        name: "download",
        what: "a large output file out, against nginx with the same bytes",
        options: &[("mib", 1_024), ("rounds", 3)],
        run: scenarios::download::run,
    },
    Scenario {
        name: "quote",
        what: "a quote of many items over many lanes",
        options: &[("items", 10_000), ("lanes", 300), ("rounds", 5)],
        run: scenarios::quote::run,
    },
    Scenario {
        name: "followers",
        what: "very many who follow one batch, over WebSockets and by events, against the same rows with nobody",
        options: &[("rows", 400_000), ("sockets", 5_000), ("events", 5_000), ("rounds", 7)],
        run: scenarios::followers::run,
    },
    Scenario {
        name: "neighbours",
        what: "a tenant that does its worst, and what another one meets meanwhile",
        options: &[("batches", 5), ("reads", 300)],
        run: scenarios::neighbours::run,
    },
    Scenario {
        name: "flat",
        what: "cost of a row and memory in a small, a larger and a large batch",
        options: &[("rows", 1_000_000)],
        run: scenarios::flat::run,
    },
    Scenario {
        name: "restart",
        what: "killed with many results stored: how long until the next call goes out",
        options: &[("stored", 1_000_000), ("rows", 1_050_000)],
        run: scenarios::restart::run,
    },
];

fn usage() -> String {
    let mut text = "usage: cargo bench --bench load -- SCENARIO [NAME=NUMBER ...] | all\n".to_owned();
    for Scenario { name, what, options, .. } in &SCENARIOS {
        let options: Vec<_> = options.iter().map(|(name, default)| format!("{name}={default}")).collect();
        text += &format!("\n{name:9} {what}\n{:9} {}\n", "", options.join(" "));
    }
    text
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its figures are its output")]
fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let (first, rest) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if first == upstream::SUBCOMMAND {
        return upstream::main(rest);
    }
    if first == followers::SUBCOMMAND {
        return followers::main(rest);
    }
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| first == "all" && rest.is_empty() || scenario.name == first).collect();
    if chosen.is_empty() {
        eprint!("{}", usage());
        return ExitCode::from(2);
    }
    let missing: Vec<_> = ["wrk", "nginx", "taskset"].into_iter().filter(|program| !peers::is_there(program)).collect();
    if !missing.is_empty() {
        eprintln!("not on the path: {}", missing.join(", "));
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for scenario in chosen {
        let report = Options::read(scenario.options, rest).and_then(|options| (scenario.run)(&options));
        match report {
            Ok(report) => println!("{}: {report}", scenario.name),
            Err(error) => {
                eprintln!("{}: {error}\n", scenario.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
