//! Test messages to receivers. They count in the same limits as the messages of the queue.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::courier::{Post, answered};
use crate::domain::id::EventId;
use crate::domain::webhook::delivery::Route;
use crate::domain::webhook::endpoint::{ProbeRefusal, Probed, Receiver};

/// Sends test messages to receivers.
#[derive(Clone)]
pub struct TestSender(pub(super) Arc<Post>);

impl TestSender {
    /// Sends one test message to a receiver, and reports the outcome; nothing is stored.
    ///
    /// # Errors
    /// When as many messages are being sent as may be sent at a time.
    pub async fn send(&self, receiver: Receiver) -> Result<Probed, ProbeRefusal> {
        let post = &self.0;
        let _place = post.places.for_test(Route::of(&receiver.webhook, receiver.org))?;
        let id = format!("evt_webhook_test_{}", EventId::generate(post.clock.now()).as_u128());
        let about = serde_json::json!({ "object": "webhook_endpoint", "id": receiver.id.to_string() }).to_string();
        let data = serde_json::from_str::<&RawValue>(&about).unwrap_or(RawValue::NULL);
        let outcome = match post.secret(&receiver.webhook) {
            Ok(secret) => post.sender.test(&id, data, &receiver.webhook, &secret, post.clock.now()).await,
            Err(error) => Err(error),
        };
        let answer = answered(&outcome);
        Ok(Probed {
            event: id,
            status: answer.map(|answer| answer.status.as_u16()),
            preview: answer.map(|answer| answer.preview.clone()),
            error: outcome.as_ref().err().map(ToString::to_string),
        })
    }
}
