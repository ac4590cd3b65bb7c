//! One attempt at a message: a connection of its own, one request, the status of the answer.
//!
//! A redirect is not followed: it could lead where the receiver's URL may not.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tower::Service;

use crate::domain::delivery::Delivery;
use crate::domain::target::{Targets, Unwanted};
use crate::provider::{SetupError, client_tls, reason};
use crate::store::Unsealable;

/// How long one attempt may take: the older of BatchRouter's pages wants an answer within it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the signature is.
const SIGNATURE: &str = "x-batchrouter-signature";

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the receiver's URL cannot be used")]
    Url,
    #[error("the receiver's URL {0}")]
    Unwanted(#[from] Unwanted),
    #[error(transparent)]
    Secret(Unsealable),
    #[error("the receiver answered {0}")]
    Refused(StatusCode),
    #[error("the receiver did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
}

/// Sends messages.
pub(super) struct Sender {
    http: Client<HttpsConnector<HttpConnector<Guarded>>, Full<Bytes>>,
    targets: Targets,
}

impl Sender {
    pub fn new(targets: Targets) -> Result<Self, SetupError> {
        let mut tcp = HttpConnector::new_with_resolver(Guarded { targets });
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(PATIENCE));
        let tls = client_tls("webhooks")?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        // Receivers are many and seldom called.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { http, targets })
    }

    /// Makes one attempt.
    pub async fn send(&self, delivery: &Delivery, secret: &[u8]) -> Result<(), SendError> {
        let url: Uri = delivery.webhook.url.parse().map_err(|_| SendError::Url)?;
        self.targets.check(&url)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("batchd/", env!("CARGO_PKG_VERSION")))
            .header(SIGNATURE, signature(secret, &delivery.body))
            .body(Full::new(Bytes::from(delivery.body.clone())))
            .map_err(|_| SendError::Url)?;
        // The status is all that counts; the rest of the answer is not waited for.
        match tokio::time::timeout(PATIENCE, self.http.request(request)).await {
            Err(_) => Err(SendError::Late),
            Ok(Err(error)) => Err(SendError::Unreachable(reason(&error))),
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(SendError::Refused(response.status())),
        }
    }
}

/// Lower-case hexadecimal HMAC-SHA256 of the exact body (BatchRouter's guide to webhooks).
pub(super) fn signature(secret: &[u8], body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Resolves names, and gives only addresses that may be called.
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
