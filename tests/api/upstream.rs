//! How the daemon handles an upstream's answers, good and bad.

use std::time::Duration;

use serde_json::json;

use crate::support::api::{self, CHAT, counts, id_of};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};
use crate::support::{rows, wait};

/// Numbers, escapes and spacing that no serialiser would reproduce.
const ODD: &str = "{\n  \"id\" : \"x\",\r\n\t\"choices\":[ {} ],\"n\":[1.0e0, 1E+2 ,-0, 0.10, 123456789012345678901234567890],\n \"s\":\"\\u00e9\\/ \\n é\", \"usage\":{} }\n";

fn one(daemon: &Daemon, lines: &[String]) -> (Vec<api::Line>, Vec<api::Line>) {
    let batch = daemon.complete(rows::file(lines));
    (daemon.output(&batch), daemon.errors(&batch))
}

fn chat(name: &str) -> String {
    rows::chat(name, "m", &json!({}))
}

#[test]
fn the_row_reaches_the_provider_byte_for_byte() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let body =
        r#"{ "user":"odd",  "model" :"m" , "temperature":1.0e0,"seed":123456789012345678901234567890, "x":"\u00e9é\/" ,"messages":[ ]}"#;
    one(&daemon, &[rows::chat_verbatim("odd", body)]);
    let call = &upstream.kept_of("odd")[0];
    assert_eq!(call.path, CHAT);
    assert_eq!(String::from_utf8_lossy(&call.body), body);
    assert!(call.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    assert!(call.header("idempotency-key").is_some_and(|key| key.starts_with("batchd-")), "{:?}", call.headers);
    assert!(call.header("authorization").is_none(), "no key is configured: {:?}", call.headers);
}

#[test]
fn the_priority_of_a_row_is_the_operators() {
    let upstream = FakeUpstream::healthy();
    let body = |name: &str| format!(r#"{{"user":"{name}","model":"m" ,"priority": -9,"messages":[ ]}}"#);
    for (setting, expected) in [
        (None, r#"{"user":"strip","model":"m" ,"messages":[ ]}"#),
        (Some("allow"), r#"{"user":"allow","model":"m" ,"priority": -9,"messages":[ ]}"#),
        (Some("10"), r#"{"user":"10","model":"m" ,"priority": 10,"messages":[ ]}"#),
    ] {
        let name = setting.unwrap_or("strip");
        let args = setting.map(|setting| ["--upstream-row-priority", setting]);
        let daemon = Daemon::with_upstream(&upstream.url(), args.as_ref().map_or(&[], |args| &args[..]));
        one(&daemon, &[rows::chat_verbatim(name, &body(name))]);
        assert_eq!(String::from_utf8_lossy(&upstream.kept_of(name)[0].body), expected);
    }
}

#[test]
fn listed_headers_of_a_create_go_along_with_its_rows() {
    let upstream = FakeUpstream::healthy();
    let seeds = Seeds::new();
    let provider = |id: &str, listed: &str| {
        let seed = format!(
            "schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"{}\"\nforward_headers = [{listed}]\n",
            upstream.url()
        );
        seeds.write(&format!("providers/{id}.toml"), seed);
    };
    provider("one", r#""Traceparent", "x-team""#);
    provider("two", r#""x-team""#);
    let model = |id: &str| {
        format!(
            "[[model]]\nid = \"for-{id}\"\norganisation = \"o\"\nendpoints = [\"/v1/chat/completions\"]\n[[model.offering]]\nprovider = \"{id}\"\n"
        )
    };
    seeds.write("models/m.toml", format!("schema = 1\n{}{}", model("one"), model("two")));
    let mut daemon = seeds.daemon(&[]);
    let input = daemon.upload(rows::file(&["one", "two"].map(|id| rows::chat(id, &format!("for-{id}"), &json!({})))));
    let create = |daemon: &Daemon, team: &str| {
        let request = Request::post("/v1/batches").json(&Daemon::batch_request(&input, CHAT));
        let request =
            request.header("traceparent", "00-0af7-b7ad-01").header("x-team", team).header("x-other", "1").header("cookie", "c=1");
        daemon.send(request)
    };
    let batch = id_of(&create(&daemon, "search").expect(200));
    daemon.kill9();
    daemon.restart();
    daemon.wait_ended(&batch, wait::A_WHILE);
    for (id, trace) in [("one", Some("00-0af7-b7ad-01")), ("two", None)] {
        for call in upstream.kept_of(id) {
            assert_eq!((call.header("traceparent"), call.header("x-team")), (trace, Some("search")), "{:?}", call.headers);
            assert_eq!((call.header("x-other"), call.header("cookie")), (None, None));
        }
    }
    assert_eq!(create(&daemon, &"x".repeat(3_000)).error_code(400), "invalid_value");
}

#[test]
fn the_answer_reaches_the_client_byte_for_byte() {
    let upstream = FakeUpstream::start(|_| Reply::new(200, ODD).header("x-request-id", "req-of-provider"));
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let (output, _) = one(&daemon, &[chat("odd")]);
    let expected = ODD.trim().replace(['\r', '\n'], " ");
    assert_eq!(output[0].body.as_deref(), Some(expected.as_str()));
    assert_eq!(output[0].value["response"]["request_id"], "req-of-provider");
}

#[test]
fn other_operations_go_to_their_own_paths() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    for endpoint in ["/v1/embeddings", "/v1/responses"] {
        let input = daemon.upload(rows::row("one", endpoint, &json!({"model": "m", "input": "hi", "user": endpoint})));
        let batch = id_of(&daemon.post("/v1/batches", &Daemon::batch_request(&input, endpoint)).expect(200));
        let batch = daemon.wait_ended(&batch, wait::A_WHILE);
        assert_eq!(counts(&batch), (1, 1, 0), "{batch}");
        assert_eq!(upstream.kept_of(endpoint)[0].path, endpoint);
        assert_eq!(batch["usage"]["input_tokens"], 3, "{batch}");
    }
}

#[test]
fn a_base_path_of_the_upstream_is_kept() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&format!("{}/openai/v1", upstream.url()), &[]);
    one(&daemon, &[chat("a")]);
    assert_eq!(upstream.kept()[0].path, "/openai/v1/chat/completions");
}

#[test]
fn a_refusal_is_final_and_kept_as_it_came() {
    let upstream = FakeUpstream::start(|call| match call.row.as_str() {
        "bad" => Reply::error(400),
        "gone" => Reply::new(410, "<html>not here</html>"),
        _ => Reply::ok(call),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let (output, errors) = one(&daemon, &[chat("bad"), chat("fine"), chat("gone")]);
    assert_eq!(api::ids(&output), ["fine"]);
    assert_eq!(api::ids(&errors), ["bad", "gone"]);
    assert_eq!(errors[0].status(), Some(400));
    assert_eq!(errors[0].value["response"]["body"]["error"]["message"], "scripted 400");
    assert_eq!(errors[1].status(), Some(410));
    assert_eq!(errors[1].value["response"]["body"], "<html>not here</html>", "what is not JSON becomes a string");
    assert_eq!((upstream.calls_of("bad"), upstream.calls_of("gone")), (1, 1), "no refusal is tried again");
}

#[test]
fn passing_faults_are_tried_again_until_they_pass() {
    fn script(call: &Call) -> Reply {
        if call.attempt > 2 {
            return Reply::ok(call);
        }
        match call.row.as_str() {
            "500" => Reply::error(500),
            "503" => Reply::error(503).header("retry-after", "0"),
            "408" => Reply::error(408),
            "409" => Reply::error(409),
            "cut" => Reply::ok(call).cut(),
            "reset" => Reply::reset(),
            "html" => Reply::new(200, "<html>busy</html>"),
            "half" => Reply::new(200, r#"{"id":"x","choices":["#),
            "list" => Reply::new(200, "[]"),
            "empty" => Reply::new(200, ""),
            _ => Reply::ok(call).after(Duration::from_millis(50)),
        }
    }
    let names = ["500", "503", "408", "409", "cut", "reset", "html", "half", "list", "empty"];
    let upstream = FakeUpstream::start(script);
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-attempts", "3", "--upstream-concurrency", "4"]);
    // Meanwhile other rows succeed.
    let others: Vec<String> = (0..150).map(|number| format!("fine-{number}")).collect();
    let lines: Vec<String> = names.iter().copied().chain(others.iter().map(String::as_str)).map(chat).collect();
    let (output, errors) = one(&daemon, &lines);
    assert_eq!(api::ids(&output)[..names.len()], names, "{errors:?}");
    assert_eq!((output.len(), errors.len()), (lines.len(), 0));
    for name in names {
        assert_eq!(upstream.calls_of(name), 3, "{name}");
    }
    assert_eq!(upstream.changed_keys(), 0, "every attempt of a row carries the same idempotency key");
}

#[test]
fn lasting_faults_end_after_the_last_attempt_with_the_reason() {
    let upstream = FakeUpstream::start(|call| match call.row.as_str() {
        "503" => Reply::error(503),
        "cut" => Reply::ok(call).cut(),
        "reset" => Reply::reset(),
        "html" => Reply::new(200, "<html>busy</html>"),
        _ => Reply::ok(call).after(Duration::from_millis(100)),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-attempts", "3", "--upstream-concurrency", "8"]);
    let names = ["503", "cut", "reset", "html"];
    // The others show that the server is well: the failures are the rows' own.
    let fine: Vec<String> = (0..200).map(|n| format!("fine {n}")).collect();
    let lines: Vec<String> = names.into_iter().chain(fine.iter().map(String::as_str)).map(chat).collect();
    let (output, errors) = one(&daemon, &lines);
    assert_eq!(api::ids(&output), fine);
    assert_eq!(api::ids(&errors), names);
    let codes: Vec<_> = errors.iter().map(|line| line.error_code().unwrap_or_default()).collect();
    assert_eq!(codes, ["server_error", "connection_interrupted", "connection_interrupted", "invalid_response"]);
    assert_eq!(errors[0].status(), Some(503), "the last response is kept");
    assert!(errors.iter().all(|line| line.value["error"]["message"].as_str().is_some_and(|m| !m.is_empty())), "{errors:?}");
    for name in names {
        // A dead pooled connection may cost one call more than there are attempts, and a failure is
        // charged in part where many calls fail.
        assert!((3..=8).contains(&upstream.calls_of(name)), "{name}: {}", upstream.calls_of(name));
    }
    assert!((3..=6).contains(&upstream.calls_of("503")), "{}", upstream.calls_of("503"));
}

#[test]
fn rows_wait_for_an_upstream_that_is_not_there_and_cancelling_ends_that() {
    // A port that is bound but not accepting would still connect; a port that was just freed
    // refuses.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = Daemon::with_upstream(&format!("http://{addr}"), &["--max-attempts", "1"]);
    let id = daemon.submit(chat("a"));
    daemon.wait_for(&id, wait::A_WHILE, "validated", |batch| batch["status"] == "in_progress");
    let held = wait::poll(wait::A_WHILE, || daemon.log_tail().contains("the provider cannot be reached").then_some(()));
    assert!(held.is_some(), "{}", daemon.log_tail());
    let batch = daemon.batch(&id);
    assert_eq!(
        (counts(&batch), batch["status"].as_str()),
        ((1, 0, 0), Some("in_progress")),
        "one attempt is all it has, and none is used up"
    );
    daemon.post_empty(&format!("/v1/batches/{id}/cancel")).expect(200);
    let ended = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(daemon.errors(&ended)[0].error_code(), Some("batch_cancelled"));
}

#[test]
fn being_rate_limited_costs_no_attempt() {
    let upstream =
        FakeUpstream::start(|call| if call.attempt <= 12 { Reply::error(429).header("retry-after", "0") } else { Reply::ok(call) });
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-attempts", "2"]);
    let (output, _) = one(&daemon, &[chat("a")]);
    assert_eq!(output.len(), 1);
    assert_eq!(upstream.calls_of("a"), 13);
}

#[test]
fn retry_after_in_seconds_is_obeyed() {
    let upstream = FakeUpstream::start(|call| match (call.row.as_str(), call.attempt) {
        ("429", 1) => Reply::error(429).header("retry-after", "1"),
        ("503", 1) => Reply::error(503).header("retry-after", "1"),
        _ => Reply::ok(call),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    one(&daemon, &[chat("429"), chat("503")]);
    for name in ["429", "503"] {
        let calls = upstream.kept_of(name);
        let pause = calls[1].at - calls[0].at;
        assert!(pause >= Duration::from_millis(990), "{name}: {pause:?}");
        assert!(pause < Duration::from_secs(10), "{name}: {pause:?}");
    }
}

#[test]
fn retry_after_as_a_date_is_obeyed() {
    let at = jiff::Timestamp::now() + Duration::from_secs(3);
    let date = httpdate::fmt_http_date(at.into());
    // The date has no fraction: the earliest moment that respects it is the full second.
    let earliest = jiff::Timestamp::from_second(at.as_second()).unwrap();
    let upstream = FakeUpstream::start(move |call| {
        if jiff::Timestamp::now() < earliest { Reply::error(429).header("retry-after", &date) } else { Reply::ok(call) }
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let (output, _) = one(&daemon, &[chat("a")]);
    assert_eq!(output.len(), 1);
    assert!(upstream.calls_of("a") <= 2, "{} calls: it came back before the date", upstream.calls_of("a"));
}

#[test]
fn slow_and_large_answers_arrive_whole() {
    let large = format!(r#"{{"choices":[{{"text":"{}"}}]}}"#, "x".repeat(3 << 20));
    let expected = large.clone();
    let upstream = FakeUpstream::start(move |call| match call.row.as_str() {
        "large" => Reply::new(200, large.clone()),
        _ => Reply::ok(call).drip(Duration::from_millis(5)),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let (output, _) = one(&daemon, &[chat("large"), chat("slow")]);
    assert_eq!(api::ids(&output), ["large", "slow"]);
    assert!(output[0].body.as_deref() == Some(&expected), "the large body differs");
}

#[test]
fn the_limit_on_calls_at_a_time_holds_and_is_used() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(20)));
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "7"]);
    daemon.complete(rows::many(300, "m"));
    assert_eq!(upstream.most_in_flight(), 7);
}

#[test]
fn every_row_is_called_exactly_once_when_nothing_goes_wrong() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let batch = daemon.complete(rows::many(5_000, "m"));
    assert_eq!(counts(&batch), (5_000, 5_000, 0));
    assert_eq!((upstream.rows(), upstream.calls()), (5_000, 5_000));
    let expected: Vec<String> = (0..5_000).map(rows::name).collect();
    assert_eq!(api::ids(&daemon.output(&batch)), expected);
}

#[test]
fn the_models_of_a_server_of_ones_own_are_in_the_list() {
    let upstream = FakeUpstream::healthy();
    // The second is known to the seeds, which list it as well; the last goes nowhere else.
    upstream.list_models(&["qwen-of-my-own", "gpt-4o-mini", "qwen:7b"]);
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let listed = || {
        let list = daemon.get("/v1/models").expect(200);
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = wait::poll(wait::SOON, || Some(listed()).filter(|ids| ids.contains(&"qwen-of-my-own".to_owned())));
    let found = found.unwrap_or_else(|| panic!("{:?}", listed()));
    for id in ["qwen-of-my-own", "gpt-4o-mini", "qwen:7b", "simulated-instant"] {
        assert_eq!(found.iter().filter(|listed| *listed == id).count(), 1, "{id}: {found:?}");
    }
    let (output, _) = one(&daemon, &[rows::chat("a", "qwen-of-my-own", &json!({}))]);
    assert_eq!(output[0].status(), Some(200));
}

#[test]
fn a_server_whose_api_is_at_its_root_can_be_named() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-api-path", "/"]);
    one(&daemon, &[chat("one")]);
    assert_eq!(upstream.kept_of("one")[0].path, "/chat/completions");
}

#[test]
fn a_batch_is_warned_of_models_that_its_server_does_not_list_and_the_warning_outlives_a_kill() {
    let upstream = FakeUpstream::healthy();
    upstream.list_models(&["qwen3-8b", "nomic-embed-text"]);
    let mut daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let listed = daemon.complete(rows::many(1, "qwen3-8b"));
    assert_eq!(listed["batchd"]["warnings"], json!([]));
    let batch = daemon.complete(rows::many(1, "qwen3-8"));
    assert_eq!(counts(&batch), (1, 1, 0), "it is told, not refused");
    let expected = json!(["provider `upstream` does not list the model `qwen3-8`; did you mean `qwen3-8b`?"]);
    assert_eq!(batch["batchd"]["warnings"], expected);
    daemon.kill9();
    daemon.restart();
    let again = daemon.get(&format!("/v1/batches/{}", batch["id"].as_str().unwrap())).expect(200);
    assert_eq!(again["batchd"]["warnings"], expected);
}
