//! What is recorded in the audit log: who did what, from where, and what came of it.
//!
//! Recorded is every change by way of a route for the operator or for those who manage keys, every
//! deletion, and whatever the operator reaches of another organisation. Which routes these are
//! follows from the table of routes, so that a new route cannot be forgotten. What was refused leaves
//! no line here unless the operator asked for it: others would push out what counts.
//!
//! Invariant: the line is durable before the answer begins.

use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;

use super::caller::{Caller, Role};
use super::trace::{Peer, ShownId};
use crate::domain::audit::{AuditLine, AuditOutcome};
use crate::domain::id::OrgId;
use crate::domain::text::hex;
use crate::domain::time::Timestamp;
use crate::http::access_class::AccessClass;
use crate::http::state::Api;

/// The most characters of a path that are recorded.
const MAX_PATH: usize = 500;

/// The id of what a request has made, among the extensions of its response.
#[derive(Debug, Clone)]
pub struct Made(pub String);

/// What came of a request.
pub struct Answered {
    status: StatusCode,
    made: Option<Made>,
}

impl Answered {
    pub fn with(response: &Response) -> Self {
        Self { status: response.status(), made: response.extensions().get::<Made>().cloned() }
    }
}

/// A request that may have to be recorded. Most are not, so nothing is written out before that is
/// known.
pub struct Audited {
    class: AccessClass,
    method: Method,
    uri: Uri,
    request_id: Option<ShownId>,
    peer: Option<Peer>,
}

impl Audited {
    /// What is known of a request before it is answered.
    pub fn of(request: &Request, class: AccessClass) -> Self {
        Self {
            class,
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: request.extensions().get::<ShownId>().cloned(),
            peer: request.extensions().get::<Peer>().copied(),
        }
    }

    /// Records the request if it has to be; `caller` is `None` where no key is asked for.
    pub async fn end(self, api: &Api, caller: Option<&Caller>, came_of_it: Answered) {
        let reached = caller.and_then(Caller::reached);
        let is_refused_client = came_of_it.status.is_client_error() && !caller.is_some_and(Caller::is_operator);
        if reached.is_none() && (!self.is_recorded() || is_refused_client) {
            return;
        }
        api.service.store.audit(self.line(api.service.clock.now(), caller, reached, came_of_it)).await;
    }

    fn is_recorded(&self) -> bool {
        let changes = !self.method.is_safe();
        match self.class {
            AccessClass::Operator | AccessClass::Manage | AccessClass::Management | AccessClass::Open => changes,
            AccessClass::Key | AccessClass::Public => self.method == Method::DELETE,
        }
    }

    fn line(self, at: Timestamp, caller: Option<&Caller>, reached: Option<OrgId>, came_of_it: Answered) -> AuditLine {
        let who = match caller.map(|caller| &caller.role) {
            // The beginning of the key's SHA-256 tells the operator's keys apart, and tells no key.
            Some(Role::Operator { .. }) => caller.map(|caller| format!("operator:{}", hex(&caller.key[..4]))),
            Some(Role::Client(key)) => Some(key.id.to_string()),
            Some(Role::Link) | None => None,
        };
        AuditLine {
            at,
            who,
            org: caller.map(|caller| caller.org.to_string()),
            from: self.peer.map(|peer| peer.0.to_string()),
            request_id: self.request_id.and_then(|id| id.0.to_str().ok().map(str::to_owned)),
            what: format!("{} {}", self.method, self.uri.path().chars().take(MAX_PATH).collect::<String>()),
            of_org: reached.map(|org| org.to_string()),
            made: came_of_it.made.map(|made| made.0),
            status: Some(came_of_it.status.as_u16()),
            outcome: outcome(came_of_it.status),
        }
    }
}

fn outcome(status: StatusCode) -> AuditOutcome {
    match status.as_u16() {
        ..400 => AuditOutcome::Done,
        400..500 => AuditOutcome::Refused,
        500.. => AuditOutcome::Failed,
    }
}
