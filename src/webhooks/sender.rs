//! One attempt to deliver a message: a connection of its own, one request, the status of the
//! answer.
//!
//! A redirect is not followed: it could lead to an address that the receiver's URL may not name.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::value::RawValue;

use super::envelope;
use super::envelope::Letter;
use crate::descriptors::{Descriptors, is_refusal};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::target_policy::{Targets, Unwanted};
use crate::provider::guarded::{GuardedClient, guarded_client};
use crate::provider::{SetupError, reason};
use crate::store::Unsealable;

/// How long one attempt may take: the older of BatchRouter's pages wants an answer within ten
/// seconds, Phaseo's within thirty.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_OF_PHASEO: Duration = Duration::from_secs(30);
/// Bytes of an answer that are kept, and how long the sender waits for them.
const PREVIEW: usize = 500;
const PREVIEW_WITHIN: Duration = Duration::from_secs(5);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the receiver's URL cannot be used")]
    Url,
    #[error("the receiver's URL {0}")]
    Unwanted(#[from] Unwanted),
    #[error(transparent)]
    Secret(Unsealable),
    #[error("the receiver answered {}", .0.status)]
    Refused(ReceiverAnswer),
    #[error("the receiver did not answer within {} seconds", .0.as_secs())]
    Late(Duration),
    #[error("the receiver was deleted, disabled, or wants no more of it")]
    Gone,
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
}

/// The answer of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceiverAnswer {
    pub status: StatusCode,
    /// The beginning of its body.
    pub preview: String,
}

/// Sends messages.
pub(super) struct Sender {
    http: GuardedClient,
    targets: Targets,
    standard: bool,
    descriptors: Descriptors,
}

impl Sender {
    /// A sender that also sends the headers of Standard Webhooks if `standard`.
    pub fn new(targets: Targets, standard: bool, descriptors: Descriptors) -> Result<Self, SetupError> {
        Ok(Self { http: guarded_client("webhooks", targets, PATIENCE)?, targets, standard, descriptors })
    }

    /// Makes one attempt. OpenAI's events always have the headers of Standard Webhooks.
    pub async fn send(
        &self,
        delivery: &Delivery,
        is_openais: bool,
        webhook: &Webhook,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<ReceiverAnswer, SendError> {
        let (patience, letter) = match &delivery.wire {
            Payload::Whole => (PATIENCE, envelope::of_whole(delivery, is_openais, secret)),
            Payload::Phaseo(event) => (PATIENCE_OF_PHASEO, envelope::of_phaseo(delivery, event, secret, now)),
        };
        self.post(webhook, letter, patience, secret, now).await
    }

    /// Sends a test message to a receiver.
    pub async fn test(
        &self,
        id: &str,
        data: &RawValue,
        webhook: &Webhook,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<ReceiverAnswer, SendError> {
        self.post(webhook, envelope::of_test(id, data, secret, now), PATIENCE_OF_PHASEO, secret, now).await
    }

    async fn post(
        &self,
        webhook: &Webhook,
        letter: Letter,
        patience: Duration,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<ReceiverAnswer, SendError> {
        let url: Uri = webhook.url.parse().map_err(|_| SendError::Url)?;
        self.targets.check(&url)?;
        let mut request = Request::builder().method(Method::POST).uri(url).header(CONTENT_TYPE, "application/json");
        for (name, value) in letter.headers.iter().chain(&letter.standard(self.standard, secret, now)) {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(letter.body))).map_err(|_| SendError::Url)?;
        // The time spent waiting for a place must not count against the receiver.
        let _place = self.descriptors.calls().claim().await;
        let response = match tokio::time::timeout(patience, self.http.request(request)).await {
            Err(_) => return Err(SendError::Late(patience)),
            Ok(Err(error)) => {
                if is_refusal(&error) {
                    self.descriptors.refused();
                }
                return Err(SendError::Unreachable(reason(&error)));
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let answer = ReceiverAnswer { status, preview: preview(response.into_body()).await };
        if status.is_success() { Ok(answer) } else { Err(SendError::Refused(answer)) }
    }
}

/// Reads the beginning of an answer's body, as far as it arrives in time: only the status matters.
async fn preview(mut body: Incoming) -> String {
    let mut read = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                read.extend_from_slice(&data[..data.len().min(PREVIEW - read.len())]);
            }
            if read.len() == PREVIEW {
                break;
            }
        }
    };
    // Whatever has arrived by then is enough.
    let _ = tokio::time::timeout(PREVIEW_WITHIN, reading).await;
    String::from_utf8_lossy(&read).into_owned()
}
