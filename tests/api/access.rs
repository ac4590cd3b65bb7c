//! Who may call: API keys, and requests from pages in a browser.

use crate::support::daemon::{Daemon, temp_dir};
use crate::support::http::Request;

#[test]
fn with_keys_every_call_needs_one() {
    let dir = temp_dir();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "# two clients\nsk-first\nsk-second\n").expect("a file of keys");
    let daemon = Daemon::with(&["--api-keys-file", &keys.to_string_lossy()]);
    let with = |value: &str| daemon.send(Request::get("/v1/files").header("authorization", value));
    assert_eq!(daemon.get("/v1/files").error_code(401), "missing_api_key");
    for wrong in ["Bearer sk-third", "Bearer # two clients", "Bearer ", "Basic c2stZmlyc3Q6", "sk-first"] {
        assert_eq!(with(wrong).status(), 401, "{wrong}");
    }
    assert_eq!(with("Bearer sk-third").error_code(401), "invalid_api_key");
    for right in ["Bearer sk-first", "bearer sk-second"] {
        with(right).expect(200);
    }
    // A load balancer has no key.
    assert_eq!(daemon.get("/healthz").status(), 200);
}

#[test]
fn without_keys_no_foreign_page_may_call() {
    let daemon = Daemon::start();
    for (name, value) in [("origin", "https://evil.example"), ("host", "evil.example"), ("host", "evil.example:80")] {
        let response = daemon.send(Request::get("/v1/files").header(name, value));
        assert_eq!(response.error_code(403), "origin_not_allowed", "{name}: {value}");
        assert!(response.header("access-control-allow-origin").is_none());
    }
    for (name, value) in [("origin", "http://localhost:3000"), ("host", "127.0.0.1:1"), ("host", "[::1]:80")] {
        daemon.send(Request::get("/v1/files").header(name, value)).expect(200);
    }
}
