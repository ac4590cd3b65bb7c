//! The additional fields of a batch of Phaseo's, as a part of [`super::spec`]. Words are the same
//! as on the wire.

use serde::{Deserialize, Serialize};

use super::org::{WebhookRecord, pack_webhook, unpack_webhook};
use super::{Record, word};
use crate::domain::batch::phaseo::{InputMode, Phase, PhaseoDetails, Receiver, Subscription};
use crate::domain::endpoint::Endpoint;
use crate::domain::id::{ReceiverId, RequestId};
use crate::store::record::error::RecordError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GatewayRecord {
    request: u128,
    endpoint: u8,
    window: String,
    mode: String,
    session: Option<String>,
    provider: String,
    subscription: Option<SubscriptionRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SubscriptionRecord {
    receiver: ReceiverRecord,
    phases: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum ReceiverRecord {
    Managed(u128),
    Own(WebhookRecord),
}

impl From<&PhaseoDetails> for GatewayRecord {
    fn from(gateway: &PhaseoDetails) -> Self {
        let subscription = gateway.subscription.as_ref().map(|subscription| SubscriptionRecord {
            receiver: match &subscription.receiver {
                Receiver::Managed(id) => ReceiverRecord::Managed(id.as_u128()),
                Receiver::Own(webhook) => ReceiverRecord::Own(pack_webhook(webhook)),
            },
            phases: subscription.phases.iter().map(Phase::to_string).collect(),
        });
        Self {
            request: gateway.request.as_u128(),
            endpoint: gateway.endpoint.code(),
            window: gateway.window.to_string(),
            mode: gateway.mode.to_string(),
            session: gateway.session.clone(),
            provider: gateway.provider.clone(),
            subscription,
        }
    }
}

impl GatewayRecord {
    /// The fields, as a part of the record `R`.
    ///
    /// # Errors
    /// When a word or a number is unknown.
    pub(super) fn details<R: Record>(self) -> Result<PhaseoDetails, RecordError> {
        let damaged = |what: &str| RecordError::damaged::<R>(what);
        let phase = |text: &String| word::<R, _>(text, Phase::parse);
        let subscription = self.subscription.map(|subscription| {
            let receiver = match subscription.receiver {
                ReceiverRecord::Managed(id) => Receiver::Managed(ReceiverId::from_u128(id)),
                ReceiverRecord::Own(webhook) => Receiver::Own(unpack_webhook(webhook)),
            };
            Ok::<_, RecordError>(Subscription { receiver, phases: subscription.phases.iter().map(phase).collect::<Result<_, _>>()? })
        });
        Ok(PhaseoDetails {
            request: RequestId::from_u128(self.request),
            endpoint: Endpoint::from_code(self.endpoint).ok_or_else(|| damaged("unknown endpoint"))?,
            window: self.window.parse().map_err(RecordError::damaged::<R>)?,
            mode: word::<R, _>(&self.mode, InputMode::parse)?,
            session: self.session,
            provider: self.provider,
            subscription: subscription.transpose()?,
        })
    }
}
