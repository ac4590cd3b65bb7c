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
#[cfg(test)]
mod tests;

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
use super::transport::exchange::Outgoing;
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

    /// The request of a call. Made before anything waits, so that a waiting call does not hold what it
    /// was made from.
    fn request(&self, call: Call) -> Result<Outgoing, CallError> {
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
        Ok(request)
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
        let budget = call.budget;
        let request = self.request(call);
        Box::pin(async move { Ok(self.answer(self.transport.send(request?, budget).await?)) })
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
