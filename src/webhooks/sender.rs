//! One attempt to deliver a message: a connection of its own, one request, the status of the
//! answer.
//!
//! A redirect is not followed: it could lead to an address that the receiver's URL may not name.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use serde_json::value::RawValue;
use tower::Service;

use super::envelope;
use super::envelope::Letter;
use crate::descriptors::{Descriptors, is_refusal};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::target_policy::{Targets, Unwanted};
use crate::provider::{SetupError, client_tls, reason};
use crate::store::Unsealable;

/// How long one attempt may take: the older of BatchRouter's pages wants an answer within ten
/// seconds, Phaseo's within thirty.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_OF_PHASEO: Duration = Duration::from_secs(30);
/// Bytes of an answer that are kept, and how long the sender waits for them.
const PREVIEW: usize = 500;
const PREVIEW_WITHIN: Duration = Duration::from_secs(5);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the receiver's URL cannot be used")]
    Url,
    #[error("the receiver's URL {0}")]
    Unwanted(#[from] Unwanted),
    #[error(transparent)]
    Secret(Unsealable),
    #[error("the receiver answered {}", .0.status)]
    Refused(ReceiverAnswer),
    #[error("the receiver did not answer within {} seconds", .0.as_secs())]
    Late(Duration),
    #[error("the receiver was deleted, disabled, or wants no more of it")]
    Gone,
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
}

/// The answer of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceiverAnswer {
    pub status: StatusCode,
    /// The beginning of its body.
    pub preview: String,
}

/// Sends messages.
pub(super) struct Sender {
    http: Client<HttpsConnector<HttpConnector<Guarded>>, Full<Bytes>>,
    targets: Targets,
    standard: bool,
    descriptors: Descriptors,
}

impl Sender {
    /// A sender that also sends the headers of Standard Webhooks if `standard`.
    pub fn new(targets: Targets, standard: bool, descriptors: Descriptors) -> Result<Self, SetupError> {
        let mut tcp = HttpConnector::new_with_resolver(Guarded { targets });
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(PATIENCE));
        let tls = client_tls("webhooks")?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        // Receivers are many and seldom called, so no connection is kept.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { http, targets, standard, descriptors })
    }

    /// Makes one attempt.
    pub async fn send(&self, delivery: &Delivery, webhook: &Webhook, secret: &[u8], now: Timestamp) -> Result<ReceiverAnswer, SendError> {
        let (patience, letter) = match &delivery.wire {
            Payload::BatchRouter => (PATIENCE, envelope::of_batchrouter(delivery, secret)),
            Payload::Phaseo(event) => (PATIENCE_OF_PHASEO, envelope::of_phaseo(delivery, event, secret, now)),
        };
        self.post(webhook, letter, patience, secret, now).await
    }

    /// Sends a test message to a receiver.
    pub async fn test(
        &self,
        id: &str,
        data: &RawValue,
        webhook: &Webhook,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<ReceiverAnswer, SendError> {
        self.post(webhook, envelope::of_test(id, data, secret, now), PATIENCE_OF_PHASEO, secret, now).await
    }

    async fn post(
        &self,
        webhook: &Webhook,
        letter: Letter,
        patience: Duration,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<ReceiverAnswer, SendError> {
        let url: Uri = webhook.url.parse().map_err(|_| SendError::Url)?;
        self.targets.check(&url)?;
        let mut request = Request::builder().method(Method::POST).uri(url).header(CONTENT_TYPE, "application/json");
        for (name, value) in letter.headers.iter().chain(&letter.standard(self.standard, secret, now)) {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(letter.body))).map_err(|_| SendError::Url)?;
        // The time spent waiting for a place must not count against the receiver.
        let _place = self.descriptors.calls().claim().await;
        let response = match tokio::time::timeout(patience, self.http.request(request)).await {
            Err(_) => return Err(SendError::Late(patience)),
            Ok(Err(error)) => {
                if is_refusal(&error) {
                    self.descriptors.refused();
                }
                return Err(SendError::Unreachable(reason(&error)));
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let answer = ReceiverAnswer { status, preview: preview(response.into_body()).await };
        if status.is_success() { Ok(answer) } else { Err(SendError::Refused(answer)) }
    }
}

/// Reads the beginning of an answer's body, as far as it arrives in time: only the status matters.
async fn preview(mut body: Incoming) -> String {
    let mut read = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                read.extend_from_slice(&data[..data.len().min(PREVIEW - read.len())]);
            }
            if read.len() == PREVIEW {
                break;
            }
        }
    };
    // Whatever has arrived by then is enough.
    let _ = tokio::time::timeout(PREVIEW_WITHIN, reading).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// Resolves names, and returns only addresses that may be called.
#[derive(Debug, Clone, Copy)]
struct Guarded {
    targets: Targets,
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let targets = self.targets;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = found.iter().copied().filter(|address| targets.allows(address.ip())).collect();
            match allowed.is_empty() && !found.is_empty() {
                true => Err(std::io::Error::other(Unwanted::Private)),
                false => Ok(allowed.into_iter()),
            }
        })
    }
}
