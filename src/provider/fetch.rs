//! Fetches the content that a row names by a URL.
//!
//! A client names the URL, so every connection is held to [`Targets`], that of each redirect, too;
//! bytes and time are bounded. A fetch that failed may be tried again if the server may do better the
//! next time.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::guarded::{GuardedClient, guarded_client};
use super::{SetupError, reason};
use crate::descriptors::{Descriptors, is_refusal};
use crate::domain::webhook::target_policy::{Targets, Unwanted};

/// How long a connection may take, and a whole fetch with its redirects.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(120);
/// The most redirects that one fetch follows.
const MAX_REDIRECTS: usize = 5;

/// Content that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub content: Vec<u8>,
    /// The media type that the server states; empty if it states none.
    pub mime: String,
    /// The path of the URL that was named, and of the one to which redirects led.
    pub paths: [String; 2],
}

/// Why there is no content. The texts name no host: the row names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("the URL {0}")]
    Unwanted(#[from] Unwanted),
    #[error("the URL leads to another place more than {MAX_REDIRECTS} times")]
    RedirectedTooOften,
    #[error("the URL leads to a place that cannot be used")]
    Redirect,
    #[error("its server answered {0}")]
    Status(StatusCode),
    #[error("its server sends it in the coding `{0}`, which was not asked for")]
    Encoded(String),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("it is empty")]
    Empty,
    #[error("its server did not send all of it within {} seconds", WITHIN.as_secs())]
    Late,
    #[error("its server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the connection to its server broke: {0}")]
    Broken(String),
    /// There is no room for the content at present.
    #[error("there is no room for it")]
    NoRoom,
}

impl FetchError {
    /// Whether another fetch of the same URL may well succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            Self::Late | Self::Unreachable(_) | Self::Broken(_) | Self::NoRoom => true,
            Self::Unwanted(_) | Self::RedirectedTooOften | Self::Redirect | Self::Encoded(_) | Self::TooLarge(_) | Self::Empty => false,
        }
    }
}

/// Fetches content.
#[derive(Clone)]
pub struct Fetcher {
    http: GuardedClient,
    targets: Targets,
    descriptors: Descriptors,
}

impl Fetcher {
    /// A fetcher that calls only these targets.
    ///
    /// # Errors
    /// When no usable cryptography is available.
    pub fn new(targets: Targets, descriptors: Descriptors) -> Result<Self, SetupError> {
        Ok(Self { http: guarded_client("the fetcher of recordings", targets, CONNECT_WITHIN)?, targets, descriptors })
    }

    #[cfg(test)]
    pub fn for_tests(targets: Targets) -> Self {
        Self::new(targets, Descriptors::new(1 << 20, 0)).unwrap()
    }

    /// Fetches at most `most` bytes. As soon as an upper bound of the content is known, `make_room` is
    /// asked for that many bytes; what it says no to is not read.
    ///
    /// # Errors
    /// When the URL may not be called, or its content does not arrive whole.
    pub async fn get(&self, url: &Uri, most: u64, make_room: impl FnOnce(u64) -> bool + Send) -> Result<Fetched, FetchError> {
        // The time spent waiting for a place must not count against the server.
        let _place = self.descriptors.calls().claim().await;
        let fetched = tokio::time::timeout(WITHIN, self.fetch(url.clone(), most, make_room)).await;
        fetched.map_err(|_| FetchError::Late)?
    }

    async fn fetch(&self, mut url: Uri, most: u64, make_room: impl FnOnce(u64) -> bool + Send) -> Result<Fetched, FetchError> {
        let named = url.path().to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&url).await?;
            match response.status() {
                status if status.is_success() => {
                    let (content, mime) = whole(response, most, make_room).await?;
                    return Ok(Fetched { content, mime, paths: [named, url.path().to_owned()] });
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    url = text(response.headers(), LOCATION).and_then(|to| resolved(&url, to)).ok_or(FetchError::Redirect)?;
                }
                status => return Err(FetchError::Status(status)),
            }
        }
        Err(FetchError::RedirectedTooOften)
    }

    async fn ask(&self, url: &Uri) -> Result<Response<Incoming>, FetchError> {
        self.targets.check_source(url)?;
        let request = Request::get(url)
            .header(ACCEPT, "*/*")
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, concat!("batchd/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::new()));
        let request = request.map_err(|_| FetchError::Redirect)?;
        self.http.request(request).await.map_err(|error| {
            if is_refusal(&error) {
                self.descriptors.refused();
            }
            match unwanted(&error) {
                Some(unwanted) => FetchError::Unwanted(unwanted),
                None => FetchError::Unreachable(reason(&error)),
            }
        })
    }
}

/// Reads the whole body.
async fn whole(
    response: Response<Incoming>,
    most: u64,
    make_room: impl FnOnce(u64) -> bool + Send,
) -> Result<(Vec<u8>, String), FetchError> {
    let headers = response.headers();
    if let Some(coding) = text(headers, CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(FetchError::Encoded(coding.chars().take(20).collect()));
    }
    let stated = text(headers, CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
    if stated.is_some_and(|stated| stated > most) {
        return Err(FetchError::TooLarge(most));
    }
    let mime = text(headers, CONTENT_TYPE).unwrap_or_default().to_owned();
    if !make_room(stated.unwrap_or(most)) {
        return Err(FetchError::NoRoom);
    }
    let mut content = Vec::with_capacity(stated.and_then(|stated| usize::try_from(stated).ok()).unwrap_or(0));
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Broken(reason(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if (content.len() + data.len()) as u64 > most {
            return Err(FetchError::TooLarge(most));
        }
        content.extend_from_slice(&data);
    }
    content.shrink_to_fit();
    if content.is_empty() { Err(FetchError::Empty) } else { Ok((content, mime)) }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Where a redirect leads: an absolute URL, one without scheme, or a path.
fn resolved(from: &Uri, to: &str) -> Option<Uri> {
    let to = to.split('#').next()?;
    let mut parts = from.clone().into_parts();
    if let Some(rest) = to.strip_prefix("//") {
        return format!("{}://{rest}", from.scheme_str()?).parse().ok();
    }
    // With a scheme of its own; otherwise a colon belongs to a path.
    let has_scheme = to.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['/', '?']));
    if has_scheme {
        return to.parse().ok();
    }
    let path = match (to.starts_with('/'), to.starts_with('?')) {
        (true, _) => to.to_owned(),
        (_, true) => format!("{}{to}", from.path()),
        _ => format!("{}/{to}", from.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

/// The rule that kept a connection from being made, if one did.
fn unwanted(error: &(dyn std::error::Error + 'static)) -> Option<Unwanted> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(unwanted) = inner.and_then(|inner| inner.downcast_ref::<Unwanted>()).or_else(|| error.downcast_ref()) {
            return Some(*unwanted);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::test_server::{Loopback, Reply};

    const MOST: u64 = 100;

    async fn get(targets: Targets, url: &str) -> Result<Fetched, FetchError> {
        Fetcher::for_tests(targets).get(&url.parse().unwrap(), MOST, |_| true).await
    }

    #[tokio::test]
    async fn content_comes_with_its_type_and_redirects_are_followed() {
        let server = Loopback::start(vec![
            Reply::answer("302 Found", "location: /b/c.mp3?x=1#end\r\n", ""),
            Reply::answer("307 Temporary Redirect", "location: d.mp3\r\n", "elsewhere"),
            Reply::answer("200 OK", "content-type: audio/mpeg\r\n", "sound"),
        ])
        .await;
        let fetched = get(Targets::PublicAndLoopback, &format!("http://{}/a.mp3", server.address())).await.unwrap();
        assert_eq!(fetched, Fetched { content: b"sound".to_vec(), mime: "audio/mpeg".into(), paths: ["/a.mp3".into(), "/b/d.mp3".into()] });
        let paths: Vec<_> = server.requests().iter().map(|request| request.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(paths, ["/a.mp3", "/b/c.mp3?x=1", "/b/d.mp3"]);
    }

    #[tokio::test]
    async fn no_address_is_called_that_only_this_network_can_reach() {
        let server = Loopback::start(vec![Reply::answer("200 OK", "", "secret")]).await;
        let port = server.address().port();
        // The last ones are resolved, as the system reads them.
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "127.1", "2130706433"] {
            let error = get(Targets::Public, &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(matches!(error, FetchError::Unwanted(Unwanted::Private) | FetchError::Unreachable(_)), "{host}: {error}");
        }
        let unwanted = get(Targets::Public, &format!("http://localhost:{port}/")).await.unwrap_err();
        assert!(unwanted == FetchError::Unwanted(Unwanted::Private) && !unwanted.may_pass(), "{unwanted}");
        let word = get(Targets::Any, &format!("http://user:word@127.0.0.1:{port}/")).await.unwrap_err();
        assert_eq!(word, FetchError::Unwanted(Unwanted::Credentials));
        assert_eq!(server.requests(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_redirect_is_held_to_the_same_rule() {
        for to in
            ["http://10.0.0.1/", "//192.168.0.1/x", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "gopher://a.test"]
        {
            let server = Loopback::start(vec![Reply::answer("302 Found", &format!("location: {to}\r\n"), "")]).await;
            let error = get(Targets::PublicAndLoopback, &format!("http://{}/", server.address())).await.unwrap_err();
            assert!(matches!(error, FetchError::Unwanted(_) | FetchError::Redirect), "{to}: {error}");
        }
        let server = Loopback::start(vec![Reply::answer("302 Found", "location: /again\r\n", "")]).await;
        let error = get(Targets::PublicAndLoopback, &format!("http://{}/", server.address())).await;
        assert_eq!((error, server.requests().len()), (Err(FetchError::RedirectedTooOften), MAX_REDIRECTS + 1));
    }

    #[tokio::test]
    async fn a_fetch_has_its_bounds() {
        let long = "x".repeat(101);
        let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n{long}\r\n0\r\n\r\n");
        let table = [
            (Reply::answer("200 OK", "", &long), "it has more than 100 bytes", false),
            (Reply::Send(chunked), "it has more than 100 bytes", false),
            (Reply::answer("200 OK", "", ""), "it is empty", false),
            (
                Reply::answer("200 OK", "content-encoding: gzip\r\n", "x"),
                "its server sends it in the coding `gzip`, which was not asked for",
                false,
            ),
            (Reply::answer("404 Not Found", "", "x"), "its server answered 404 Not Found", false),
            (Reply::answer("503 Service Unavailable", "", "x"), "its server answered 503 Service Unavailable", true),
            (Reply::Cut("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into()), "the connection to its server broke", true),
        ];
        for (reply, message, may_pass) in table {
            let server = Loopback::start(vec![reply]).await;
            let error = get(Targets::Any, &format!("http://{}/", server.address())).await.unwrap_err();
            assert!(error.to_string().starts_with(message) && error.may_pass() == may_pass, "{error}");
        }
        let server = Loopback::start(vec![Reply::answer("200 OK", "", "sound")]).await;
        let fetcher = Fetcher::for_tests(Targets::Any);
        let mut asked = 0;
        let url = format!("http://{}/", server.address()).parse().unwrap();
        let full = fetcher.get(&url, MOST, |bytes| std::mem::replace(&mut asked, bytes) > 0).await;
        assert_eq!((full, asked), (Err(FetchError::NoRoom), 5));
    }
}
