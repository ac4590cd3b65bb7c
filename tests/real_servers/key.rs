//! A real server that takes another key.

use super::server::{Kind, Server};
use super::support::daemon::{Daemon, temp_dir};
use super::support::wait;
use super::{LIMIT, alone, check, input};

/// Rows wait while the key is wrong, with the reason in sight, and run once it is right.
fn a_wrong_key_holds_the_lane(kind: Kind, args: &[&str]) {
    const ROWS: usize = 50;
    let _alone = alone();
    let server = Server::start(kind, &[&["--api-key", "right"], args].concat());
    let keys = temp_dir();
    let file = keys.path().join("key");
    std::fs::write(&file, "wrong").expect("a key file");
    let daemon = Daemon::with(&["--upstream", &server.url(), "--upstream-api-key-file", file.to_str().expect("UTF-8")]);
    let id = daemon.submit(input(0..ROWS));
    let waiting = |batch: &serde_json::Value| batch["batchd"]["waiting"][0]["reason"] == "key_refused";
    let batch = daemon.wait_for(&id, wait::A_WHILE, "held", waiting);
    let held = &batch["batchd"]["waiting"][0];
    assert_eq!(held["rows"], ROWS, "{batch}");
    let said = held["provider_said"].as_str().unwrap_or_default();
    assert!(said.contains("401"), "{batch}");
    wait::say(&format!("{kind:?}, wrong key: {said}"));
    let lanes = daemon.get("/admin/lanes").expect(200);
    assert_eq!((&lanes["data"][0]["status"], &lanes["data"][0]["waiting"]["reason"]), (&"held".into(), &"key_refused".into()), "{lanes}");

    std::fs::write(&file, "right").expect("a key file");
    assert_eq!(daemon.post_empty("/admin/catalog/reload").status(), 200);
    let batch = daemon.wait_ended(&id, LIMIT);
    check(&daemon, &batch, 0..ROWS);
}

#[test]
#[ignore = "installs a model server"]
fn wrong_key_of_llama_server() {
    a_wrong_key_holds_the_lane(Kind::Llama, &["--parallel", "4"]);
}

#[test]
#[ignore = "installs a model server"]
fn wrong_key_of_vllm() {
    a_wrong_key_holds_the_lane(Kind::Vllm, &[]);
}
