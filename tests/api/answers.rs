//! Answers as servers really give them: failures with status 200, codings, odd numbers, characters
//! that end lines for some readers.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::api::{self, counts};
use crate::support::daemon::Daemon;
use crate::support::rows;
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};

fn chat(name: &str) -> String {
    rows::chat(name, "m", &json!({}))
}

/// A good answer with another `usage`.
fn with_usage(usage: &str) -> Reply {
    Reply::new(
        200,
        format!(
            r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"0123456789abcdef"}},"finish_reason":"stop"}}],"usage":{usage}}}"#
        ),
    )
}

/// A daemon whose model `m` costs a dollar for each token that it reads or writes.
fn priced(upstream: &FakeUpstream, args: &[&str]) -> (Seeds, Daemon) {
    let seeds = Seeds::new();
    let url = upstream.url();
    seeds.write("providers/p.toml", format!("schema = 1\nid = \"p\"\nname = \"p\"\nkind = \"openai\"\nbase_url = \"{url}\"\n"));
    let price =
        "[[model.offering.price]]\ninput = \"1000000\"\noutput = \"1000000\"\nsource = \"https://prices.test\"\nverified_at = 2026-01-01\n";
    seeds.write(
        "models/m.toml",
        format!(
            "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/chat/completions\"]\n\
             [[model.offering]]\nprovider = \"p\"\n{price}"
        ),
    );
    let daemon = seeds.hasty_daemon(args);
    (seeds, daemon)
}

/// What the daemon tells of each row beside its line, by `custom_id`.
fn told(daemon: &Daemon, batch: &Value) -> Vec<Value> {
    let id = batch["id"].as_str().expect("an id");
    let text = daemon.get(&format!("/v1/batches/{id}/results?include=attempts")).text();
    text.split_terminator('\n').map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_failure_with_status_200_is_neither_a_success_nor_shared_nor_charged() {
    let upstream = FakeUpstream::start(|call| match (call.row.as_str(), call.attempt) {
        ("passing", 1) => Reply::new(200, r#"{"error":{"message":"Provider returned error","code":502}}"#),
        ("refused", _) => {
            Reply::new(200, r#"{"error":{"message":"too long","code":400},"usage":{"prompt_tokens":9,"completion_tokens":9}}"#)
        }
        ("empty", _) => Reply::new(200, r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9}}"#),
        ("stream", _) => Reply::new(200, "data: {\"choices\":[]}\n\ndata: [DONE]\n\n"),
        _ => Reply::ok(call),
    });
    let (_seeds, daemon) = priced(&upstream, &["--dedup", "key"]);
    // Two rows of each kind make the same request.
    let row = |id: &str, user: &str| rows::chat(id, "m", &json!({ "user": user }));
    let names = ["passing", "refused", "empty", "stream", "fine"];
    let lines: Vec<_> = names.iter().flat_map(|name| [row(name, name), row(&format!("{name} again"), name)]).collect();
    let batch = daemon.complete(rows::file(&lines));
    assert_eq!(counts(&batch), (10, 4, 6), "{batch}");
    let errors = daemon.errors(&batch);
    let codes: Vec<_> = errors.iter().map(|line| line.error_code().unwrap_or_default()).collect();
    let expected = ["request_refused", "request_refused", "invalid_response", "invalid_response", "invalid_response", "invalid_response"];
    assert_eq!(codes, expected, "{errors:?}");
    assert_eq!(errors[0].value["response"]["body"]["error"]["message"], "too long", "the answer is kept");
    // Final at once, and asked by each row for itself.
    assert_eq!((upstream.calls_of("refused"), upstream.calls_of("stream")), (2, 2));
    assert_eq!(upstream.calls_of("fine"), 1);
    // The second row leads once the first one's call has failed, and may ask before its retry ends.
    assert!((2..=3).contains(&upstream.calls_of("passing")), "{}", upstream.calls_of("passing"));
    assert!(upstream.calls_of("empty") >= 4, "{}", upstream.calls_of("empty"));
    for line in told(&daemon, &batch) {
        let (id, cost) = (line["custom_id"].as_str().unwrap_or_default(), line["batchd"]["cost_usd"].as_str().unwrap_or_default());
        let paid = matches!(id, "passing" | "fine" | "passing again" | "fine again");
        assert!(paid || cost == "0", "{line}");
    }
    let messages = errors.iter().step_by(2).map(|line| line.value["error"]["message"].as_str().unwrap_or_default());
    // How often a row is asked depends on what fails beside it.
    let messages: Vec<_> = messages.map(|message| message.split(" (after ").next().unwrap_or_default()).collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn odd_usage_counts_as_far_as_it_can_and_none_is_estimated() {
    let upstream = FakeUpstream::start(|call| match call.row.as_str() {
        "fraction" => with_usage(r#"{"prompt_tokens":3,"completion_tokens":4.5,"total_tokens":7.5}"#),
        "null" => with_usage("null"),
        "negative" => with_usage(r#"{"prompt_tokens":-3,"completion_tokens":2}"#),
        "twice" => with_usage(r#"{"prompt_tokens":1,"prompt_tokens":3,"completion_tokens":2}"#),
        _ => Reply::ok(call),
    });
    let (_seeds, daemon) = priced(&upstream, &[]);
    let names = ["fine", "fraction", "null", "negative", "twice"];
    let batch = daemon.complete(rows::file(&names.map(chat)));
    assert_eq!(counts(&batch), (5, 5, 0), "{batch}");
    let told = told(&daemon, &batch);
    let told = told.iter().map(|line| {
        let extra = &line["batchd"];
        format!(
            "{}: {} in, {} out, ${}: {}",
            line["custom_id"], extra["input_tokens"], extra["output_tokens"], extra["cost_usd"], extra["usage_note"]
        )
    });
    insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n"));
}

#[test]
fn coded_answers_marks_and_numbers_without_an_end_are_understood() {
    fn script(call: &Call) -> Reply {
        let plain = r#"{"choices":[{"message":{"content":"fine"}}]}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(plain.as_bytes()).expect("memory");
        match call.row.as_str() {
            "gzip" => Reply::new(200, gzip.finish().expect("memory")).header("content-encoding", "gzip"),
            "zstd" => Reply::new(200, zstd::bulk::compress(plain.as_bytes(), 1).expect("memory")).header("content-encoding", "zstd"),
            "mark" => Reply::new(200, format!("\u{feff}{plain}")),
            "nan" => Reply::new(200, r#"{"choices":[{"message":{"content":"fine"},"logprobs":[-Infinity,NaN]}]}"#),
            "bomb" => Reply::new(200, zstd::bulk::compress(&vec![b' '; 4 << 20], 1).expect("memory")).header("content-encoding", "zstd"),
            _ => Reply::new(200, "not gzip at all").header("content-encoding", "gzip"),
        }
    }
    let upstream = FakeUpstream::start(script);
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-response-bytes", "1MiB", "--max-attempts", "1"]);
    let names = ["gzip", "zstd", "mark", "nan", "bomb", "lie"];
    let batch = daemon.complete(rows::file(&names.map(chat)));
    let (output, errors) = (daemon.output(&batch), daemon.errors(&batch));
    assert_eq!((api::ids(&output), api::ids(&errors)), (vec!["gzip", "zstd", "mark", "nan"], vec!["bomb", "lie"]), "{errors:?}");
    for line in &output {
        assert_eq!(line.value["response"]["body"]["choices"][0]["message"]["content"], "fine");
    }
    assert_eq!(output[3].value["response"]["body"]["choices"][0]["logprobs"], json!([null, null]));
    let codes: Vec<_> = errors.iter().map(|line| line.error_code().unwrap_or_default()).collect();
    assert_eq!(codes, ["response_too_large", "invalid_response"]);
    assert_eq!(upstream.kept()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn no_line_of_any_file_ends_but_at_its_end() {
    const ENDS: &str = "one\u{2028}two\u{2029}three\u{85}four";
    let upstream = FakeUpstream::start(|call| match call.row.as_str() {
        "bad" => Reply::new(400, format!(r#"{{"error":{{"message":"{ENDS}"}}}}"#)),
        "failing" => Reply::new(200, format!(r#"{{"error":{{"message":"{ENDS}"}}}}"#)),
        _ => Reply::new(200, format!(r#"{{"choices":[{{"message":{{"content":"{ENDS}"}}}}]}}"#)),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-attempts", "1"]);
    let row = |user: &str| rows::chat(&format!("{user} {ENDS}"), "m", &json!({ "user": user }));
    let batch = daemon.complete(rows::file(&["fine", "bad", "failing"].map(row)));
    assert_eq!(counts(&batch), (3, 1, 2), "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let file = |name: &str| daemon.content(batch[name].as_str().expect("a file"));
    let all = daemon.get(&format!("/v1/batches/{id}/results?include=attempts")).text().into_bytes();
    for (content, count) in [(file("output_file_id"), 1), (file("error_file_id"), 2), (daemon.results(id), 3), (all, 3)] {
        let text = String::from_utf8(content).expect("UTF-8");
        // As `str.splitlines` of Python counts them.
        assert_eq!(text.trim_end().split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count(), count, "{text}");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert!(line["custom_id"].as_str().is_some_and(|id| id.ends_with(ENDS)));
            assert!(line.to_string().matches(ENDS).count() >= 2, "{line}");
        }
    }
    let output = daemon.get(&format!("/v1/files/{}", batch["output_file_id"].as_str().expect("a file"))).json();
    assert_eq!(output["bytes"], file("output_file_id").len());
}
