//! Opens connections: directly, or through the proxy that the environment names, then TLS.
//!
//! Knows nothing of requests, except that a request to a forwarding proxy carries the proxy's
//! credentials.
//!
//! Invariants: a host of this machine is never reached through a proxy, and opening a connection
//! (name resolution, TCP, proxy and TLS together) ends within one limit.

use std::future::{Ready, ready};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::time::timeout;
use tower::{Service, ServiceExt};

use super::roots;
use crate::descriptors::Place;
use crate::domain::provider::connection::{HostAddresses, ServerConnection};
use crate::provider::SetupError;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an idle TCP connection stays silent before the kernel asks the other side for a sign of
/// life. Keeps the entries of NAT gateways alive during answers that take minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// The port of a SOCKS proxy whose URL names none.
const SOCKS_PORT: u16 = 1080;

/// The time limit for opening a connection passed.
#[derive(Debug, thiserror::Error)]
#[error("no connection within the time limit")]
pub(super) struct ConnectTimedOut;

/// Opens connections to one upstream.
#[derive(Clone)]
pub(super) struct Connector {
    way: Way,
    limit: Duration,
    /// Host and port of the proxy, if there is one.
    proxy: Option<String>,
}

/// Stands in for the look-up of a name: its address is known.
#[derive(Debug, Clone, Copy)]
struct Known(IpAddr);

impl Service<Name> for Known {
    type Response = std::iter::Once<SocketAddr>;
    type Error = std::io::Error;
    type Future = Ready<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        // The port is that of the URL.
        ready(Ok(std::iter::once(SocketAddr::new(self.0, 0))))
    }
}

#[derive(Clone)]
enum Way {
    Direct(HttpsConnector<HttpConnector>),
    /// To one address of the host.
    To(HttpsConnector<HttpConnector<Known>>),
    /// Plain HTTP: the request itself is sent to the proxy, with its whole URL.
    Forward {
        proxy: Uri,
        connector: HttpsConnector<HttpConnector>,
    },
    /// HTTPS: the proxy joins two streams on `CONNECT` and sees only the host.
    Tunnel(HttpsConnector<Tunnel<HttpsConnector<HttpConnector>>>),
    Socks(HttpsConnector<SocksV5<HttpConnector>>),
}

impl Connector {
    /// The connector for the host of `connection`, and the credentials that each request to a
    /// forwarding proxy must carry.
    pub fn open(provider: &str, connection: &ServerConnection, proxies: &Matcher) -> Result<(Self, Option<HeaderValue>), SetupError> {
        let url = &connection.base_url;
        let limit = connection.timeouts.connect;
        let intercept = if is_this_machine(url) { None } else { proxies.intercept(url) };
        let secure = |url: &Uri| url.scheme_str() == Some("https");
        let needs_tls = secure(url) || intercept.as_ref().is_some_and(|proxy| secure(proxy.uri()));
        let tls = roots::client_config(provider, connection.ca_file.as_deref(), needs_tls)?;

        let tcp = tcp(HttpConnector::new(), limit);
        let target = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_all_versions();
        let Some(proxy) = intercept else {
            let way = match connection.addresses {
                HostAddresses::Any | HostAddresses::Each => Way::Direct(target.wrap_connector(tcp)),
                HostAddresses::One(address) => {
                    Way::To(target.wrap_connector(self::tcp(HttpConnector::new_with_resolver(Known(address)), limit)))
                }
            };
            return Ok((Self { way, limit, proxy: None }, None));
        };
        tracing::info!(provider, proxy = %proxy.uri(), "calls go through a proxy");
        // The connection to the proxy itself speaks HTTP/1.1 only: CONNECT is written by hand.
        let to_proxy = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let (way, auth) = match proxy.uri().scheme_str() {
            Some("socks5" | "socks5h") => {
                let socks =
                    socks(&proxy, tcp).map_err(|error| SetupError::Proxy { provider: provider.into(), reason: error.to_string() })?;
                (Way::Socks(target.wrap_connector(socks)), None)
            }
            Some("http" | "https") if secure(url) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy.wrap_connector(tcp));
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                (Way::Tunnel(target.wrap_connector(tunnel)), None)
            }
            Some("http" | "https") => {
                let way = Way::Forward { proxy: proxy.uri().clone(), connector: to_proxy.wrap_connector(tcp) };
                (way, proxy.basic_auth().cloned())
            }
            // Bypassing a configured proxy could leak what the proxy was meant to protect.
            scheme => {
                let reason = format!("no support for proxies of kind `{}`", scheme.unwrap_or_default());
                return Err(SetupError::Proxy { provider: provider.into(), reason });
            }
        };
        let name = proxy.uri().authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
        Ok((Self { way, limit, proxy: name }, auth))
    }

    /// Host and port of the proxy, if there is one.
    pub fn proxy(&self) -> Option<String> {
        self.proxy.clone()
    }
}

/// Sets how TCP connections are made within `limit`.
fn tcp<R>(mut tcp: HttpConnector<R>, limit: Duration) -> HttpConnector<R> {
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    // Divided among the addresses of a name, so that a dead first address leaves time for the rest.
    tcp.set_connect_timeout(Some(limit));
    tcp
}

fn socks(proxy: &Intercept, tcp: HttpConnector) -> http::Result<SocksV5<HttpConnector>> {
    // `socks5` resolves names here, `socks5h` at the proxy, as in curl.
    let socks = SocksV5::new(with_port(proxy.uri(), SOCKS_PORT)?, tcp).local_dns(proxy.uri().scheme_str() == Some("socks5"));
    Ok(match proxy.raw_auth() {
        Some((user, password)) => socks.with_auth(user.into(), password.into()),
        None => socks,
    })
}

/// Scheme, host and port of a URL, with an explicit port. The connectors guess a missing port
/// wrongly: port 80 for a SOCKS proxy, port 443 for every target behind it.
fn with_port(url: &Uri, default: u16) -> http::Result<Uri> {
    let authority = format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(default));
    Uri::builder().scheme(url.scheme_str().unwrap_or("http")).authority(authority).path_and_query("/").build()
}

/// The name that is looked up for a URL that is reached directly, with the port; `None` for an
/// address and for this machine.
pub(super) fn name_of(url: &Uri) -> Option<(String, u16)> {
    let host = url.host()?;
    let is_address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    (!is_address && !is_this_machine(url)).then(|| (host.to_owned(), url.port_u16().unwrap_or(default)))
}

/// Whether the URL points at this machine. A model server on this machine behind a company-wide
/// `HTTP_PROXY` is common, and no proxy can reach it: for the proxy, `localhost` is another
/// machine.
fn is_this_machine(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|a| a.to_canonical().is_loopback() || a.is_unspecified())
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // `oneshot` below waits for the inner connector.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let Self { way, limit, .. } = self.clone();
        Box::pin(async move { timeout(limit, dial(way, target)).await.map_err(|_| ConnectTimedOut)? })
    }
}

async fn dial(way: Way, target: Uri) -> Result<Stream, BoxError> {
    let forwarded = matches!(way, Way::Forward { .. });
    let io: Box<dyn Io> = match way {
        Way::Direct(connector) => Box::new(connector.oneshot(target).await?),
        Way::To(connector) => Box::new(connector.oneshot(target).await?),
        Way::Forward { proxy, connector } => Box::new(connector.oneshot(proxy).await?),
        Way::Tunnel(connector) => Box::new(connector.oneshot(target).await?),
        Way::Socks(connector) => {
            let default = if target.scheme_str() == Some("https") { 443 } else { 80 };
            Box::new(connector.oneshot(with_port(&target, default)?).await?)
        }
    };
    Ok(Stream { io, forwarded, _place: None })
}

trait Io: Read + Write + Connection + Send + Unpin {}

impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// An open connection, however it was made.
pub(super) struct Stream {
    io: Box<dyn Io>,
    /// Makes the client write the whole URL into the request line.
    forwarded: bool,
    /// Freed when the connection is closed, and therefore the last field.
    _place: Option<Place>,
}

impl Stream {
    /// The same stream, holding this place.
    pub fn on(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_never_proxied() {
        for local in [
            "http://localhost:1",
            "http://LOCALHOST./v1",
            "http://a.localhost",
            "http://127.8.9.1",
            "http://0.0.0.0:8000",
            "http://[::1]:8080",
        ] {
            assert!(is_this_machine(&local.parse().unwrap()), "{local}");
        }
        for remote in ["http://localhost.example", "http://notlocalhost", "http://10.0.0.1", "http://[fe80::1]", "http://128.0.0.1"] {
            assert!(!is_this_machine(&remote.parse().unwrap()), "{remote}");
        }
    }

    #[test]
    fn a_missing_port_is_written_out() {
        for (url, full) in [
            ("socks5://proxy.example", "socks5://proxy.example:1080/"),
            ("socks5h://[2001:db8::1]", "socks5h://[2001:db8::1]:1080/"),
            ("socks5://proxy.example:80", "socks5://proxy.example:80/"),
        ] {
            assert_eq!(with_port(&url.parse().unwrap(), SOCKS_PORT).unwrap(), full);
        }
    }
}
