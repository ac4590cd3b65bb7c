//! What is wrong with the head of a request, and the answer that says so.
//!
//! Everything here is a form that two programs may read differently, such as a proxy in front and
//! the daemon behind it: where one sees the end of a request, or its host, the other could see
//! another, and one client's bytes would become part of another's request (RFC 9112, sections 11.1
//! and 11.2). Such a request is refused, never mended, and its connection closes.

use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderName, HeaderValue, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::request_body::Unread;
use crate::domain::error::Code;
use crate::http::response::error::ApiError;

/// A fault, as its client is told. Lines count from 1, which is the request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error("line {line} of the request's head ends with a line feed alone; every line must end with CR LF")]
    BareLineFeed { line: usize },
    #[error("line {line} of the request's head holds the control character {byte:#04x}; no line may hold one")]
    Control { line: usize, byte: u8 },
    #[error("the request line must be a method, a path and `HTTP/1.1`, with one space between them")]
    RequestLine,
    #[error("line {line} of the request's head begins with a space: a header must stand on one line")]
    Folded { line: usize },
    #[error("line {line} of the request's head is no header: a header is a name, a colon right behind it, and a value")]
    NoHeader { line: usize },
    #[error("`Host` is missing; a request of HTTP/1.1 names its host once")]
    NoHost,
    #[error("`Host` stands there more than once; a request names its host once")]
    ManyHosts,
    #[error("`Host` must be a host name or an address, and a port if there is one, such as `batch.example.com:7400`")]
    BadHost,
    #[error("`Host` and the URL of the request name different hosts; send the same in both, or a path alone")]
    OtherHost,
    #[error("`Content-Length` must stand there once and be a whole number of bytes")]
    Length,
    #[error("`Transfer-Encoding` must stand there once and be `chunked`; no other coding is read")]
    Coding,
    #[error("`Transfer-Encoding` and `Content-Length` exclude each other; send one of them")]
    TwoLengths,
    #[error("`Transfer-Encoding` came with HTTP/1.0, which does not have it; send `Content-Length`, or use HTTP/1.1")]
    OldCoding,
}

impl HeadFault {
    /// The header at fault.
    fn header(self) -> Option<HeaderName> {
        match self {
            Self::BareLineFeed { .. } | Self::Control { .. } | Self::RequestLine | Self::Folded { .. } | Self::NoHeader { .. } => None,
            Self::NoHost | Self::ManyHosts | Self::BadHost | Self::OtherHost => Some(HOST),
            Self::Length => Some(CONTENT_LENGTH),
            Self::Coding | Self::TwoLengths | Self::OldCoding => Some(TRANSFER_ENCODING),
        }
    }
}

/// Answers a request whose head is at fault, and lets all others pass. The listener has found what
/// is at fault in HTTP/1.1 and says it among the request's extensions; the request itself is then a
/// stand-in. With HTTP/2, the frames leave nothing in doubt except the host.
pub async fn refuse(request: Request, next: Next) -> Response {
    let Some(fault) = request.extensions().get::<HeadFault>().copied().or_else(|| fault_of_http2(&request)) else {
        return next.run(request).await;
    };
    let error = ApiError::new(Code::InvalidValue, fault.to_string());
    let error = match fault.header() {
        Some(header) => error.param(header.as_str()),
        None => error,
    };
    let mut response = error.into_response();
    if request.version() < Version::HTTP_2 {
        // What follows cannot be told apart from the request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response.extensions_mut().insert(Unread);
    }
    response
}

fn fault_of_http2(request: &Request) -> Option<HeadFault> {
    if request.version() < Version::HTTP_2 {
        return None;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?;
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if hosts.next().is_some() {
        return Some(HeadFault::ManyHosts);
    }
    authority.filter(|authority| !authority.eq_ignore_ascii_case(host.as_bytes())).map(|_| HeadFault::OtherHost)
}
