//! `POST /v1/batches`: reading the request, making it happen once per `Idempotency-Key`, and
//! handing the batch to the executor.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::{Extension, Json};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::routing::Preferences;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{self, Batch, BatchSpec};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;
use crate::domain::file::{ExpiresAfter, Purpose};
use crate::domain::id::{BatchId, FileId};
use crate::domain::org::ledger::Credits;
use crate::domain::time::CompletionWindow;
use crate::http::layers::auth::Caller;
use crate::http::openai::objects::BatchObject;
use crate::http::request::{Object, header_text, parse_id, unknown_choice};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{CreateOutcome, Idempotency};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY: &str = "Idempotency-Key";
const MAX_KEY_CHARS: usize = 255;
/// Names no file: a create with it makes no batch, and still says what an idempotency key is bound to.
const NO_FILE: FileId = FileId::from_u128(0);

/// `POST /v1/batches`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Object,
) -> Result<Json<BatchObject>, ApiError> {
    api.check_open()?;
    check_credits(&api, &caller).await?;
    let order = Order::read(&body)?;
    let idempotency = idempotency_key(&headers)?.map(|key| order.once(&caller, key));
    let (input, refusal) = match check_input(&api, &caller, order.input_file).await {
        Ok(()) => (order.input_file, None),
        // A repeated request gets its batch although the input is gone by now.
        Err(refusal) if idempotency.is_some() => (NO_FILE, Some(refusal)),
        Err(refusal) => return Err(refusal),
    };
    let control = Control { priority: order.preferences.priority, paused: false };
    let spec = order.into_spec(input, &caller, &api);
    let created = {
        let api = api.clone();
        async move { create_once(&api, spec, control, idempotency).await }
    };
    match api.to_the_end(created).await?? {
        Some(batch) => Ok(Json(BatchObject::from(&batch))),
        None => Err(refusal.unwrap_or_else(|| no_such_input(input))),
    }
}

/// Rows without a quote reserve nothing, so that who prepays cannot have them.
///
/// # Errors
/// When the caller's organisation prepays.
pub async fn check_credits(api: &Api, caller: &Caller) -> Result<(), ApiError> {
    match api.store.account(caller.org).await?.credits {
        Credits::Unlimited => Ok(()),
        Credits::Prepaid(_) => {
            let message = "the organisation prepays; make a quote (`POST /v1/quotes/model`) and create the batch from it";
            Err(ApiError::new(Code::InsufficientCredits, message))
        }
    }
}

/// What the client asked for.
#[derive(Debug)]
struct Order {
    endpoint: Endpoint,
    input_file: FileId,
    window: CompletionWindow,
    metadata: Metadata,
    output_expires_after: Option<ExpiresAfter>,
    preferences: Preferences,
}

impl Order {
    fn read(body: &Object) -> Result<Self, ApiError> {
        body.only(&["input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", "priority", "provider"])?;
        let file = body.need_text("input_file_id", "it is the id of a file uploaded with the purpose `batch`")?;
        let input_file = parse_id("input_file_id", file)?;
        let legal = Endpoint::choices(&Endpoint::OPENAI);
        let endpoint = body.need_text("endpoint", &format!("it must be one of {legal}"))?;
        let known = endpoint.parse().ok().filter(|known| Endpoint::OPENAI.contains(known));
        let endpoint = known.ok_or_else(|| unknown_choice("endpoint", endpoint, &legal))?;
        let window = body.need_text("completion_window", "it says when the batch should be done, such as `24h`")?;
        let window = window.parse().map_err(|error| ApiError::invalid("completion_window", format!("`completion_window` {error}")))?;
        let metadata = Metadata::new(body.pairs("metadata")?);
        let metadata = metadata.map_err(|error| ApiError::invalid("metadata", format!("`metadata` {error}")))?;
        let output_expires_after = body.expires_after("output_expires_after")?;
        Ok(Self { endpoint, input_file, window, metadata, output_expires_after, preferences: Preferences::read(body)? })
    }

    /// Binds a key to what the request says; the spelling of its JSON does not matter.
    fn once(&self, caller: &Caller, key: &str) -> Idempotency {
        let mut scope = Sha256::new();
        scope.update(caller.key);
        scope.update(b"POST /v1/batches\0");
        scope.update(key);
        let mut pairs = self.metadata.pairs().to_vec();
        pairs.sort();
        let mut request = vec![
            json!(self.input_file.to_string()),
            json!(self.endpoint.path()),
            json!(self.window.to_string()),
            json!(pairs),
            json!(self.output_expires_after.map(ExpiresAfter::seconds)),
        ];
        // Only where there are any: keys of earlier versions stay bound to what they were bound to.
        request.extend(self.preferences.stated());
        Idempotency { key: scope.finalize().into(), request: Sha256::digest(json!(request).to_string()).into() }
    }

    fn into_spec(self, input_file: FileId, caller: &Caller, api: &Api) -> BatchSpec {
        let now = api.clock.now();
        BatchSpec {
            id: BatchId::generate(now),
            dialect: Dialect::OpenAi,
            order: batch::Order::Rows { endpoint: self.endpoint, window: self.window },
            input_file,
            created_at: now,
            metadata: self.metadata,
            output_expires_after: self.output_expires_after,
            retry_of: None,
            org: caller.org,
            owner: caller.owner(),
            fallback: self.preferences.fallback,
        }
    }
}

/// The `Idempotency-Key` of a request, if it has one.
///
/// # Errors
/// When it has several, or one that cannot be a key.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let invalid = || {
        let message = format!("`{KEY}` must have 1 to {MAX_KEY_CHARS} visible ASCII characters and be given once");
        Err(ApiError::invalid(KEY, message))
    };
    match headers.get_all(&IDEMPOTENCY_KEY).iter().count() {
        0 => return Ok(None),
        1 => {}
        _ => return invalid(),
    }
    match header_text(headers, &IDEMPOTENCY_KEY) {
        Some(key) if (1..=MAX_KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key)),
        Some(_) | None => invalid(),
    }
}

/// What a create is told whose batch is there no more: it must not silently happen, and be paid, a second time.
pub fn made_and_deleted() -> ApiError {
    let message = format!("the batch that was made under this `{KEY}` has been deleted; use a new key to make another one");
    ApiError::new(Code::IdempotencyMismatch, message).param(KEY)
}

fn no_such_input(id: FileId) -> ApiError {
    ApiError::invalid("input_file_id", format!("there is no file `{id}`; upload the input first, with the purpose `batch`"))
}

async fn check_input(api: &Api, caller: &Caller, id: FileId) -> Result<(), ApiError> {
    let file = api.store.file(id, api.clock.now()).await?.filter(|file| file.org == caller.org).ok_or_else(|| no_such_input(id))?;
    if file.purpose != Purpose::Batch {
        let message = format!("`{id}` was uploaded for `{}`; the input of a batch must be uploaded for `batch`", file.purpose.as_str());
        return Err(ApiError::invalid("input_file_id", message));
    }
    api.check_room(0)
}

/// The batch, new or as it is by now; `None` if its input does not exist.
async fn create_once(api: &Api, spec: BatchSpec, control: Control, idempotency: Option<Idempotency>) -> Result<Option<Batch>, ApiError> {
    let new = spec.id;
    let id = match api.store.create_batch(spec, control, idempotency).await? {
        CreateOutcome::Created => {
            api.executor.take(new).await?;
            tracing::info!(batch = %new, "batch created");
            new
        }
        CreateOutcome::Existing(id) => id,
        CreateOutcome::KeyReused => {
            let message = format!("this `{KEY}` was used before for another request; use a new key for each new batch");
            return Err(ApiError::new(Code::IdempotencyMismatch, message).param(KEY));
        }
        CreateOutcome::Deleted => return Err(made_and_deleted()),
        CreateOutcome::InputGone => return Ok(None),
        CreateOutcome::QuoteUsed(_) | CreateOutcome::NotCovered(_) => return Err(ApiError::internal("a batch of rows has used a quote")),
    };
    let batch = api.store.batch(id).await?;
    batch.map(Some).ok_or_else(|| ApiError::internal(format!("{id} was created and cannot be found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys live for 30 days, and so across an upgrade.
    #[test]
    fn a_request_without_preferences_is_bound_as_it_was_before_there_were_any() {
        let order = Order {
            endpoint: Endpoint::Responses,
            input_file: FileId::from_u128(7),
            window: CompletionWindow::DAY,
            metadata: Metadata::new(vec![("b".into(), "2".into()), ("a".into(), "1".into())]).unwrap(),
            output_expires_after: None,
            preferences: Preferences::default(),
        };
        let text = r#"["file-00000000000000000000000007","/v1/responses","24h",[["a","1"],["b","2"]],null]"#;
        let digest: [u8; 32] = Sha256::digest(text).into();
        assert_eq!(order.once(&Caller::operator([0; 32]), "k").request, digest);
    }
}
