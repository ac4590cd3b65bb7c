//! Two lanes of one model, the second dearer, and a third lane of another model: a record of their
//! calls, and a check that they respect the operator's holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::support::daemon::Daemon;
use super::support::seeds::Seeds;
use super::support::upstream::{Call, FakeUpstream, Reply};

/// The model that both providers offer.
pub const MODEL: &str = "shared-model";
/// Only the dear provider offers this one.
pub const OTHER: &str = "other-model";
pub const CHEAP: &str = "cheap";
pub const DEAR: &str = "dear";
/// Concurrent calls that each provider takes.
pub const CONCURRENCY: usize = 8;

/// Price of a [`good`] answer, nine tokens read and two written, in millionths of a dollar.
pub fn price(provider: &str) -> u32 {
    if provider == CHEAP { 9 + 2 * 2 } else { 9 * 3 + 2 * 5 }
}

/// The setting of a create that lets rows go to the dear provider.
pub fn dearer_too() -> Value {
    json!({"max_price": {"prompt": "3", "completion": 5}})
}

/// The provider's lane of [`MODEL`].
pub fn lane(provider: &str) -> String {
    format!("{provider}/{provider}-{MODEL}")
}

/// A good answer that names the provider and the row.
pub fn good(provider: &str, row: &str) -> Reply {
    Reply::new(
        200,
        format!(
            r#"{{"id":"{provider}:{row}","object":"chat.completion","created":1790000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"hello"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}}}"#
        ),
    )
}

/// Every call in the order of arrival: provider, and the row's name.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Ledger {
    fn note(&self, provider: &'static str, row: &str) {
        self.0.lock().expect("no thread panicked with it").push((provider, row.to_owned()));
    }

    pub fn entries(&self) -> Vec<(&'static str, String)> {
        self.0.lock().expect("no thread panicked with it").clone()
    }

    /// Counts the calls to a provider for rows whose names begin with `rows`.
    pub fn count(&self, provider: &str, rows: &str) -> usize {
        let entries = self.0.lock().expect("no thread panicked with it");
        entries.iter().filter(|(at, row)| *at == provider && row.starts_with(rows)).count()
    }
}

/// The upstreams of both providers, and the catalog folder that names them.
pub struct TwoLanes {
    pub cheap: FakeUpstream,
    pub dear: FakeUpstream,
    pub ledger: Ledger,
    seeds: Seeds,
}

impl TwoLanes {
    /// Starts upstreams that answer according to `script`, which receives the provider.
    pub fn start(script: impl Fn(&'static str, &Call) -> Reply + Clone + Send + Sync + 'static) -> Self {
        let ledger = Ledger::default();
        let upstream = |provider: &'static str| {
            let (ledger, script) = (ledger.clone(), script.clone());
            FakeUpstream::start(move |call| {
                ledger.note(provider, &call.row);
                script(provider, call)
            })
        };
        let (cheap, dear) = (upstream(CHEAP), upstream(DEAR));
        let seeds = seeds(&cheap.url(), &dear.url());
        Self { cheap, dear, ledger, seeds }
    }

    /// Starts a daemon in front of both upstreams, with two attempts a row on each lane.
    pub fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// Starts the same daemon with further arguments.
    pub fn daemon_with(&self, args: &[&str]) -> Daemon {
        self.seeds.hasty_daemon(args)
    }
}

fn seeds(cheap: &str, dear: &str) -> Seeds {
    let provider = |id: &str, url: &str| {
        format!(
            "schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"{url}\"\n[limits]\nin_flight = {CONCURRENCY}\n"
        )
    };
    let offering = |id: &str, model: &str, input: u32, output: u32| {
        format!(
            "[[model.offering]]\nprovider = \"{id}\"\nupstream = \"{id}-{model}\"\n[[model.offering.price]]\ninput = \"{input}\"\n\
             output = \"{output}\"\nsource = \"https://prices.test\"\nverified_at = 2026-01-01\n"
        )
    };
    let model = |id: &str, offerings: &[String]| {
        format!(
            "schema = 1\n[[model]]\nid = \"{id}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/chat/completions\"]\n{}",
            offerings.concat()
        )
    };
    let seeds = Seeds::new();
    seeds.write("providers/cheap.toml", provider(CHEAP, cheap));
    seeds.write("providers/dear.toml", provider(DEAR, dear));
    seeds.write("models/shared.toml", model(MODEL, &[offering(CHEAP, MODEL, 1, 2), offering(DEAR, MODEL, 3, 5)]));
    seeds.write("models/other.toml", model(OTHER, &[offering(DEAR, OTHER, 3, 5)]));
    seeds
}

/// The holds that an operator was promised on lanes, and how often the lanes had been called by
/// then.
pub struct Holds<'a> {
    ledger: &'a Ledger,
    /// By lane or provider: the hold, and the number of calls so far to the providers that it
    /// covers.
    held: BTreeMap<String, (&'static str, usize)>,
}

impl<'a> Holds<'a> {
    pub fn none(lanes: &'a TwoLanes) -> Self {
        Self { ledger: &lanes.ledger, held: BTreeMap::new() }
    }

    /// Sends `pause`, `drain` or `resume` for a lane or provider; the answer binds from now on.
    pub fn ask(&mut self, daemon: &Daemon, action: &str, lane: &str) {
        let answer = daemon.post(&format!("/admin/lanes/{action}"), &json!({ "lane": lane })).expect(200);
        let hold = match action {
            "pause" => Some("paused"),
            "drain" => Some("drained"),
            _ => None,
        };
        let calls = self.calls(lane);
        match hold {
            // A lane under either hold is not called. An earlier hold stays bound by its own
            // answer.
            Some(hold) => self.held.entry(lane.to_owned()).or_insert((hold, calls)).0 = hold,
            None => _ = self.held.remove(lane),
        }
        let shown = answer["holds"].as_array().expect("a list of holds").iter().find(|held| held["lane"] == lane);
        assert_eq!(shown.map(|held| held["hold"].clone()), hold.map(Value::from), "{answer}");
    }

    /// Checks that the daemon shows the holds it confirmed, and has called no lane that it promised
    /// not to call.
    pub fn check(&self, daemon: &Daemon) {
        let lanes = daemon.get("/admin/lanes").expect(200);
        let shown: BTreeMap<_, _> =
            lanes["holds"].as_array().expect("a list of holds").iter().map(|held| (held["lane"].as_str(), held["hold"].as_str())).collect();
        let expected: BTreeMap<_, _> = self.held.iter().map(|(lane, (hold, _))| (Some(lane.as_str()), Some(*hold))).collect();
        assert_eq!(shown, expected, "{lanes}");
        for (lane, (hold, before)) in &self.held {
            let since = self.calls(lane) - before;
            assert!(since <= CONCURRENCY, "{since} calls to `{lane}` since it was said to be {hold}");
        }
    }

    fn calls(&self, lane: &str) -> usize {
        self.ledger.count(lane.split('/').next().unwrap_or(lane), "")
    }
}

/// Checks for what must never be in the log, whatever is killed: lost rows, results that came
/// twice, panics.
pub fn check_log(daemon: &Daemon) {
    check_log_besides(daemon, &[]);
}

/// The same check, where lines with one of `expected` in them may be errors.
pub fn check_log_besides(daemon: &Daemon, expected: &[&str]) {
    let log = std::fs::read_to_string(daemon.dir().join("stderr.log")).expect("the log of the daemon");
    for line in log.lines() {
        assert!(expected.iter().any(|text| line.contains(text)) || !line.contains(" ERROR ") && !line.contains("panicked"), "{line}");
    }
}
