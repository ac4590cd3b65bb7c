//! The catalog while people and tools change its folder and clients read it: every good state is
//! live at once, a bad state never is, no reader sees parts of two states, and a start after any
//! edit serves the last good state.
//!
//! ```sh
//! # a thousand edits, with the times they took
//! cargo test --release --test catalog -- --ignored --nocapture
//! BATCHD_CATALOG_SEED=17 cargo test --release --test catalog
//! ```

mod folder;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use folder::{Folder, Legal, Signature, provider};
use support::daemon::{Daemon, signal, temp_dir};
use support::http::{Request, Response, send};
use support::wait;

/// A generous limit: the time of an edit is reported, not judged. The watcher looks again by itself
/// after five seconds.
const LIMIT: Duration = Duration::from_secs(30);
const READERS: usize = 4;

#[expect(clippy::disallowed_methods, reason = "the seed of a test run is not a setting of the daemon")]
fn seed() -> u64 {
    match std::env::var("BATCHD_CATALOG_SEED") {
        Ok(text) => text.parse().expect("BATCHD_CATALOG_SEED is a number"),
        Err(_) => fastrand::u64(..1_000_000),
    }
}

/// Reads the state that a view shows, and checks that the view is whole.
fn read(response: &Response) -> Signature {
    assert_eq!(response.status(), 200, "{}", response.text());
    let body = response.json();
    let models = body["data"].as_array().expect("a list");
    let mut providers: Vec<&str> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for model in models {
        let offering = &model["provider_offerings"][0];
        providers.push(offering["provider_name"].as_str().expect("a name"));
        names.push(model["slug"].as_str().expect("a slug").to_owned());
        assert_eq!(model["display_name"], model["slug"]);
    }
    providers.dedup();
    assert_eq!((providers.len(), &body["provider_count"]), (1, &Value::from(1)), "one answer, one snapshot");
    names.sort();
    (providers[0].to_owned(), names)
}

const VIEW: &str = "/v1/catalog/models";

/// Read the views all the time, and fail at the first answer that is not whole and good.
struct Readers {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Readers {
    fn start(daemon: &Daemon, legal: &Arc<Legal>) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = |number: usize| {
            let (stop, reads, legal, addr) = (stop.clone(), reads.clone(), legal.clone(), daemon.addr());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let path = if number.is_multiple_of(2) { VIEW.to_owned() } else { format!("{VIEW}?provider=sim") };
                    legal.check(&read(&send(addr, Request::get(&path)).expect("no read fails")));
                    reads.fetch_add(1, SeqCst);
                }
            })
        };
        let threads = (0..READERS).map(thread).collect();
        Self { stop, reads, threads }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("every answer was whole and good"));
        self.reads.load(SeqCst)
    }
}

fn seen(daemon: &Daemon) -> Signature {
    read(&daemon.get(VIEW))
}

fn faults(daemon: &Daemon) -> usize {
    daemon.get("/readyz?verbose").json()["catalog"]["faults"].as_array().expect("a list").len()
}

fn run(edits: u32) {
    let seed = seed();
    wait::say(&format!("seed {seed}"));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (dir, legal) = (temp_dir(), Arc::new(Legal::default()));
    let mut folder = Folder::new(dir.path(), legal.clone());
    let mut daemon = Daemon::with(&["--catalog-dir", folder.path().to_str().expect("the folder can be changed")]);
    let mut readers = Readers::start(&daemon, &legal);
    let (mut times, mut reads, mut starts) = (Vec::new(), 0, 0);
    for edit in 0..edits {
        if rng.u8(..3) == 0 {
            folder.damage(&mut rng);
            wait::poll(LIMIT, || (faults(&daemon) > 0).then_some(())).unwrap_or_else(|| panic!("edit {edit}: no fault was reported"));
            assert_eq!(seen(&daemon), folder.good, "edit {edit}: a broken state went live");
        }
        if rng.u8(..25) == 0 {
            // The daemon is killed in whatever state the folder is.
            reads += readers.stop();
            daemon.restart();
            assert_eq!(seen(&daemon), folder.good, "edit {edit}: the start did not serve the last good state");
            readers = Readers::start(&daemon, &legal);
            starts += 1;
        }
        folder.tidy();
        folder.edit(&mut rng);
        let started = Instant::now();
        let live = wait::poll(LIMIT, || (seen(&daemon) == folder.good).then_some(()));
        assert!(live.is_some(), "edit {edit} never went live; faults: {}", daemon.get("/readyz?verbose").text());
        times.push(started.elapsed());
        assert_eq!(faults(&daemon), 0);
    }
    reads += readers.stop();
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    wait::say(&format!(
        "{edits} edits, {reads} reads, {starts} starts; live after {:?} (median), {:?} (99 %), {:?} (most)",
        at(50),
        at(99),
        at(100)
    ));
}

#[test]
fn edits_of_every_kind_are_live_or_refused_and_never_torn() {
    run(100);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_edits() {
    run(1_000);
}

/// Guards against a start that fails, or forgets the state it served, because the folder is gone.
#[test]
fn a_start_without_its_folder_serves_the_last_good_state_and_says_so() {
    let (dir, legal) = (temp_dir(), Arc::new(Legal::default()));
    let mut folder = Folder::new(dir.path(), legal);
    let mut daemon = Daemon::with(&["--catalog-dir", folder.path().to_str().expect("the folder can be changed")]);
    let good = seen(&daemon);
    fs::remove_file(folder.path()).expect("the folder can be changed");
    daemon.restart();
    assert_eq!(seen(&daemon), good);
    let standing = daemon.get("/readyz?verbose").json()["catalog"].clone();
    assert_eq!((&standing["origin"], &standing["status"]), (&Value::from("last_good"), &Value::from("stale")));
    // A separate thread writes the log.
    wait::poll(LIMIT, || daemon.log_tail().contains("its last good state is served").then_some(())).expect("the log says so");
    assert!(daemon.get("/metrics").text().contains("batchd_catalog_faults 1"));

    // All three ways to ask for a reload report the same, and find the folder when it is back.
    let refused = daemon.post_empty("/admin/catalog/reload");
    assert_eq!(refused.error_code(422), "catalog_invalid");
    assert!(
        refused.json()["error"]["faults"][0]["message"].as_str().expect("the folder can be changed").contains("cannot be read"),
        "{}",
        refused.text()
    );
    folder.good.1 = vec!["back".into()];
    folder.fill(&dir.path().join("release-0"));
    symlink("release-0", folder.path()).expect("the folder can be changed");
    wait::poll(LIMIT, || (seen(&daemon) == folder.good).then_some(())).expect("the folder that is back is found");
    let history = daemon.get("/admin/catalog/history").json();
    assert_eq!(
        (history["data"][0]["version"].as_u64(), history["data"].as_array().expect("the folder can be changed").len()),
        (Some(2), 2)
    );
    assert_eq!(history["data"][0]["changes"]["models"], serde_json::json!({ "added": 1, "removed": 1, "changed": 0 }));
    assert_eq!(daemon.post_empty("/admin/catalog/reload").expect(200)["status"], "unchanged");
    let unchanged = || {
        let metrics = daemon.get("/metrics").text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("batchd_catalog_reloads_total{outcome=\"unchanged\"} "));
        line.and_then(|count| count.parse::<u32>().ok()).expect("a count")
    };
    let before = unchanged();
    signal(daemon.pid(), "HUP");
    wait::poll(LIMIT, || (unchanged() > before).then_some(())).expect("SIGHUP reloads");
}

/// Resident memory of the daemon, in MiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1_024
}

/// Writes `models` models in files of `each`; the first model's price is `price`.
fn fill_large(dir: &Path, models: u32, each: u32, price: u32) {
    let write = |path: PathBuf, text: String| fs::write(path, text).expect("the folder can be changed");
    for folder in ["providers", "models"] {
        fs::create_dir_all(dir.join(folder)).expect("the folder can be changed");
    }
    write(dir.join("providers/sim.toml"), provider("P"));
    for file in 0..models.div_ceil(each) {
        let mut text = "schema = 1\n".to_owned();
        for number in file * each..((file + 1) * each).min(models) {
            let input = if number == 0 { price } else { 1 };
            text.push_str(&format!(
                "[[model]]\nid = \"org/model-{number}\"\naliases = [\"alias-{number}\"]\nname = \"Model {number}\"\norganisation = \"Org\"\n\
                 released = 2026-01-01\nendpoints = [\"/v1/responses\", \"/v1/chat/completions\"]\ninput = [\"text\"]\noutput = [\"text\"]\n\
                 context_window = 128000\nmax_output_tokens = 16000\n[[model.offering]]\nprovider = \"sim\"\nverification = \"verified\"\n\
                 [[model.offering.price]]\ninput = \"{input}\"\noutput = \"2\"\nsource = \"https://p\"\nverified_at = 2026-01-01\n"
            ));
        }
        // After the first time, only the first file changes.
        if file == 0 || price == 1 {
            write(dir.join(format!("models/m{file}.toml")), text);
        }
    }
}

fn reload_large(models: u32, each: u32, reloads: u32) {
    let dir = temp_dir();
    fill_large(dir.path(), models, each, 1);
    let daemon = Daemon::with(&["--catalog-dir", dir.path().to_str().expect("a plain path")]);
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for reload in 0..reloads {
        fill_large(dir.path(), models, each, reload + 2);
        let started = Instant::now();
        let answer = daemon.post_empty("/admin/catalog/reload").expect(200);
        times.push(started.elapsed());
        // The folder's watcher may have been faster.
        assert!(matches!(answer["status"].as_str(), Some("reloaded" | "unchanged")), "{answer}");
        let shown = daemon.get("/v1/catalog/models").json();
        assert_eq!(shown["data"].as_array().map(Vec::len), usize::try_from(models).ok());
        assert_eq!(shown["data"][0]["provider_offerings"][0]["price"]["input_per_mtok"], (reload + 2).to_string());
        memory.push(resident(&daemon));
    }
    times.sort();
    let (first, last) = (memory[memory.len() / 4], memory[memory.len() - 1]);
    wait::say(&format!(
        "{models} models in files of {each}, {reloads} reloads: {:?} (median), {:?} (most); resident {first} MiB after a quarter of them, {last} MiB at the end",
        times[times.len() / 2],
        times[times.len() - 1]
    ));
    assert!(last <= first + first / 4 + 16, "memory grows: {memory:?}");
}

#[test]
fn memory_does_not_grow_with_reloads() {
    reload_large(300, 100, 20);
}

#[test]
#[ignore = "takes minutes"]
fn five_thousand_models_a_hundred_times() {
    reload_large(5_000, 100, 100);
    reload_large(5_000, 5_000, 100);
}
