//! The use of a connection for one exchange, whichever HTTP it speaks.
//!
//! Invariant: a request comes back from [`Link::send`] only if no byte of it was written.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::http1::Own;
use super::http2::Share;

/// A request as it is sent, its URL whole. Boxed, because it passes through many hands, and each
/// would keep room for it as long as a call waits.
pub(super) type Outgoing = Box<Request<Bytes>>;

/// The beginning of an answer.
pub(super) struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// How long its body is, in bytes, if it says so.
    pub announced: Option<u64>,
}

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportFault {
    #[error("the connection was closed before the answer was complete")]
    Closed,
    #[error("the head of the answer is too long")]
    TooLong,
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
pub(super) struct Failed {
    pub fault: TransportFault,
    /// The request, if nothing of it was written.
    pub unsent: Option<Outgoing>,
}

/// The use of a connection for one exchange.
pub(super) enum Link {
    Own(Own),
    Shared(Share),
}

impl Link {
    /// Sends a request and waits for the head of the answer. `host` is the header of that name.
    pub async fn send(&mut self, request: Outgoing, host: &HeaderValue) -> Result<Head, Failed> {
        match self {
            Self::Own(own) => own.send(request, host).await,
            // Boxed, so that a call on a connection of its own is smaller.
            Self::Shared(share) => Box::pin(share.send(request)).await,
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub async fn piece(&mut self) -> Option<Result<Bytes, TransportFault>> {
        poll_fn(|cx| match self {
            Self::Own(own) => own.poll_piece(cx),
            Self::Shared(share) => share.poll_piece(cx),
        })
        .await
    }
}
