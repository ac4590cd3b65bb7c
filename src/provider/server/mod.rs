//! Servers with OpenAI's API (the hosted one and the many that imitate it), and Anthropic's, which
//! also has Messages.
//!
//! Adds the URL and the headers to a body, and reads the few relevant headers of the answer. The
//! connection is the concern of [`super::transport`], the meaning of the body that of
//! [`super::classify`].
//!
//! Invariant: the key leaves this module only in a header of a call to the configured host:
//! `Authorization`, or `x-api-key` for calls in Anthropic's own format. A server that repeats it in
//! its answer does not make it known ([`redaction`]).

mod anthropic;
mod form;
mod load_pages;
mod openai;
pub mod rate_limit_headers;
mod redaction;

use std::collections::HashMap;
use std::fmt;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::SecretString;

use self::redaction::Redaction;
use super::transport::room::AnswerRoom;
use super::transport::{Received, Transport, proxies_from_env};
use super::{Answer, Call, CallError, Dispatch, SetupError};
use crate::descriptors::Descriptors;
use crate::domain::endpoint::Endpoint;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::RowKey;
use crate::domain::provider::body_edits::BodyEdits;
use crate::domain::provider::connection::{Api, ServerConnection};
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::row::retry::parse_retry_after;
use crate::domain::time::Clock;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const KEY_PREFIX: &str = "batchd-";

/// A server.
pub struct Server {
    transport: Transport,
    /// The URL to which each format is posted, by the path of its endpoint.
    targets: HashMap<&'static str, Uri>,
    /// The URL at which the server lists its models.
    models: Uri,
    /// The URLs at which a model server tells its slots and its load; each is not asked again once it
    /// was not there.
    pages: [(Uri, AtomicBool); 2],
    /// The headers of a request.
    headers: HeaderMap,
    /// The headers of a request in Anthropic's own format.
    anthropic: HeaderMap,
    api: Api,
    edits: BodyEdits,
    /// Headers of a create that go along, in lower case.
    forward_headers: Vec<String>,
    redaction: Option<Redaction>,
    clock: Clock,
}

// Written by hand, so that no field added later is printed by accident.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("host", &self.transport.host()).finish_non_exhaustive()
    }
}

impl Server {
    /// Prepares calls to the server. Proxies are taken from
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case; a server on this
    /// machine is always reached directly.
    ///
    /// # Errors
    /// When the URL, the CA file, the key or the proxy cannot be used.
    pub fn new(
        id: &str,
        connection: &ServerConnection,
        key: Option<SecretString>,
        clock: Clock,
        descriptors: &Descriptors,
    ) -> Result<Self, SetupError> {
        Self::with_proxies(id, connection, key, clock, (&proxies_from_env(id)?, descriptors))
    }

    /// Like [`Self::new`], with these proxies.
    pub(super) fn with_proxies(
        id: &str,
        connection: &ServerConnection,
        key: Option<SecretString>,
        clock: Clock,
        (proxies, descriptors): (&Matcher, &Descriptors),
    ) -> Result<Self, SetupError> {
        let transport = Transport::open(id, connection, proxies, descriptors)?;
        let unusable = |error: http::Error| SetupError::Url { provider: id.into(), reason: error.to_string() };
        let below = |path| target(connection, path).map_err(unusable);
        let passed = connection.pass_through.iter().map(|path| Endpoint::PassedThrough(*path));
        let formats = Endpoint::ALL.into_iter().chain(passed).map(WireFormat::of);
        let targets = formats.map(|format| Ok::<_, SetupError>((openai::path(format), below(openai::path(format))?)));
        let targets = targets.collect::<Result<_, SetupError>>()?;
        let models = below(openai::MODELS)?;
        let beside = |page| Ok((load_pages::beside(&connection.base_url, page).map_err(unusable)?, AtomicBool::new(true)));
        let pages = [beside(load_pages::PROPS)?, beside(load_pages::METRICS)?];
        let headers = |api| headers(id, api, key.as_ref());
        let mut anthropic = headers(connection.api)?;
        anthropic::add_version(&mut anthropic);
        // Anthropic's compatibility layer takes its key as OpenAI's clients send it.
        Ok(Self {
            transport,
            targets,
            models,
            pages,
            headers: headers(Api::OpenAi)?,
            anthropic,
            api: connection.api,
            forward_headers: connection.forward_headers.clone(),
            redaction: key.as_ref().and_then(Redaction::of),
            edits: connection.body.clone(),
            clock,
        })
    }

    /// Makes the answers share this room with those of other servers.
    #[must_use]
    pub fn within(self, room: AnswerRoom) -> Self {
        Self { transport: self.transport.within(room), ..self }
    }

    async fn send(&self, call: Call) -> Result<Answer, CallError> {
        let mut body = self.edits.apply(&call.body).map_or(call.body, Bytes::from);
        let mut content_type = None;
        if let Some(written) = call.recording.and_then(|recording| form::form(&body, &recording)) {
            (body, content_type) = (written.body, Some(written.content_type));
        }
        let mut request = Box::new(Request::new(body));
        *request.method_mut() = Method::POST;
        let path = openai::path(call.format);
        // Only a catalog that changed a moment ago sends a path here that is no longer listed.
        let target = self.targets.get(path).ok_or_else(|| CallError::Connect {
            host: self.transport.host().to_owned(),
            reason: format!("the provider does not list `{path}` in `pass_through`"),
        })?;
        *request.uri_mut() = target.clone();
        let mut headers = if call.format == WireFormat::AnthropicMessages { self.anthropic.clone() } else { self.headers.clone() };
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        if let Some(name) = call_name(call.key) {
            headers.insert(CLIENT_REQUEST_ID, name.clone());
            headers.insert(IDEMPOTENCY_KEY, name);
        }
        for (name, value) in call.headers.pairs().iter().filter(|(name, _)| self.forward_headers.contains(name)) {
            // Checked when the batch was created; a name or a value of another time is left out.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.entry(name).or_insert(value);
            }
        }
        *request.headers_mut() = headers;
        let received = self.transport.send(request, call.budget).await?;
        Ok(self.answer(received))
    }

    /// What the server answers to `GET /v1/models`.
    ///
    /// # Errors
    /// When there is no complete answer within `budget`.
    pub async fn list_models(&self, budget: Duration) -> Result<Answer, CallError> {
        let mut request = Box::new(Request::new(Bytes::new()));
        *request.uri_mut() = self.models.clone();
        *request.headers_mut() = match self.api {
            Api::OpenAi => self.headers.clone(),
            Api::Anthropic => self.anthropic.clone(),
        };
        Ok(self.answer(self.transport.send(request, budget).await?))
    }

    /// The body of a page beside the API, if it is there.
    async fn page(&self, (url, is_there): &(Uri, AtomicBool), budget: Duration) -> Option<Bytes> {
        if !is_there.load(Relaxed) {
            return None;
        }
        let mut request = Box::new(Request::new(Bytes::new()));
        *request.uri_mut() = url.clone();
        *request.headers_mut() = self.headers.clone();
        let received = self.transport.send(request, budget).await.ok()?;
        match received.status.as_u16() {
            200 => Some(received.body),
            // Not there, not for everybody, or not switched on.
            401 | 403..=405 | 501 => {
                is_there.store(false, Relaxed);
                None
            }
            _ => None,
        }
    }

    fn answer(&self, received: Received) -> Answer {
        let (mut request_id, mut body) = (request_id(&received.headers), received.body);
        if let Some(redaction) = &self.redaction {
            request_id = request_id.map(|id| redaction.apply_to_text(id));
            body = redaction.apply(body);
        }
        Answer {
            status: received.status.as_u16(),
            request_id,
            retry_after: self.retry_after(&received.headers),
            allowances: rate_limit_headers::allowances(&received.headers, self.clock.now()),
            body,
        }
    }

    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        // The header in milliseconds is more exact, where a server sends both.
        let milliseconds = text(headers, "retry-after-ms").and_then(parse_milliseconds);
        milliseconds.or_else(|| parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, self.clock.now()))
    }
}

impl Dispatch for Server {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(self.send(call))
    }

    fn can_be_asked(&self) -> bool {
        true
    }

    fn ask(&self, budget: Duration) -> BoxFuture<'_, Result<u16, CallError>> {
        Box::pin(async move { self.list_models(budget).await.map(|answer| answer.status) })
    }

    fn list(&self, budget: Duration) -> BoxFuture<'_, Result<Option<Answer>, CallError>> {
        Box::pin(async move { self.list_models(budget).await.map(Some) })
    }

    fn addresses(&self) -> Option<BoxFuture<'static, io::Result<Vec<IpAddr>>>> {
        let name = self.transport.name()?;
        Some(Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.map(|address| address.ip()).collect()) }))
    }

    fn hints(&self, budget: Duration) -> BoxFuture<'_, ServerHints> {
        Box::pin(async move {
            let [props, metrics] = &self.pages;
            let slots = self.page(props, budget).await.and_then(|body| load_pages::slots(&body));
            let waiting = self.page(metrics, budget).await.and_then(|body| load_pages::waiting(&body));
            ServerHints { slots, waiting }
        })
    }
}

/// The URL of an operation's path. A base URL with a path of its own, and `api_path`, hold the
/// version; operations without the version 1 are beside that.
fn target(connection: &ServerConnection, path: &str) -> Result<Uri, http::Error> {
    let (own, tail) = (connection.base_url.path().trim_end_matches('/'), path.strip_prefix("/v1"));
    let path = match (own, &connection.api_path, tail) {
        (own, Some(api), Some(tail)) => format!("{own}{api}{tail}"),
        (own, Some(_), None) => format!("{own}{path}"),
        ("", None, _) => path.to_owned(),
        (own, None, Some(tail)) => format!("{own}{tail}"),
        (own, None, None) => format!("{}{path}", own.strip_suffix("/v1").unwrap_or(own)),
    };
    let mut parts = connection.base_url.clone().into_parts();
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}

fn headers(id: &str, api: Api, key: Option<&SecretString>) -> Result<HeaderMap, SetupError> {
    // Room for the two headers that a call adds, so that a clone does not have to grow.
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    // Measured on a chat answer (1.5 KB) and an embedding (20 KB): compressing takes the server 0.3
    // and 3 ms and saves 1 and 12 KB, which a link of 100 Mbit/s carries in 0.1 and 1 ms.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("batchd/", env!("CARGO_PKG_VERSION"))));
    if let Some(key) = key {
        let (name, text) = match api {
            Api::OpenAi => openai::key(key),
            Api::Anthropic => anthropic::key(key),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| SetupError::Key { provider: id.into() })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn call_name(key: RowKey) -> Option<HeaderValue> {
    let mut name = BytesMut::with_capacity(KEY_PREFIX.len() + RowKey::LEN);
    write!(name, "{KEY_PREFIX}{key}").ok()?;
    // Digits and letters only, so the check cannot fail.
    HeaderValue::from_maybe_shared(Bytes::from(name)).ok()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-request-id").or_else(|| text(headers, "request-id")).filter(|id| !id.is_empty()).map(str::to_owned)
}

fn parse_milliseconds(value: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(value.trim().parse::<f64>().ok()? / 1_000.0).ok()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            asked,
            ["GET /props HTTP/1.1", "GET /metrics HTTP/1.1", "GET /props HTTP/1.1"],
            "what is not there is not asked for again"
        );
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
}
