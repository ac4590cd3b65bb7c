//! `batchd store check` and `batchd store salvage` on data directories that a real daemon has left
//! behind, sound and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::api::counts;
use super::support::daemon::Daemon;
use super::support::{rows, wait};
use super::{command, exits, finish, text};

/// The directory of a stopped daemon with two ended batches, the batches' ids, and the ids of their
/// inputs.
fn stopped() -> (Daemon, Vec<String>, Vec<String>) {
    let mut daemon = Daemon::start();
    let batches: Vec<_> = (0..2).map(|_| daemon.submit(rows::many(40, rows::INSTANT))).collect();
    let inputs =
        batches.iter().map(|id| daemon.wait_ended(id, wait::A_WHILE)["input_file_id"].as_str().expect("an input").to_owned()).collect();
    let status = daemon.sigterm_and_wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    (daemon, batches, inputs)
}

/// Reads every file below a folder except the lock.
fn content_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(content_of(&path));
        } else if !path.ends_with("lock") {
            found.insert(path.clone(), fs::read(path).expect("a file"));
        }
    }
    found
}

/// The output of a command, without the parts that differ from run to run.
fn shown(bytes: &[u8], daemon: &Daemon, ids: &[(&str, &str)]) -> String {
    let mut shown = text(bytes).replace(&*daemon.dir().to_string_lossy(), "DIR");
    for (id, name) in ids {
        shown = shown.replace(id, name);
    }
    shown
}

fn store(daemon: &Daemon, args: &[&str]) -> Command {
    command(daemon.dir(), &[&["store"], args, &["--data-dir", "data"]].concat())
}

/// The path of a file's content: the name on disk and the printed id spell the id in different
/// letters.
fn content(daemon: &Daemon, nth: usize) -> PathBuf {
    let mut paths: Vec<_> =
        fs::read_dir(daemon.data_dir().join("files")).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    // Ids, and therefore names, sort by time.
    paths.sort();
    paths.swap_remove(nth)
}

#[test]
fn a_check_names_what_is_damaged_and_a_salvage_what_is_lost() {
    let running = Daemon::start();
    for args in [&["check"][..], &["salvage", "--to", "new"]] {
        let output = finish(store(&running, args), None);
        exits(&output, 2);
        let said = text(&output.stderr);
        assert!(said.contains("is in use by another batchd process"), "{said}");
    }
    drop(running);

    let (mut daemon, batches, inputs) = stopped();
    let output = finish(store(&daemon, &["check", "--deep"]), None);
    exits(&output, 0);
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(said.starts_with("sound: 2 batches, 80 rows with a result, 4 files; "), "{said}");
    let sound = finish(store(&daemon, &["check", "--json"]), None);
    let answer: serde_json::Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!((&answer["sound"], &answer["rows"]), (&serde_json::json!(true), &serde_json::json!(80)));

    fs::remove_file(content(&daemon, 1)).unwrap();
    let mut other = fs::read(content(&daemon, 0)).unwrap();
    other[100] ^= 1;
    fs::write(content(&daemon, 0), other).unwrap();
    let before = content_of(&daemon.data_dir());
    let ids = [(&*inputs[0], "INPUT-1"), (&*inputs[1], "INPUT-2"), (&*batches[0], "BATCH-1"), (&*batches[1], "BATCH-2")];
    let shallow = finish(store(&daemon, &["check"]), None);
    let deep = finish(store(&daemon, &["check", "--deep"]), None);
    let salvaged = finish(store(&daemon, &["salvage", "--to", "new"]), None);
    for output in [&shallow, &deep, &salvaged] {
        exits(output, 1);
    }
    let told: Vec<_> = [&shallow, &deep, &salvaged].iter().map(|output| shown(&output.stdout, &daemon, &ids)).collect();
    insta::assert_snapshot!("store_damaged", told.join("---\n"));
    assert!(content_of(&daemon.data_dir()) == before, "the old directory is as it was");
    let again = finish(store(&daemon, &["salvage", "--to", "new"]), None);
    exits(&again, 2);
    assert!(text(&again.stderr).contains("new is not empty"), "{}", text(&again.stderr));

    // A daemon serves the salvaged data.
    fs::rename(daemon.data_dir(), daemon.dir().join("old")).unwrap();
    fs::rename(daemon.dir().join("new"), daemon.data_dir()).unwrap();
    exits(&finish(store(&daemon, &["check", "--deep"]), None), 0);
    daemon.restart();
    for id in &batches {
        let batch = daemon.batch(id);
        assert_eq!((batch["status"].as_str(), counts(&batch)), (Some("completed"), (40, 40, 0)));
        let output = daemon.get(&format!("/v1/files/{}/content", batch["output_file_id"].as_str().unwrap()));
        assert_eq!((output.status(), output.body.split(|byte| *byte == b'\n').count()), (200, 41));
    }
    assert_eq!(daemon.get(&format!("/v1/files/{}", inputs[0])).status(), 404);
}

#[test]
fn a_place_that_the_disk_does_not_give_is_named_and_all_else_is_brought_back() {
    let (daemon, ..) = stopped();
    let library = daemon.dir().join("bad_place.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/bad_place.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("cc runs").success());
    let before = content_of(&daemon.data_dir());
    // Where the store is written first, so that this place is in use or was rewritten since.
    let with_fault = |args: &[&str]| {
        let mut command = store(&daemon, args);
        command.env("LD_PRELOAD", &library).env("BAD_FILE", "/store/db").env("BAD_FROM", "9000").env("BAD_TO", "9001");
        finish(command, None)
    };
    let checked = with_fault(&["check"]);
    exits(&checked, 1);
    let named = "the log, byte 8192: 4096 bytes cannot be read: Input/output error (os error 5)";
    assert!(text(&checked.stdout).contains(named), "{}", text(&checked.stdout));
    let salvaged = with_fault(&["salvage", "--to", "new"]);
    assert!(text(&salvaged.stdout).contains(&format!("found: {named}")), "{}", text(&salvaged.stdout));
    assert!(matches!(salvaged.status.code(), Some(0 | 1)), "{}", text(&salvaged.stderr));
    assert!(content_of(&daemon.data_dir()) == before, "the old directory is as it was");
    exits(&finish(command(daemon.dir(), &["store", "check", "--deep", "--data-dir", "new"]), None), 0);
}
