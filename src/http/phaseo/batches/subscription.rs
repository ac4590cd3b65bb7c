//! The receiver of a batch's messages: `webhook_endpoint_id`, or `webhook` with the id of an
//! endpoint, or, as clients of June 2026 have it, `webhook` with a URL and a secret of its own.

use serde_json::Value;

use crate::domain::batch::phaseo::{Phase, Receiver, Subscription};
use crate::domain::id::{OrgId, ReceiverId};
use crate::domain::text::shown;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::endpoint::ReceiverStatus;
use crate::http::phaseo::error::Refusal;
use crate::http::phaseo::webhook_endpoints::url_of;
use crate::http::request::Object;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// What a create says about the receiver of its messages.
#[derive(Debug)]
pub enum Wish {
    Managed { id: String, phases: Vec<Phase> },
    Own { url: String, secret: Option<String>, phases: Vec<Phase> },
}

/// Reads the receiver that a create names. Events are checked only when everything before them is
/// valid, as on Phaseo's server.
///
/// # Errors
/// When `webhook` is invalid or names no receiver.
pub fn read(object: &Object) -> Result<Option<Wish>, Refusal> {
    let shorthand = object.text("webhook_endpoint_id").ok().flatten().filter(|id| !id.trim().is_empty()).map(str::to_owned);
    let webhook = match (object.value("webhook"), &shorthand) {
        (Some(Value::Object(members)), _) => members,
        (Some(_), None) => return Err(Refusal::invalid("invalid_batch_webhook", "`webhook` must be an object")),
        (_, None) => return Ok(None),
        (_, Some(id)) => return Ok(Some(Wish::Managed { id: id.clone(), phases: Vec::new() })),
    };
    let text = |names: &[&str]| names.iter().find_map(|name| webhook.get(*name)?.as_str()).map(str::trim).filter(|text| !text.is_empty());
    if let Some(id) = text(&["endpoint_id", "endpointId"]) {
        return Ok(Some(Wish::Managed { id: id.to_owned(), phases: events(webhook.get("events"))? }));
    }
    match text(&["url"]) {
        Some(url) => {
            let secret = text(&["secret"]).map(str::to_owned);
            Ok(Some(Wish::Own { url: url.to_owned(), secret, phases: events(webhook.get("events"))? }))
        }
        None => Err(required("`webhook` must name the endpoint that is told, as `endpoint_id`")),
    }
}

fn required(message: &str) -> Refusal {
    Refusal::invalid("batch_webhook_endpoint_required", message)
}

/// The phases of a list of events. Unknown names are dropped. A list of unknown names alone is
/// refused, and is not widened to all events.
fn events(list: Option<&Value>) -> Result<Vec<Phase>, Refusal> {
    let invalid = |message: &str| Refusal::invalid("invalid_batch_webhook", message.to_owned());
    let names = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(invalid("`webhook.events` must be an array of names of events")),
    };
    let mut phases: Vec<_> = names.iter().filter_map(|name| Phase::of_event(name.as_str()?)).collect();
    phases.sort_unstable();
    phases.dedup();
    match phases.is_empty() && !names.is_empty() {
        true => Err(invalid("`webhook.events` names no event of a batch")),
        false => Ok(phases),
    }
}

/// Resolves the receiver that a create names.
///
/// # Errors
/// When the endpoint does not exist or is not active, or the URL may not be called.
pub async fn resolve(api: &Api, org: OrgId, wish: Option<Wish>) -> Result<Option<Subscription>, Refusal> {
    match wish {
        None => Ok(None),
        Some(Wish::Managed { id, phases }) => {
            let missing = || {
                let message = "there is no active webhook endpoint of that id in this workspace";
                Refusal::invalid("batch_webhook_endpoint_not_found_or_inactive", message).with("webhook_endpoint_id", shown(&id))
            };
            let receiver: ReceiverId = id.parse().map_err(|_| missing())?;
            let found = api.service.store.receiver(org, receiver).await.map_err(ApiError::from)?;
            found.filter(|found| found.status == ReceiverStatus::Active).ok_or_else(missing)?;
            Ok(Some(Subscription { receiver: Receiver::Managed(receiver), phases }))
        }
        Some(Wish::Own { .. }) if api.accounts.managed_receivers => {
            Err(required("this server takes no `url` in `webhook`; make a webhook endpoint, and name it as `endpoint_id`"))
        }
        Some(Wish::Own { url, secret, phases }) => {
            let url = url_of(api, Some(&url)).map_err(|refusal| Refusal::invalid("invalid_batch_webhook", refusal.message().to_owned()))?;
            let sealed_secret = secret.map(|secret| api.seal(&secret)).transpose()?.unwrap_or_default();
            let webhook = Webhook { url, sealed_secret };
            Ok(Some(Subscription { receiver: Receiver::Own(webhook), phases }))
        }
    }
}
