//! Operations that model servers have beside OpenAI's, Messages, and paths that are passed through.

use serde_json::{Value, json};

use crate::support::api::{self, counts, id_of};
use crate::support::daemon::Daemon;
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};
use crate::support::{rows, wait};

fn run(daemon: &Daemon, endpoint: &str, lines: &[String]) -> Value {
    let input = daemon.upload(rows::file(lines));
    let batch = id_of(&daemon.post("/v1/batches", &Daemon::batch_request(&input, endpoint)).expect(200));
    daemon.wait_ended(&batch, wait::A_WHILE)
}

/// A server as vLLM is, as far as these operations go.
fn answer(call: &Call) -> Reply {
    let body = match call.path.as_str() {
        "/v1/rerank" | "/v2/rerank" => {
            json!({"id": "rerank-1", "model": "m", "usage": {"total_tokens": 56}, "results": [{"index": 0, "relevance_score": 0.9}]})
        }
        "/v1/score" => json!({"object": "list", "data": [{"index": 0, "object": "score", "score": 0.5}], "usage": {"prompt_tokens": 7}}),
        "/tokenize" => json!({"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3]}),
        "/pooling" => json!({"data": [{"index": 0, "data": [[0.5]]}]}),
        _ => return Reply::ok(call),
    };
    Reply::new(200, body.to_string())
}

#[test]
fn operations_of_model_servers_are_asked_at_their_own_paths() {
    let upstream = FakeUpstream::start(answer);
    for base in [upstream.url(), format!("{}/v1", upstream.url())] {
        let daemon = Daemon::with_upstream(&base, &[]);
        for (endpoint, tokens) in [("/v1/rerank", 56), ("/v2/rerank", 56), ("/v1/score", 7), ("/tokenize", 0)] {
            let row = format!("{endpoint} {base}");
            let body = json!({"model": "m", "query": "q", "documents": ["d"], "text_1": "a", "text_2": "b", "prompt": "p", "user": row});
            let batch = run(&daemon, endpoint, &[rows::row("one", endpoint, &body)]);
            assert_eq!((&batch["endpoint"], counts(&batch)), (&json!(endpoint), (1, 1, 0)), "{batch}");
            assert_eq!(batch["usage"]["input_tokens"], tokens, "{batch}");
            let call = &upstream.kept_of(&row)[0];
            assert_eq!((call.path.as_str(), serde_json::from_slice::<Value>(&call.body).ok()), (endpoint, Some(body)));
        }
    }
}

#[test]
fn the_simulated_provider_answers_them_too() {
    let daemon = Daemon::start();
    for (endpoint, body, member) in [
        ("/v1/rerank", json!({"query": "q", "documents": ["a", "b", "c"], "top_n": 2}), "results"),
        ("/v2/rerank", json!({"query": "q", "documents": ["a", "b"]}), "results"),
        ("/v1/score", json!({"text_1": "q", "text_2": ["a", "b"]}), "data"),
        ("/tokenize", json!({"prompt": "a word"}), "tokens"),
    ] {
        let mut body = body;
        body["model"] = json!(rows::INSTANT);
        let batch = run(&daemon, endpoint, &[rows::row("one", endpoint, &body)]);
        let body = &daemon.output(&batch)[0].value["response"]["body"];
        assert_eq!(body[member].as_array().map(Vec::len), Some(2), "{body}");
    }
}

#[test]
fn messages_are_answered_as_messages_whatever_the_server_has() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let body = json!({"model": "m", "max_tokens": 9, "system": "Be brief.", "messages": [{"role": "user", "content": "Hello"}], "metadata": {"user_id": "u"}});
    let batch = run(&daemon, "/v1/messages", &[rows::row("one", "/v1/messages", &body)]);
    assert_eq!(counts(&batch), (1, 1, 0), "{batch}");
    let calls = upstream.kept();
    assert_eq!(calls[0].path, api::CHAT);
    let sent: Value = serde_json::from_slice(&calls[0].body).expect("JSON");
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "Be brief."}));
    let said = &daemon.output(&batch)[0].value["response"]["body"];
    assert_eq!((&said["type"], &said["content"][0]["text"]), (&json!("message"), &json!("hello")), "{said}");
}

#[test]
fn a_path_is_passed_through_to_providers_that_list_it() {
    let upstream = FakeUpstream::start(answer);
    let seeds = Seeds::new();
    let provider = |id: &str, more: &str| {
        let seed = format!("schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"{}\"\n{more}\n", upstream.url());
        seeds.write(&format!("providers/{id}.toml"), seed);
    };
    provider("plain", "");
    provider("pools", "pass_through = [\"/pooling\", \"/v1/custom-op\"]");
    let offering = |id: &str| format!("[[model.offering]]\nprovider = \"{id}\"\n");
    let model = |id: &str, offerings: &str| {
        format!("[[model]]\nid = \"{id}\"\norganisation = \"o\"\nendpoints = [\"/v1/embeddings\"]\n{offerings}")
    };
    let both = offering("plain") + &offering("pools");
    seeds.write("models/m.toml", format!("schema = 1\n{}{}", model("both", &both), model("other", &offering("plain"))));
    let mut daemon = seeds.daemon(&[]);

    let row = |model: &str| rows::row(model, "/pooling", &json!({"model": model, "input": "x", "user": model}));
    let batch = run(&daemon, "/pooling", &[row("both")]);
    assert_eq!((&batch["endpoint"], counts(&batch)), (&json!("/pooling"), (1, 1, 0)), "{batch}");
    assert_eq!(upstream.kept_of("both")[0].path, "/pooling");
    let refused = run(&daemon, "/pooling", &[row("other")]);
    let problem = &refused["errors"]["data"][0];
    assert_eq!(problem["code"], "unsupported_endpoint", "{refused}");
    assert!(problem["message"].as_str().is_some_and(|said| said.contains("pass_through")), "{problem}");
    let input = daemon.upload(rows::file(&[row("both")]));
    let unknown = daemon.post("/v1/batches", &Daemon::batch_request(&input, "/unlisted")).expect(400);
    assert_eq!(unknown["error"]["param"], "endpoint");

    // The batch is still there when nobody lists the path any more.
    provider("pools", "");
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.batch(&id_of(&batch)), batch);
    assert_eq!(api::ids(&daemon.output(&batch)), ["both"]);
}
