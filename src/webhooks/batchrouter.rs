//! The content of messages to receivers: BatchRouter's message, with the members of both of its
//! older pages (its guides to webhooks disagree, and the newest does not say).

use std::time::Duration;

use serde_json::json;

use crate::domain::batch::{Batch, BatchEnd};
use crate::domain::id::{EventId, FileId};
use crate::domain::money::Usd;
use crate::domain::time::{Timestamp, later};
use crate::store::Seal;

/// How long links in a message are valid: longer than delivery is retried.
const LINKS_GOOD_FOR: Duration = Duration::from_secs(48 * 60 * 60);

/// Makes links to results.
pub(super) struct Links<'a> {
    /// The beginning of links, without a path; without it, messages have no links.
    pub base_url: Option<&'a str>,
    pub seal: &'a Seal,
}

impl Links<'_> {
    fn to(&self, file: Option<FileId>, now: Timestamp) -> Option<String> {
        let expires = later(now, LINKS_GOOD_FOR).as_second();
        Some(format!("{}{}", self.base_url?, self.seal.link(file?, expires)))
    }
}

/// Writes the message about a batch that has ended.
pub(super) fn write(batch: &Batch, end: BatchEnd, event: EventId, charged: Usd, links: &Links<'_>, now: Timestamp) -> Vec<u8> {
    let kind = format!("batch.{end}");
    let id = batch.spec.id.in_hex();
    let files = batch.state.files();
    let (output, errors) = (links.to(files.output, now), links.to(files.errors, now));
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
    message.to_string().into_bytes()
}
