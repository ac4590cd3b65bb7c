//! How long a request may go on: as long as its caller's key is accepted. What is still being sent
//! when the key expires or is revoked ends within a second.
//!
//! Not here: who is let in at first ([`super::access_policy`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse};
use http_body::{Frame, SizeHint};
use tokio::time::sleep;

use super::auth::found;
use super::caller::{Caller, Role};
use crate::domain::org::KeyState;
use crate::domain::time::until;
use crate::http::state::Api;

/// How often the clock is looked at while a key that expires is in use: the wall clock may be set.
const LOOK: Duration = Duration::from_millis(500);
/// Bodies up to so many bytes are on their way before a key can be looked at again.
const SHORT: u64 = 64 << 10;

/// The time for which a caller may go on, among the extensions of a request that was let in.
#[derive(Clone)]
pub struct Lease {
    api: Arc<Api>,
    caller: Caller,
}

impl Lease {
    pub fn new(api: Arc<Api>, caller: Caller) -> Self {
        Self { api, caller }
    }

    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Ends when the caller's key is no longer accepted.
    pub async fn ended(self) {
        let mut keys = self.api.service.key_changes.subscribe();
        let mut operators = self.api.access.operator_keys().changes();
        while self.is_valid() {
            let expires = self.caller.client().and_then(|key| key.expires_at);
            let left = expires.map(|at| until(self.api.service.clock.now(), at).min(LOOK));
            tokio::select! {
                changed = keys.changed() => if changed.is_err() { return },
                changed = operators.changed() => if changed.is_err() { return },
                () = sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
        }
    }

    /// Whether the caller would still be let in.
    fn is_valid(&self) -> bool {
        match &self.caller.role {
            Role::Operator { .. } if self.api.access.operator_keys().are_required() => {
                self.api.access.operator_keys().have(&self.caller.key)
            }
            Role::Operator { .. } | Role::Link => true,
            Role::Client(_) => {
                let now = self.api.service.clock.now();
                found(&self.api, &self.caller.key).is_some_and(|key| key.state(now) == KeyState::Active)
            }
        }
    }

    /// The body of a request or a response, which breaks off when the lease ends.
    pub fn bound(&self, body: Body) -> Body {
        if body.size_hint().upper().is_some_and(|bytes| bytes <= SHORT) {
            return body;
        }
        Body::new(LeasedBody { body, end: self.clone().ended().boxed().fuse() })
    }
}

/// A body that breaks off when the lease of its request ends.
struct LeasedBody {
    body: Body,
    end: Fuse<BoxFuture<'static, ()>>,
}

impl HttpBody for LeasedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.end.poll_unpin(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("the API key is no longer accepted"))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
