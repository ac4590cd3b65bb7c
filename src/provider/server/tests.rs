//! A server's requests and answers, without a network or with a server on this machine.

use super::*;
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::id::{BatchId, RowIndex};
use crate::domain::provider::connection::{HostAddresses, Timeouts};
use crate::domain::time::Timestamp;
use crate::provider::test_server::{Loopback, Reply};

fn connection(base_url: &str) -> ServerConnection {
    let base_url = base_url.parse().unwrap();
    ServerConnection {
        api: Api::OpenAi,
        base_url,
        addresses: HostAddresses::Any,
        api_path: None,
        body: BodyEdits::default(),
        timeouts: Timeouts::default(),
        ca_file: None,
        max_response_bytes: 1_000,
        pass_through: Vec::new(),
        row_priority: crate::domain::row::priority::RowPriority::Strip,
        forward_headers: vec!["traceparent".to_owned()],
        max_waiting: None,
    }
}

fn open(base_url: &str, key: Option<&str>) -> Result<Server, SetupError> {
    open_as(Api::OpenAi, base_url, key)
}

fn open_as(api: Api, base_url: &str, key: Option<&str>) -> Result<Server, SetupError> {
    let clock = Clock::new(|| Timestamp::from_second(784_111_777).unwrap());
    Server::with_proxies(
        "p",
        &ServerConnection { api, ..connection(base_url) },
        key.map(SecretString::from),
        clock,
        (&Matcher::builder().build(), &Descriptors::new(1 << 20, 0)),
    )
}

fn call() -> Call {
    Call {
        format: WireFormat::ChatCompletions,
        upstream_model: "m".into(),
        body: Bytes::from_static(b"{\"model\":\"m\"}"),
        key: RowKey { batch: BatchId::from_u128(7), row: RowIndex(255) },
        attempt: 1,
        recording: None,
        headers: Forwarded::new(vec![("traceparent".into(), "00-a-b-01".into()), ("x-team".into(), "search".into())]),
        budget: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn a_server_is_asked_for_its_load_where_it_tells_it() {
    let props = Reply::answer("200 OK", "", "{\"total_slots\":8}");
    let server = Loopback::start(vec![props.clone(), Reply::answer("404 Not Found", "", "{}"), props]).await;
    let provider = open(&format!("http://{}/v1", server.address()), Some("sk-1")).unwrap();
    for _ in 0..2 {
        assert_eq!(provider.hints(Duration::from_secs(5)).await, ServerHints { slots: Some(8), waiting: None });
    }
    let asked: Vec<_> = server.requests().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["GET /props HTTP/1.1", "GET /metrics HTTP/1.1", "GET /props HTTP/1.1"], "what is not there is not asked for again");
}

#[tokio::test]
async fn a_request_as_the_server_sees_it() {
    let server = Loopback::start(vec![Reply::answer("200 OK", "x-request-id: up-1\r\n", "{\"id\":1}")]).await;
    let provider = open(&format!("http://{}", server.address()), Some("sk-secret")).unwrap();
    let answer = provider.call(call()).await.unwrap();
    let expected =
        Answer { status: 200, request_id: Some("up-1".into()), retry_after: None, allowances: None, body: Bytes::from("{\"id\":1}") };
    assert_eq!(answer, expected);
    let request = server.requests()[0].replace(&server.address().to_string(), "HOST").replace("\r\n", "\n");
    insta::assert_snapshot!(request);
}

#[tokio::test]
async fn the_operator_decides_on_members_of_the_body() {
    let server = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let body = BodyEdits::new([("priority".to_owned(), serde_json::json!(100))], vec!["user".to_owned()]);
    let connection = ServerConnection { body, ..connection(&format!("http://{}", server.address())) };
    let (clock, descriptors) = (Clock::new(|| Timestamp::UNIX_EPOCH), Descriptors::new(1 << 20, 0));
    let provider = Server::with_proxies("p", &connection, None, clock, (&Matcher::builder().build(), &descriptors)).unwrap();
    let row = Bytes::from_static(br#"{"model":"m","priority":-1,"user":"u"}"#);
    provider.call(Call { body: row, ..call() }).await.unwrap();
    assert!(server.requests()[0].ends_with("\r\n\r\n{\"model\":\"m\",\"priority\":100}"), "{}", server.requests()[0]);
}

#[tokio::test]
async fn anthropic_is_called_in_its_own_words_for_messages_alone() {
    let mut told = Vec::new();
    for (api, endpoint) in
        [(Api::Anthropic, Endpoint::Messages), (Api::Anthropic, Endpoint::ChatCompletions), (Api::OpenAi, Endpoint::Messages)]
    {
        let server = Loopback::start(vec![Reply::answer("200 OK", "request-id: req_1\r\n", "{}")]).await;
        let provider = open_as(api, &format!("http://{}", server.address()), Some("sk-ant")).unwrap();
        let answer = provider.call(Call { format: WireFormat::of(endpoint), ..call() }).await.unwrap();
        assert_eq!(answer.request_id.as_deref(), Some("req_1"));
        told.push(server.requests()[0].replace(&server.address().to_string(), "HOST").replace("\r\n", "\n"));
    }
    insta::assert_snapshot!(told.join("\n--\n"));
}

#[test]
fn a_base_url_without_a_path_gets_the_version() {
    let table = [
        ("https://api.example", None, "https://api.example/v1/chat/completions"),
        ("https://api.example:8443/", None, "https://api.example:8443/v1/chat/completions"),
        ("http://[::1]:8000/v1", None, "http://[::1]:8000/v1/chat/completions"),
        ("https://api.example/openai/v1/", None, "https://api.example/openai/v1/chat/completions"),
        ("https://api.example/v2beta", None, "https://api.example/v2beta/chat/completions"),
        ("http://api.example:7997", Some(""), "http://api.example:7997/chat/completions"),
        ("http://api.example", Some("/api/v3"), "http://api.example/api/v3/chat/completions"),
        ("http://api.example/team", Some("/v1"), "http://api.example/team/v1/chat/completions"),
    ];
    for (base, api_path, url) in table {
        let connection = ServerConnection { api_path: api_path.map(String::from), ..connection(base) };
        assert_eq!(target(&connection, Endpoint::ChatCompletions.path()).unwrap(), url);
    }
    let provider = open("http://api.example", None).unwrap();
    for endpoint in Endpoint::ALL {
        assert_eq!(provider.targets[endpoint.path()].path(), endpoint.path());
    }
    let beside = |base: &str, endpoint: Endpoint| target(&connection(base), endpoint.path()).unwrap().to_string();
    assert_eq!(beside("http://gpu:8000/v1", Endpoint::Tokenize), "http://gpu:8000/tokenize");
    assert_eq!(beside("http://gpu/pool/v1/", Endpoint::RerankV2), "http://gpu/pool/v2/rerank");
    assert_eq!(beside("http://gpu/pool/v1", Endpoint::Rerank), "http://gpu/pool/v1/rerank");
    assert_eq!(beside("http://gpu/pool", Endpoint::Tokenize), "http://gpu/pool/tokenize");
}

#[test]
fn the_wish_to_wait_in_all_its_forms() {
    let provider = open("http://api.example", None).unwrap();
    let table = [
        (&[("retry-after-ms", "1250")][..], Some(1_250)),
        (&[("retry-after-ms", "0.5"), ("retry-after", "9")], Some(0)),
        (&[("retry-after-ms", "soon"), ("retry-after", "9")], Some(9_000)),
        (&[("retry-after-ms", "-1")], None),
        (&[("retry-after-ms", "inf")], None),
        (&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")], Some(10_000)),
        (&[], None),
    ];
    for (lines, expected) in table {
        let headers = lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        let waits = provider.retry_after(&headers).map(|wait| u64::try_from(wait.as_millis()).unwrap());
        assert_eq!(waits, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn the_other_name_of_the_request_id_is_read_too() {
    let server = Loopback::start(vec![Reply::answer("429 Too Many Requests", "request-id: r-9\r\nretry-after: 2\r\n", "{}")]).await;
    let provider = open(&format!("http://{}/v1", server.address()), None).unwrap();
    let answer = provider.call(call()).await.unwrap();
    assert_eq!((answer.status, answer.request_id.as_deref(), answer.retry_after), (429, Some("r-9"), Some(Duration::from_secs(2))));
    assert!(!server.requests()[0].contains("authorization"));
}

#[tokio::test]
async fn a_key_that_the_server_repeats_is_taken_out() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-secret-1."}}"#;
    let server = Loopback::start(vec![Reply::answer("401 Unauthorized", "x-request-id: of-sk-secret-1\r\n", body)]).await;
    let provider = open(&format!("http://{}", server.address()), Some("sk-secret-1")).unwrap();
    let answer = provider.call(call()).await.unwrap();
    assert_eq!(answer.request_id.as_deref(), Some("of-[redacted]"));
    assert_eq!(answer.body, r#"{"error":{"message":"Incorrect API key provided: [redacted]."}}"#);
}

#[tokio::test]
async fn no_text_contains_the_key() {
    let server = Loopback::start(vec![Reply::Cut(String::new())]).await;
    let provider = open_as(Api::Anthropic, &format!("http://{}", server.address()), Some("sk-secret")).unwrap();
    let error = provider.call(Call { format: WireFormat::AnthropicMessages, ..call() }).await.unwrap_err();
    let refused = open("http://api.example", Some("sk-secret\n")).unwrap_err();
    for text in [
        format!("{provider:?} {:?} {:?}", provider.headers, provider.anthropic),
        format!("{error:?} {error}"),
        format!("{refused:?} {refused}"),
    ] {
        assert!(!text.contains("secret"), "{text}");
    }
}
