//! OpenAI's event of the end of a batch: `object`, `type`, `created_at`, and as `data` the batch's
//! id alone, which its receiver looks up. `data.batchd` is our own addition, as in the batch object.

use serde_json::json;

use crate::domain::batch::Batch;
use crate::domain::id::EventId;
use crate::domain::money::Usd;

/// Writes the event of a batch that has ended. Its type follows the status of the batch object: a
/// batch all of whose rows failed is completed, other than in BatchRouter's words.
pub(super) fn write(batch: &Batch, event: EventId, charged: Usd) -> Vec<u8> {
    let message = json!({
        "id": event.in_hex(),
        "object": "event",
        "created_at": batch.state.ended_at().unwrap_or(batch.spec.created_at).as_second(),
        "type": format!("batch.{}", batch.state.as_str()),
        "data": {
            "id": batch.spec.id.to_string(),
            "batchd": { "cost_usd": charged.to_string() },
        },
    });
    message.to_string().into_bytes()
}
