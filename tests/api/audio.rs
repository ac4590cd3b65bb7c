//! Rows that want the words of a recording: uploaded, inside the row, or at a URL.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::support::api::{Line, counts, id_of};
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request};
use crate::support::upstream::{Call, FakeUpstream, Reply};
use crate::support::{rows, wait};

const HEAR: &str = "/v1/audio/transcriptions";
const TRANSLATE: &str = "/v1/audio/translations";
/// A recording with bytes that no text has.
const SOUND: &[u8] = b"ID3\x00\xff\r\n--sound\r\n";

/// The fields of a form as a server reads them; of files, name, type and content.
fn fields(call: &Call) -> Map<String, Value> {
    let kind = call.header("content-type").unwrap_or_default();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap_or_else(|| panic!("a form: {kind}"));
    let text: String = call.body.iter().map(|byte| char::from(*byte)).collect();
    let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    let [first, parts @ .., last] = &*parts else { panic!("no parts: {text}") };
    assert_eq!((*first, *last), ("", "--\r\n"), "{text}");
    let mut fields = Map::new();
    for part in parts {
        let part = part.strip_prefix("\r\n").and_then(|part| part.strip_suffix("\r\n")).expect("a part on lines of its own");
        let (head, content) = part.split_once("\r\n\r\n").expect("a head");
        let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a name");
        let value = match head.split_once("filename=\"") {
            Some((_, file)) => json!([file.split('"').next(), head.split("Content-Type: ").nth(1), content]),
            None => json!(content),
        };
        fields.entry(name).or_insert_with(|| json!([])).as_array_mut().expect("a list").push(value);
    }
    fields
}

/// A server that serves recordings, and says what it was sent when it is to hear one.
fn answer(call: &Call) -> Reply {
    match call.path.as_str() {
        "/sounds/a.mp3" => Reply::new(200, SOUND),
        "/sounds/moved" => Reply::new(302, "").header("location", "/sounds/a.mp3"),
        "/sounds/late.mp3" if call.attempt > 2 => Reply::new(200, SOUND),
        path if path.starts_with("/sounds/") => Reply::error(503),
        _ => {
            let fields = fields(call);
            let form = fields.get("response_format").map_or("json", |form| form[0].as_str().expect("a text"));
            match form {
                "text" => Reply::new(200, "Hello.\n"),
                "vtt" => Reply::new(200, "WEBVTT\n\n00:00.000 --> 00:01.000\nHello.\n"),
                _ => Reply::new(
                    200,
                    json!({"text": "Hello.", "sent": fields, "usage": {"input_tokens": 14, "output_tokens": 3}}).to_string(),
                ),
            }
        }
    }
}

fn upload(daemon: &Daemon, key: Option<&str>) -> String {
    let request = key.map_or_else(|| Request::post("/v1/files"), |key| Request::post("/v1/files").header("authorization", key));
    let form = Form::default().field("purpose", "user_data").typed_file("file", "talk.wav", "audio/wav", SOUND);
    let response = daemon.send(request.form(form));
    assert!(matches!(response.status(), 200 | 201), "{}", response.text());
    id_of(&response.json())
}

fn row(id: &str, url: &str, more: Value) -> String {
    let mut body = json!({"model": "m", "user": id});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    rows::row(id, url, &body)
}

fn run(daemon: &Daemon, lines: &[String]) -> Value {
    let input = daemon.upload(rows::file(lines));
    let mut create = Daemon::batch_request(&input, "mixed");
    create["on_invalid_rows"] = json!("fail_rows");
    let batch = id_of(&daemon.post("/v1/batches", &create).expect(200));
    daemon.wait_ended(&batch, wait::A_WHILE)
}

fn of<'a>(lines: &'a [Line], id: &str) -> &'a Value {
    &lines.iter().find(|line| line.value["custom_id"] == id).unwrap_or_else(|| panic!("no line of {id}")).value
}

#[test]
fn a_recording_is_sent_as_a_form_wherever_it_is() {
    let upstream = FakeUpstream::start(answer);
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let file = upload(&daemon, None);
    let data = format!("data:audio/flac;base64,{}", STANDARD.encode(SOUND));
    let at = |path: &str| format!("{}/sounds/{path}", upstream.url());
    let more = json!({"file": file, "language": "de", "temperature": 0.5, "timestamp_granularities": ["word", "segment"], "prompt": null});
    let batch = run(
        &daemon,
        &[
            row("uploaded", HEAR, more),
            row("by-id", TRANSLATE, json!({"file_id": file})),
            row("inside", HEAR, json!({"file_url": data})),
            row("at", HEAR, json!({"file_url": at("a.mp3")})),
            row("moved", HEAR, json!({"file_url": at("moved")})),
            row("text", HEAR, json!({"file_url": at("a.mp3"), "response_format": "text"})),
            row("vtt", TRANSLATE, json!({"file_url": at("a.mp3"), "response_format": "vtt"})),
        ],
    );
    assert_eq!(counts(&batch), (7, 7, 0), "{batch}");
    assert_eq!((&batch["usage"]["input_tokens"], &batch["usage"]["output_tokens"]), (&json!(5 * 14), &json!(5 * 3)));
    let output = daemon.output(&batch);
    let body = |id: &str| &of(&output, id)["response"]["body"];
    let content: String = SOUND.iter().map(|byte| char::from(*byte)).collect();
    let heard = json!({
        "model": ["m"], "user": ["uploaded"], "language": ["de"], "temperature": ["0.5"], "timestamp_granularities[]": ["word", "segment"],
        "file": [["talk.wav", "audio/wav", content]],
    });
    assert_eq!(body("uploaded")["sent"], heard);
    for (id, name, kind) in [
        ("by-id", "talk.wav", "audio/wav"),
        ("inside", "audio.flac", "audio/flac"),
        ("at", "a.mp3", "audio/mpeg"),
        ("moved", "a.mp3", "audio/mpeg"),
    ] {
        assert_eq!(body(id)["sent"], json!({"model": ["m"], "user": [id], "file": [[name, kind, content]]}), "{id}");
    }
    assert_eq!((body("text"), body("vtt")), (&json!("Hello.\n"), &json!("WEBVTT\n\n00:00.000 --> 00:01.000\nHello.\n")));
    let paths: Vec<_> = upstream.kept().into_iter().filter(|call| call.path == TRANSLATE).collect();
    assert_eq!(paths.len(), 2);
}

#[test]
fn a_recording_that_cannot_be_had_fails_its_row_alone_and_nothing_inside_is_called() {
    let upstream = FakeUpstream::start(answer);
    // Others can reach this daemon, so only public addresses may be called.
    let daemon = Daemon::with_upstream(&upstream.url(), &["--public-url", "https://batch.test", "--max-audio-bytes", "1KiB"]);
    let inside = format!("{}/sounds/a.mp3", upstream.url());
    let unknown = "file-01m80rw4pdeb1rv96dcz9vadhd";
    let large = format!("data:audio/wav;base64,{}", STANDARD.encode([0; 2_000]));
    let batch = run(
        &daemon,
        &[
            row("good", HEAR, json!({"file": upload(&daemon, None)})),
            row("address", HEAR, json!({"file_url": inside})),
            row("name", HEAR, json!({"file_url": inside.replace("127.0.0.1", "localhost")})),
            row("metadata", HEAR, json!({"file_url": "http://169.254.169.254/latest/meta-data"})),
            row("unknown", HEAR, json!({"file": unknown})),
            row("large", HEAR, json!({"file_url": large})),
            row("none", HEAR, json!({})),
            row("both", HEAR, json!({"file": unknown, "file_url": inside})),
            row("path", HEAR, json!({"file": "talk.wav"})),
        ],
    );
    assert_eq!(counts(&batch), (9, 1, 8), "{batch}");
    let errors = daemon.errors(&batch);
    for (id, code, said) in [
        ("address", "input_unreadable", "must not lead to an address that only this machine"),
        ("name", "input_unreadable", "`file_url_targets` says what may be called"),
        ("metadata", "input_unreadable", "must not lead to an address"),
        ("unknown", "input_unreadable", "there is no file"),
        ("large", "input_unreadable", "more than 1024 bytes, the most that `max_audio_bytes` allows"),
        ("none", "missing_required_parameter", "`body.file_url` is missing"),
        ("both", "invalid_input", "leave one of them out"),
        ("path", "invalid_input", "must be the id of an uploaded file"),
    ] {
        let error = &of(&errors, id)["error"];
        assert!(error["code"] == code && error["message"].as_str().is_some_and(|message| message.contains(said)), "{id}: {error}");
    }
    let is_known = |call: &Call| call.path == HEAR && fields(call)["user"] == json!(["good"]);
    assert!(upstream.kept().iter().all(is_known), "{:?}", upstream.kept());
}

#[test]
fn the_file_of_another_organisation_is_no_file() {
    let upstream = FakeUpstream::start(answer);
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let registered = daemon.send(Request::post("/v1/auth/agent-register")).expect(201);
    let theirs = upload(&daemon, Some(&format!("Bearer {}", registered["api_key"].as_str().expect("a key"))));
    let batch = run(&daemon, &[row("theirs", HEAR, json!({"file": theirs}))]);
    let errors = daemon.errors(&batch);
    let error = &of(&errors, "theirs")["error"];
    assert!(error["message"].as_str().is_some_and(|message| message.contains("there is no file")), "{error}");
    assert_eq!(upstream.calls(), 0);
}

#[test]
fn a_source_that_fails_is_asked_again_and_ends_its_row_in_the_end() {
    let upstream = FakeUpstream::start(answer);
    let daemon = Daemon::with_upstream(&upstream.url(), &["--max-attempts", "4"]);
    let at = |path: &str| format!("{}/sounds/{path}", upstream.url());
    let batch = run(
        &daemon,
        &[row("late", HEAR, json!({"file_url": at("late.mp3")})), row("never", HEAR, json!({"file_url": at("never.mp3"), "x": 1}))],
    );
    let calls = upstream.kept();
    let asked = |path: &str| calls.iter().filter(|call| call.path == path).count();
    assert_eq!((asked("/sounds/never.mp3"), asked(HEAR)), (4, 1), "{batch}");
    assert_eq!(counts(&batch), (2, 1, 1), "{batch}");
    let error = &of(&daemon.errors(&batch), "never")["error"].clone();
    let said = "the recording at `file_url` cannot be fetched: its server answered 503 Service Unavailable (after 4 attempts)";
    assert_eq!(error, &json!({"code": "file_unreachable", "message": said}));
}

#[test]
fn the_simulated_provider_answers_in_every_form() {
    let daemon = Daemon::start();
    let file = upload(&daemon, None);
    let asked = |form: &str| row(form, HEAR, json!({"model": rows::INSTANT, "file": file, "response_format": form}));
    let batch = run(&daemon, &["json", "text", "srt", "vtt", "verbose_json"].map(asked));
    assert_eq!(counts(&batch), (5, 5, 0), "{batch}");
    let output = daemon.output(&batch);
    let body = |id: &str| &of(&output, id)["response"]["body"];
    assert!(body("json")["text"].is_string() && body("verbose_json")["segments"].is_array());
    assert!(["text", "srt", "vtt"].iter().all(|form| body(form).is_string()));
}
