//! `batchd orgs quotas` and `batchd keys quotas`, against a running daemon.

use serde_json::json;

use super::keys::{OPERATOR, create, guarded, with};
use super::support::daemon::Daemon;
use super::support::http::{Form, Request};
use super::{command, finish, text};

/// Runs a command as the operator; returns its exit code and its output.
fn ask(daemon: &Daemon, args: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", daemon.addr());
    let mut command = command(daemon.dir(), &[args, &["--url", &url]].concat());
    command.env("BATCHD_API_KEY", OPERATOR);
    let output = finish(command, None);
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn quotas_are_set_shown_kept_and_lifted() {
    let (mut daemon, _dir) = guarded();
    let (secret, id) = create(&daemon, &["--dialect", "openai", "--org", "Acme", "--create-org"]);
    let of_org = |daemon: &Daemon, args: &[&str]| {
        let (code, shown, said) = ask(daemon, &[&["orgs", "quotas", "Acme"], args].concat());
        assert_eq!(code, 0, "{said}");
        shown
    };
    let row = |shown: &str, quota: &str| -> Vec<String> {
        let line = shown.lines().find(|line| line.starts_with(quota)).expect("a line of the table");
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    assert_eq!(row(&of_org(&daemon, &[]), "stored_bytes"), ["-", "0"]);
    let shown = of_org(&daemon, &["stored_bytes=0", "usd_per_day=2.50"]);
    assert_eq!(
        (row(&shown, "stored_bytes"), row(&shown, "usd_per_day")),
        (vec!["0".into(), "0".into()], vec!["2.500000".into(), "0.00".into()])
    );
    let (code, shown, said) = ask(&daemon, &["keys", "quotas", &id, "requests_per_minute=2"]);
    assert_eq!((code, row(&shown, "requests_per_minute")), (0, vec!["2".to_owned(), "0".to_owned()]), "{said}");

    let upload = || Request::post("/v1/files").form(Form::default().field("purpose", "batch").file("file", "in.jsonl", b"{}\n"));
    let refused = with(&daemon, &secret, upload()).expect(429);
    assert_eq!((&refused["error"]["code"], &refused["error"]["param"]), (&json!("quota_exceeded"), &json!("stored_bytes")));
    with(&daemon, &secret, Request::get("/v1/batches")).expect(200);
    let refused = with(&daemon, &secret, Request::get("/v1/batches")).expect(429);
    assert_eq!(refused["error"]["param"], "requests_per_minute");

    daemon.restart();
    assert_eq!(row(&of_org(&daemon, &["usd_per_day=none"]), "usd_per_day"), ["-", "0.00"]);
    with(&daemon, &secret, upload()).expect(429);
    assert_eq!(row(&of_org(&daemon, &["stored_bytes=none"]), "stored_bytes"), ["-", "0"]);
    with(&daemon, &secret, upload()).expect(200);
    for (args, why) in
        [(["orgs", "quotas", "Acme", "rows=1"], "there is no quota `rows`"), (["orgs", "quotas", "Acme", "rows_queued=x"], "whole number")]
    {
        let (code, _, said) = ask(&daemon, &args);
        assert!(code == 2 && said.contains(why), "{said}");
    }
}
