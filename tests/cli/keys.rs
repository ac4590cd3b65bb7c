//! `batchd keys`, against a running daemon: keys of every dialect from creation to revocation.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::support::daemon::{Daemon, temp_dir};
use super::support::http::{Form, Request, Response};
use super::support::wait;
use super::{command, exits, finish, text};

/// The key from the settings.
pub const OPERATOR: &str = "sk-operator";

/// The result of a command: exit code, standard output, standard error.
type Said = (i32, String, String);

pub fn guarded() -> (Daemon, tempfile::TempDir) {
    let dir = temp_dir();
    let keys = dir.path().join("keys");
    fs::write(&keys, format!("{OPERATOR}\n")).expect("a file of keys");
    (Daemon::with(&["--api-keys-file", &keys.to_string_lossy()]), dir)
}

fn ask_as(daemon: &Daemon, key: &str, args: &[&str]) -> Said {
    let url = format!("http://{}", daemon.addr());
    let mut command = command(daemon.dir(), &[&["keys"], args, &["--url", &url]].concat());
    command.env("BATCHD_API_KEY", key);
    let output = finish(command, None);
    let shown = |bytes: &[u8]| text(bytes).replace(&url, "[url]");
    (output.status.code().unwrap_or(-1), shown(&output.stdout), shown(&output.stderr))
}

fn ask(daemon: &Daemon, args: &[&str]) -> Said {
    ask_as(daemon, OPERATOR, args)
}

/// Creates a key; returns its secret and its id.
pub fn create(daemon: &Daemon, args: &[&str]) -> (String, String) {
    let (code, secret, said) = ask(daemon, &[&["create"], args].concat());
    assert_eq!(code, 0, "{said}");
    let secret = secret.strip_suffix('\n').expect("a line").to_owned();
    assert!(!secret.contains(char::is_whitespace), "the secret is alone on standard output");
    assert!(said.contains("its secret is shown once, now") && !said.contains(&secret), "{said}");
    let id = said.split_whitespace().find(|word| word.starts_with("key_")).expect("an id").to_owned();
    (secret, id)
}

pub fn with(daemon: &Daemon, key: &str, request: Request) -> Response {
    daemon.send(request.header("authorization", &format!("Bearer {key}")))
}

fn get(daemon: &Daemon, key: &str, path: &str) -> Response {
    with(daemon, key, Request::get(path))
}

/// Text that differs from run to run, and its replacement in a snapshot. Both have the same length,
/// so that columns stay in place. Ids in the arguments of a test begin with more zeros than
/// generated ids.
const UNSTABLE: [(&str, &str); 2] = [
    (r"(key|org)_01[0-9a-f]{30}", "${1}_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    (r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "20yy-mm-ddThh:mm:ss.000Z"),
];

fn assert_nowhere(secret: &str, dir: &Path) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            assert_nowhere(secret, &path);
            continue;
        }
        let content = fs::read(&path).expect("a file");
        assert!(!content.windows(secret.len()).any(|part| part == secret.as_bytes()), "a secret is in {}", path.display());
    }
}

#[test]
fn keys_of_every_dialect_come_and_go() {
    let (mut daemon, _dir) = guarded();
    let (code, openai, said) =
        ask(&daemon, &["create", "--dialect", "openai", "--org", "Acme & Söhne", "--create-org", "--name", "nightly"]);
    assert!(code == 0 && said.contains("created the organisation `Acme & Söhne` with unlimited credits: org_"), "{said}");
    let openai = openai.trim_end().to_owned();
    let org = said.split_whitespace().find(|word| word.starts_with("org_")).expect("an id").to_owned();
    let openai_id = said.split_whitespace().find(|word| word.starts_with("key_")).expect("an id").to_owned();
    let (phaseo, _) = create(&daemon, &["--dialect", "phaseo", "--org", "Acme & Söhne"]);
    let (management, _) = create(&daemon, &["--dialect", "phaseo", "--org", &org, "--management"]);
    let (batchrouter, batchrouter_id) = create(&daemon, &["--dialect", "batchrouter", "--org", &org, "--expires", "30d"]);
    let (short, _) = create(&daemon, &["--dialect", "openai", "--org", &org, "--expires", "1s"]);
    let (own, _) = create(&daemon, &["--dialect", "openai", "--org", "operator"]);
    for (secret, start, length) in [
        (&openai, "sk-batchd-", 53),
        (&phaseo, "phaseo_v1_sk_", 69),
        (&management, "phaseo_v1_mk_", 69),
        (&batchrouter, "br_live_", 32),
        (&own, "sk-batchd-", 53),
    ] {
        assert!(secret.starts_with(start) && secret.len() == length, "{start}");
    }

    // Keys of one organisation reach the same data, whatever their dialect; keys of another
    // organisation do not.
    let form = Form::default().field("purpose", "batch").file("file", "in.jsonl", b"{}\n");
    let file = with(&daemon, &openai, Request::post("/v1/files").form(form)).expect(200)["id"].as_str().expect("an id").to_owned();
    let path = format!("/openai/v1/files/{file}");
    for key in [&openai, &phaseo, &batchrouter] {
        get(&daemon, key, &path).expect(200);
        assert_eq!(reason(&get(&daemon, key, "/v1/webhook-endpoints")), wrong_kind(key));
        assert_eq!(get(&daemon, key, "/admin/organisations").status(), 403);
    }
    get(&daemon, &own, &path).expect(404);
    // A created key is not the operator's, even if it belongs to the operator's organisation.
    for path in ["/admin/organisations", "/metrics", "/readyz?verbose"] {
        assert_eq!(get(&daemon, &own, path).status(), 403, "{path}");
        assert_eq!(get(&daemon, &management, path).status(), 401, "{path}");
    }
    assert_eq!(reason(&get(&daemon, &management, &path)), "management_key_not_valid_for_gateway");
    for path in ["/v1/webhook-endpoints", "/phaseo/v1/webhook-endpoints/we_1"] {
        assert_ne!(get(&daemon, &management, path).status(), 401, "{path}");
    }
    let expired = wait::poll(wait::SOON, || (get(&daemon, &short, "/v1/files").status() == 401).then_some(()));
    assert!(expired.is_some());
    assert_eq!(get(&daemon, &short, "/v1/files").error_code(401), "api_key_expired");
    assert_eq!(get(&daemon, "sk-batchd-unknown", "/v1/files").error_code(401), "invalid_api_key");

    for id in [&openai_id, &batchrouter_id] {
        assert_eq!(ask(&daemon, &["revoke", id]), (0, format!("{id} is revoked: it opens nothing any more\n"), String::new()));
    }
    let (code, listed, _) = ask(&daemon, &["list"]);
    assert_eq!(code, 0);
    insta::with_settings!({ filters => UNSTABLE }, { insta::assert_snapshot!("keys_list", listed) });
    let (_, listed, _) = ask(&daemon, &["list", "--org", "operator", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one line of JSON");
    let only = listed["data"].as_array().expect("an array");
    assert_eq!((only.len(), &only[0]["dialect"], &only[0]["management"]), (1, &json!("openai"), &json!(false)));

    let gone = |daemon: &Daemon| {
        assert_eq!(get(daemon, &openai, "/v1/files").error_code(401), "api_key_revoked");
        assert_eq!(get(daemon, &batchrouter, "/v1/batches").error_code(401), "unauthorized");
        get(daemon, &phaseo, &path).expect(200);
        assert_eq!(reason(&get(daemon, &management, &path)), "management_key_not_valid_for_gateway");
    };
    gone(&daemon);
    daemon.kill9();
    daemon.restart();
    gone(&daemon);
    for secret in [&openai, &phaseo, &management, &batchrouter, &short, &own] {
        assert_nowhere(secret, daemon.dir());
    }
}

/// The code for a key that is no management key, as its client reads it.
/// This is the code of a 401, in any of the dialects' envelopes.
fn reason(answer: &Response) -> String {
    assert_eq!(answer.status(), 401, "{}", answer.text());
    let body = answer.json();
    body["reason"].as_str().or(body["error"]["code"].as_str()).unwrap_or_default().to_owned()
}

fn wrong_kind(key: &str) -> &'static str {
    if key.starts_with("br_live_") { "unauthorized" } else { "management_key_required" }
}

#[test]
fn what_cannot_be_done_is_told_before_anything_is_created() {
    let (daemon, _dir) = guarded();
    let (own, _) = create(&daemon, &["--dialect", "batchrouter", "--org", "operator"]);
    for _ in 0..2 {
        let twin = Request::post("/admin/organisations").json(&json!({ "name": "Twin", "api_key": false }));
        assert!(with(&daemon, OPERATOR, twin).expect(201)["api_key"].is_null());
    }
    let told = |key: &str, args: &[&str]| {
        let (code, out, said) = ask_as(&daemon, key, args);
        assert_eq!(out, "", "{args:?}");
        format!("{} {code} {said}", args.join(" "))
    };
    let nothing = "key_00000000000000000000000007";
    let said = [
        told(OPERATOR, &["create", "--dialect", "openai", "--org", "New", "--management"]),
        told(OPERATOR, &["create", "--dialect", "openapi", "--org", "New"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "org_7"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "org_00000000000000000000000007"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "New", "--expires", "2020-01-01T00:00:00Z"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "New", "--expires", "soon"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "Twin"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "New"]),
        told(OPERATOR, &["create", "--dialect", "phaseo", "--org", "operator", "--scope", "read,all"]),
        told(OPERATOR, &["list", "--org", "New"]),
        told(OPERATOR, &["list", "--org", "Twin"]),
        told(OPERATOR, &["revoke", nothing]),
        told(OPERATOR, &["revoke", &own]).replace(&own, "[secret]"),
        told("", &["list"]),
        told(&own, &["list"]),
    ];
    insta::with_settings!({ filters => UNSTABLE }, { insta::assert_snapshot!("keys_refusals", said.join("\n")) });
    let output = finish(command(daemon.dir(), &["keys", "create", "--org", "New"]), None);
    exits(&output, 2);
    let orgs = get(&daemon, OPERATOR, "/admin/organisations?name=New").expect(200);
    assert_eq!(orgs["data"], json!([]));
}

#[test]
fn organisations_are_funded_renamed_and_closed() {
    let (daemon, _dir) = guarded();
    let orgs = |args: &[&str]| {
        let url = format!("http://{}", daemon.addr());
        let mut command = command(daemon.dir(), &[&["orgs"], args, &["--url", &url]].concat());
        command.env("BATCHD_API_KEY", OPERATOR);
        let output = finish(command, None);
        let said = format!("{} {}{}\n", output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr));
        said.replace(&url, "[url]")
    };
    let said = [
        orgs(&["create", "Acme", "--credits", "25.00"]),
        orgs(&["create", "Acme"]),
        orgs(&["create", "Beta", "--credits", "much"]),
        orgs(&["credit", "Acme", "10"]),
        orgs(&["rename", "Acme", "Acme & Co"]),
        orgs(&["credit", "Acme & Co", "--unlimited"]),
        orgs(&["credit", "Acme", "1"]),
    ];
    let (reader, _) = create(&daemon, &["--dialect", "openai", "--org", "Acme & Co", "--scope", "read"]);
    get(&daemon, &reader, "/v1/files").expect(200);
    assert_eq!(with(&daemon, &reader, Request::post("/v1/batches").json(&json!({}))).error_code(403), "insufficient_scope");
    let closed = [
        orgs(&["close", "Acme & Co"]),
        orgs(&["close", "Acme & Co", "--data", "erase"]),
        orgs(&["close", "operator", "--data", "keep"]),
        orgs(&["list"]),
    ];
    assert_eq!(get(&daemon, &reader, "/v1/files").error_code(401), "api_key_revoked");
    let said = [&said[..], &closed[..]].concat().concat();
    insta::with_settings!({ filters => UNSTABLE }, { insta::assert_snapshot!("orgs", said) });
}
