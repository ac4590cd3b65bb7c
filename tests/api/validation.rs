//! What validation reports about bad input: the line, the field, the code.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::api::{self, counts};
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request};
use crate::support::rows::{self, chat};
use crate::support::upstream::FakeUpstream;

/// `(code, param)` of each fault of a line.
type Faults = &'static [(&'static str, Option<&'static str>)];

/// `(line, code, param)` of each problem.
fn places(problems: &[Value]) -> Vec<(Option<u64>, &str, Option<&str>)> {
    problems.iter().map(|p| (p["line"].as_u64(), p["code"].as_str().expect("a code"), p["param"].as_str())).collect()
}

fn good(id: &str) -> String {
    chat(id, rows::INSTANT, &json!({}))
}

#[test]
fn every_fault_is_reported_with_its_line_and_field() {
    let daemon = Daemon::with(&["--max-row-bytes", "2000"]);
    let body = json!({"model": rows::INSTANT, "messages": []});
    let lines: Vec<(Vec<u8>, Faults)> = vec![
        (good("fine").into(), &[]),
        (b"not json".to_vec(), &[("invalid_json_line", None)]),
        (b"[1,2]".to_vec(), &[("row_not_an_object", None)]),
        (good("fine").into(), &[("duplicate_custom_id", Some("custom_id"))]),
        (good("get").replace("POST", "GET").into(), &[("invalid_method", Some("method"))]),
        (rows::row("url", "/v1/embeddings", &body).into(), &[("invalid_url", Some("url"))]),
        (rows::row("", api::CHAT, &body).into(), &[("invalid_custom_id", Some("custom_id"))]),
        (rows::row("list", api::CHAT, &json!([])).into(), &[("body_not_an_object", Some("body"))]),
        (rows::row("no model", api::CHAT, &json!({})).into(), &[("missing_required_parameter", Some("body.model"))]),
        (chat("seven", "x", &json!({"model": 7})).into(), &[("invalid_model", Some("body.model"))]),
        (chat("unknown", "gpt-4o-mni", &json!({})).into(), &[("model_not_found", Some("body.model"))]),
        (chat("stream", rows::INSTANT, &json!({"stream": true})).into(), &[("stream_not_supported", Some("body.stream"))]),
        (chat("long", rows::INSTANT, &json!({"pad": "x".repeat(2000)})).into(), &[("row_too_long", None)]),
        ([b"{\"custom_id\":\"", &[0xff][..], b"\"}"].concat(), &[("invalid_utf8", None)]),
        (Vec::new(), &[]),
        (b"{\"model\":\"m\",\"messages\":[]}".to_vec(), &[("unsupported_format", None)]),
        (b"{\"custom_id\":\"b\",\"params\":{\"model\":\"m\"}}".to_vec(), &[("unsupported_format", None)]),
        (good("azure").replace("/v1/chat", "/chat").into(), &[("invalid_url", Some("url"))]),
        (
            b"{\"method\":\"PUT\"}".to_vec(),
            &[
                ("missing_required_parameter", Some("custom_id")),
                ("invalid_method", Some("method")),
                ("missing_required_parameter", Some("url")),
                ("missing_required_parameter", Some("body")),
            ],
        ),
        (good("last").into(), &[]),
    ];
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for (n, (line, faults)) in lines.iter().enumerate() {
        input.extend_from_slice(line);
        input.push(b'\n');
        expected.extend(faults.iter().map(|(code, param)| (Some(n as u64 + 1), *code, *param)));
    }
    let problems = daemon.refused(&input);
    assert_eq!(places(&problems), expected);

    let message = |line: u64| problems.iter().find(|p| p["line"] == line).and_then(|p| p["message"].as_str()).unwrap_or_default();
    assert!(message(4).contains('1'), "a duplicate names the line of the first: {}", message(4));
    assert!(message(11).contains("gpt-4o-mini"), "an unknown model gets a suggestion: {}", message(11));
    assert!(message(13).contains("2000"), "a limit is named: {}", message(13));
    insta::assert_json_snapshot!(problems);
}

#[test]
fn a_hundred_problems_are_reported_and_no_more() {
    let daemon = Daemon::start();
    let lines: Vec<String> = (0..250).map(|n| format!("nonsense {n}")).collect();
    let problems = daemon.refused(rows::file(&lines));
    assert_eq!(problems.len(), 100);
    let first: Vec<u64> = problems.iter().filter_map(|p| p["line"].as_u64()).collect();
    assert_eq!(first, (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_refused_batch_has_run_nothing() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let mut input = rows::many(500, "any");
    input.push_str("oops\n");
    let problems = daemon.refused(input);
    assert_eq!(places(&problems), [(Some(501), "invalid_json_line", None)]);
    assert_eq!(upstream.calls(), 0);
}

#[test]
fn a_file_without_rows_is_empty() {
    let daemon = Daemon::start();
    for content in ["", "\n", "\r\n\r\n"] {
        let problems = daemon.refused(content);
        assert_eq!(problems.len(), 1, "{content:?}: {problems:?}");
        assert_eq!(problems[0]["code"], "empty_file", "{content:?}");
    }
}

#[test]
fn line_ends_of_every_system_are_read() {
    let daemon = Daemon::start();
    for (name, content) in [
        ("no last line break", format!("{}\n{}", good("a"), good("b"))),
        ("CRLF", format!("{}\r\n{}\r\n", good("a"), good("b"))),
        ("blank lines anywhere", format!("\n \n{}\n\r\n\n{}\n\n\r\n\n", good("a"), good("b"))),
        ("files with byte order marks, joined", format!("\u{feff}{}\n\u{feff}\n\u{feff}{}\n", good("a"), good("b"))),
        ("a method in small letters", format!("{}\n{}\n", good("a").replace("POST", "post"), good("b").replace("POST", "Post"))),
        ("spaces around the object", format!("  {} \n\t{}\n", good("a"), good("b"))),
    ] {
        let batch = daemon.complete(content);
        assert_eq!(counts(&batch), (2, 2, 0), "{name}");
        assert_eq!(api::ids(&daemon.output(&batch)), ["a", "b"], "{name}");
    }
}

#[test]
fn packed_input_is_unpacked_and_other_files_are_called_by_their_name() {
    let daemon = Daemon::with(&["--max-file-bytes", "100000"]);
    let text = rows::many(50, rows::INSTANT);
    for packed in [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 3).expect("it packs")] {
        let form = Form::default().field("purpose", "batch").file("file", "in.jsonl.gz", &packed);
        let file = daemon.send(Request::post("/v1/files").form(form)).expect(200);
        assert_eq!((&file["bytes"], &file["filename"]), (&json!(text.len()), &json!("in.jsonl")));
        assert_eq!(daemon.content(&api::id_of(&file)), text.as_bytes());
        assert_eq!(counts(&daemon.complete(&packed)), (50, 50, 0));
    }
    let upload = |purpose: &str, content: &[u8]| {
        let form = Form::default().field("purpose", purpose).file("file", "f", content);
        daemon.send(Request::post("/v1/files").form(form))
    };
    let bomb = gzip(&vec![b'\n'; 1_000_000]);
    assert_eq!(upload("batch", &bomb).error_code(413), "request_too_large");
    let cut = gzip(text.as_bytes());
    assert_eq!(upload("batch", &cut[..cut.len() / 2]).error_code(400), "invalid_value");
    assert_eq!(upload("user_data", &bomb).expect(200)["bytes"], bomb.len(), "a file for another purpose stays as it is");

    let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let array = format!("[{}]", text.trim_end().replace('\n', ",\n"));
    for (content, code, word) in [
        (utf16, "invalid_utf8", "UTF-16"),
        (array.into_bytes(), "unsupported_format", "jq -c '.[]'"),
        (b"{\n  \"custom_id\": \"a\"\n}\n".to_vec(), "unsupported_format", "one line"),
        (b"custom_id,prompt\na,b\n".to_vec(), "unsupported_format", "CSV"),
        (gzip(&gzip(b"twice")), "unsupported_format", "gzip"),
    ] {
        let problems = daemon.refused(content);
        assert_eq!(places(&problems), [(Some(1), code, None)]);
        assert!(problems[0]["message"].as_str().is_some_and(|said| said.contains(word)), "{problems:?}");
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn a_duplicate_is_found_at_any_distance() {
    let daemon = Daemon::start();
    let mut input = rows::many(20_000, rows::INSTANT);
    input.push_str(&good("row-0"));
    input.push('\n');
    // The same text in another spelling is the same id.
    input.push_str(&good("row-7").replace("\"custom_id\":\"row-7\"", r#""custom_id":"\u0072ow-7""#));
    let problems = daemon.refused(input);
    assert_eq!(
        places(&problems),
        [(Some(20_001), "duplicate_custom_id", Some("custom_id")), (Some(20_002), "duplicate_custom_id", Some("custom_id"))]
    );
}

#[test]
fn too_many_rows_and_models_are_refused() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-rows", "300"]);
    assert_eq!(counts(&daemon.complete(rows::many(300, "m"))).0, 300);
    let problems = daemon.refused(rows::many(301, "m"));
    assert!(places(&problems).iter().any(|(_, code, _)| *code == "too_many_rows"), "{problems:?}");

    let models = |n: usize| rows::file(&(0..n).map(|n| chat(&rows::name(n), &format!("model-{n}"), &json!({}))).collect::<Vec<_>>());
    assert_eq!(counts(&daemon.complete(models(256))).0, 256);
    let problems = daemon.refused(models(257));
    assert!(places(&problems).iter().any(|(_, code, _)| *code == "too_many_models"), "{problems:?}");
}

#[test]
fn custom_ids_of_every_shape_come_back_as_they_were() {
    let daemon = Daemon::start();
    let ids = ["a b", "é漢🙂", "quote\"back\\slash", "line\nbreak\ttab", "\u{7f}\u{0}", &"x".repeat(512)];
    let lines: Vec<String> = ids.iter().map(|id| good(id)).collect();
    let batch = daemon.complete(rows::file(&lines));
    assert_eq!(api::ids(&daemon.output(&batch)), ids);
}
