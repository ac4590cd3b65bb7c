//! How the daemon recognises the dialect of a request: by its path, by its client, by the body of a
//! create.
//!
//! The first rule that applies decides: a path that only one dialect has; the object that the path
//! names (it is answered in the dialect that created it, which is
//! [`crate::domain::batch::BatchSpec::dialect`]); the client (BatchRouter's keys begin with
//! `br_live_` or `ob_live_`, Phaseo's with `phaseo_` or `aistats_`, and Phaseo's clients send
//! `X-Phaseo-Client`); the body of a create (`quote_id` and items with a `customer_item_id` are
//! BatchRouter's; other `items`, `requests`, `prompts`, `session_id`, `webhook` and
//! `webhook_endpoint_id` are Phaseo's). Otherwise the dialect is OpenAI's.

use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::domain::dialect::Dialect;

/// The prefixes of BatchRouter's keys.
const BATCHROUTER_KEYS: [&str; 2] = ["br_live_", "ob_live_"];
/// The prefixes of Phaseo's keys, and the header that all of its clients send.
const PHASEO_KEYS: [&str; 2] = ["phaseo_", "aistats_"];
const PHASEO_CLIENT: HeaderName = HeaderName::from_static("x-phaseo-client");

/// The only dialect that has a path, its mount included; `None` if several have it, or none.
pub fn of_path(path: &str) -> Option<Dialect> {
    if is_batchrouters(path) {
        return Some(Dialect::BatchRouter);
    }
    is_phaseos(path).then_some(Dialect::Phaseo)
}

/// Whether a path, its mount included, belongs to BatchRouter alone.
fn is_batchrouters(path: &str) -> bool {
    let below = path.strip_prefix("/v1").filter(|below| {
        let is_own = |below: &str| {
            ["/batches/quote", "/batches/input-manifests"].contains(&below)
                || below.starts_with("/batches/") && (below.ends_with("/artifact-url") || below.ends_with("/billing-receipt"))
        };
        ["/catalog/", "/quotes/", "/auth/"].iter().any(|start| below.starts_with(start))
            || is_own(below)
            || ["/providers", "/pricing/fees", "/health"].contains(below)
    });
    below.is_some() || path.starts_with("/batchrouter/")
}

/// Whether a path, its mount included, belongs to Phaseo alone.
fn is_phaseos(path: &str) -> bool {
    let is_own = |below: &str| {
        let mut parts = below.split('/').skip(1);
        match (parts.next(), parts.next(), parts.next()) {
            (Some("batch" | "async" | "webhook-endpoints"), _, _) | (Some("data"), Some("models"), None) => true,
            (Some("batches"), Some("models" | "capabilities" | "files"), _) | (Some("batches"), Some(_), Some("requests")) => true,
            (_, _, _) => false,
        }
    };
    path.starts_with("/phaseo/") || path.strip_prefix("/v1").is_some_and(is_own)
}

/// The dialect that a client speaks, by its key or its headers; `None` if they do not show it.
pub fn of_client(headers: &HeaderMap) -> Option<Dialect> {
    let phaseo = || has_header_of_phaseo(headers).then_some(Dialect::Phaseo);
    speaks_batchrouter(headers).then_some(Dialect::BatchRouter).or_else(phaseo)
}

fn has_key_of(headers: &HeaderMap, starts: &[&str]) -> bool {
    let key = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.get(7..));
    key.is_some_and(|key| starts.iter().any(|start| key.trim_start().starts_with(start)))
}

/// Whether a client sends a key of BatchRouter's.
pub fn speaks_batchrouter(headers: &HeaderMap) -> bool {
    has_key_of(headers, &BATCHROUTER_KEYS)
}

/// Whether a client sends Phaseo's header, or a key of Phaseo's.
pub fn has_header_of_phaseo(headers: &HeaderMap) -> bool {
    headers.contains_key(PHASEO_CLIENT) || has_key_of(headers, &PHASEO_KEYS)
}

/// Whether a request is for Phaseo: by its path, its key or its header.
pub fn speaks_phaseo(request: &Request) -> bool {
    of_path(request.uri().path()) == Some(Dialect::Phaseo) || of_client(request.headers()) == Some(Dialect::Phaseo)
}

/// The dialect that the body of a create shows.
pub fn of_create(body: &[u8]) -> Dialect {
    // serde would read an array as the members in their order.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let peek = serde_json::from_slice::<Peek<'_>>(body).ok().filter(|_| is_object);
    peek.map_or(Dialect::OpenAi, |peek| peek.dialect())
}

/// The fields of a create that show its dialect.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(default)]
    quote_id: Option<IgnoredAny>,
    #[serde(borrow, default)]
    items: Option<&'a RawValue>,
    #[serde(default)]
    requests: Option<IgnoredAny>,
    #[serde(default)]
    prompts: Option<IgnoredAny>,
    #[serde(default)]
    session_id: Option<IgnoredAny>,
    #[serde(default)]
    webhook: Option<IgnoredAny>,
    #[serde(default)]
    webhook_endpoint_id: Option<IgnoredAny>,
}

/// The field of an item that shows that the create is BatchRouter's.
#[derive(Deserialize)]
struct PeekItem {
    #[serde(default)]
    customer_item_id: Option<IgnoredAny>,
    #[serde(default)]
    operation: Option<IgnoredAny>,
}

impl Peek<'_> {
    fn dialect(&self) -> Dialect {
        let items = self.items.map(|items| serde_json::from_str::<Vec<&RawValue>>(items.get()).unwrap_or_default());
        let first = items.as_ref().and_then(|items| serde_json::from_str::<PeekItem>(items.first()?.get()).ok());
        let is_own = first.is_none_or(|item| item.customer_item_id.is_some() || item.operation.is_some());
        let phaseo = [&self.requests, &self.prompts, &self.session_id, &self.webhook_endpoint_id].iter().any(|field| field.is_some());
        match (self.quote_id.is_some(), items.is_some(), phaseo || self.webhook.is_some()) {
            (true, _, _) => Dialect::BatchRouter,
            (false, true, _) if is_own => Dialect::BatchRouter,
            (false, true, _) | (false, false, true) => Dialect::Phaseo,
            (false, false, false) => Dialect::OpenAi,
        }
    }
}
