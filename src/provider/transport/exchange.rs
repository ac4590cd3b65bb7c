//! What goes out on a connection and what comes back, whichever version of HTTP carries it.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

/// A request as it is sent, with its whole URL. Boxed, because many functions pass it on, and each
/// would keep room for it for as long as a call waits.
pub type Outgoing = Box<Request<Bytes>>;

/// The beginning of an answer.
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The length of the body in bytes, if the answer states it.
    pub announced: Option<u64>,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportFault {
    #[error("the connection was closed before the answer was complete")]
    Closed,
    #[error("the server speaks TLS on this port; use https://")]
    SpeaksTls,
    #[error("the head of the answer is too long")]
    TooLong,
    #[error("the answer has more than 256 headers")]
    TooManyHeaders,
    #[error("the request cannot be written as HTTP/1.1")]
    Unwritable,
    #[error("the answer is not HTTP/1.1: {0}")]
    Http1(#[from] ureq_proto::Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A request that was not answered.
#[derive(Debug)]
pub struct Failed {
    pub fault: TransportFault,
    /// The request, if no part of it was written.
    pub unsent: Option<Outgoing>,
}
