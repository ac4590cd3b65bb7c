//! The content of messages to receivers: BatchRouter's message, with the members of both of its
//! older pages (its guides to webhooks disagree, and the newest does not say).

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::domain::batch::Batch;
use crate::domain::id::{EventId, FileId, half};
use crate::domain::money::Usd;
use crate::domain::time::{Timestamp, later};
use crate::store::Seal;

/// How long links in a message are valid: longer than delivery is retried.
const LINKS_GOOD_FOR: Duration = Duration::from_secs(48 * 60 * 60);

/// Writes messages.
pub(super) struct Writer {
    /// The beginning of links, without a path; without it, messages have no links.
    pub base_url: Option<String>,
}

impl Writer {
    /// Writes the message about a batch that has ended, and returns it with the id of its event.
    pub fn write(&self, batch: &Batch, charged: Usd, seal: &Seal, now: Timestamp) -> Option<(EventId, Vec<u8>)> {
        let end = batch.end()?;
        let event = event_of(batch);
        let kind = format!("batch.{end}");
        let id = batch.spec.id.in_hex();
        let expires = later(now, LINKS_GOOD_FOR).as_second();
        let link = |file: Option<FileId>| Some(format!("{}{}", self.base_url.as_deref()?, seal.link(file?, expires)));
        let files = batch.state.files();
        let (output, errors) = (link(files.output), link(files.errors));
        let progress = &batch.progress;
        let message = json!({
            "id": event.in_hex(),
            "type": kind,
            "event": kind,
            "created": now.as_second(),
            "batch_id": id,
            "status": end,
            "output_file_url": output,
            "error_file_url": errors,
            "data": {
                "batch_id": id,
                "status": end,
                "items_total": progress.total,
                "items_completed": progress.succeeded,
                "items_failed": progress.failed,
                "cost_usd": charged.to_string(),
                "output_file_url": output,
                "error_file_url": errors,
            },
        });
        Some((event, message.to_string().into_bytes()))
    }
}

/// The event of a batch's end: always the same for the same batch.
fn event_of(batch: &Batch) -> EventId {
    let digest = Sha256::new().chain_update(b"batch ended ").chain_update(batch.spec.id.as_u128().to_be_bytes());
    EventId::from_u128(half(digest.finalize().into()))
}
