//! The use of a connection for one exchange, whichever version of HTTP it speaks.
//!
//! Invariant: a request comes back from [`Link::send`] only if no byte of it was written.

use std::future::poll_fn;

use bytes::Bytes;
use http::HeaderValue;

use super::http1::Own;
use super::http2::Share;
use crate::provider::transport::exchange::{Failed, Head, Outgoing, TransportFault};

/// The use of a connection for one exchange.
pub(super) enum Link {
    Own(Own),
    Shared(Share),
}

impl Link {
    /// Sends a request and waits for the head of the answer. `host` is the `Host` header.
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
