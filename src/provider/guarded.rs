//! Connections to servers that a client names. The rule for them is checked on the addresses that a
//! name resolves to at that moment, so a name cannot change its meaning after a check.
//!
//! A URL that names an address, and no host, resolves nothing: whoever connects checks the URL first
//! ([`Targets::check`]).

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tower::Service;

use super::SetupError;
use super::transport::client_tls;
use crate::domain::webhook::target_policy::{Targets, Unwanted};

/// A client that connects to addresses that may be called, and to no others.
pub type GuardedClient = Client<HttpsConnector<HttpConnector<Guarded>>, Full<Bytes>>;

/// Makes such a client; `who` names it in the log. It follows no redirect and keeps no connection:
/// servers that clients name are many, and each is seldom called.
///
/// # Errors
/// When no usable cryptography is available.
pub fn guarded_client(who: &str, targets: Targets, connect_within: Duration) -> Result<GuardedClient, SetupError> {
    let mut tcp = HttpConnector::new_with_resolver(Guarded { targets });
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(connect_within));
    let tls = client_tls(who)?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// Resolves names, and returns only addresses that may be called.
#[derive(Debug, Clone, Copy)]
pub struct Guarded {
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
