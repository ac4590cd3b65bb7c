//! `POST /v1/batches`: reads the request, makes it take effect once per `Idempotency-Key`, and
//! hands the batch to the executor.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::routing::Preferences;
use super::shown;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{BatchInput, InvalidRows};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::{ExpiresAfter, Purpose};
use crate::domain::id::FileId;
use crate::domain::row::shape::spelled_otherwise;
use crate::domain::time::CompletionWindow;
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::BatchObject;
use crate::http::request::forwarded::forwarded;
use crate::http::request::idempotency::idempotency_key;
use crate::http::request::{Object, parse_id, quoted, unknown_choice};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::ServiceError;
use crate::service::batches::create::{InputSource, NewBatch};
use crate::store::Idempotency;

/// An id that names no file: a create with it makes no batch, but still finds what an idempotency
/// key is bound to.
const NO_FILE: FileId = FileId::from_u128(0);

/// `POST /v1/batches`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Object,
) -> Result<Json<BatchObject>, ApiError> {
    api.check_open()?;
    api.service.check_unlimited(caller.org).await?;
    let asked = OpenAiCreate::read(&body)?;
    let once = idempotency_key(&headers)?.map(|key| asked.once(&caller, key));
    let (input, refusal) = match check_input(&api, &caller, asked.input_file).await {
        Ok(()) => (asked.input_file, None),
        // A repeated request gets its batch even if the input is gone by now.
        Err(refusal) if once.is_some() => (NO_FILE, Some(refusal)),
        Err(refusal) => return Err(refusal),
    };
    let headers = forwarded(&headers, &api.service.catalog.current())?;
    let created = api.service.create_batch(NewBatch { headers, ..asked.into_batch(input, &caller, &api, once) }).await;
    match created {
        Ok(created) => Ok(Json(shown(&api, &created.batch))),
        Err(ServiceError::FileNotFound(_)) => Err(refusal.unwrap_or_else(|| no_such_input(input))),
        Err(error) => Err(error.into()),
    }
}

/// The contents of a client's create.
#[derive(Debug)]
struct OpenAiCreate {
    endpoint: RowEndpoint,
    invalid: InvalidRows,
    input_file: FileId,
    window: CompletionWindow,
    metadata: Metadata,
    output_expires_after: Option<ExpiresAfter>,
    preferences: Preferences,
}

impl OpenAiCreate {
    fn read(body: &Object) -> Result<Self, ApiError> {
        body.only(&[
            "input_file_id",
            "endpoint",
            "completion_window",
            "metadata",
            "output_expires_after",
            "priority",
            "provider",
            "on_invalid_rows",
        ])?;
        let file = body.need_text("input_file_id", "it is the id of a file uploaded with the purpose `batch`")?;
        let input_file = parse_id("input_file_id", file)?;
        let endpoint = endpoint(body)?;
        let invalid = invalid_rows(body)?;
        let window = body.need_text("completion_window", "it says when the batch should be done, such as `24h`")?;
        let window = window.parse().map_err(|error| ApiError::invalid("completion_window", format!("`completion_window` {error}")))?;
        let metadata = Metadata::new(body.pairs("metadata")?);
        let metadata = metadata.map_err(|error| ApiError::invalid("metadata", format!("`metadata` {error}")))?;
        let output_expires_after = body.expires_after("output_expires_after")?;
        Ok(Self { endpoint, invalid, input_file, window, metadata, output_expires_after, preferences: Preferences::read(body)? })
    }

    /// Binds a key to the content of the request; the spelling of its JSON does not matter.
    fn once(&self, caller: &Caller, key: &str) -> Idempotency {
        let mut scope = Sha256::new();
        scope.update(caller.key);
        scope.update(b"POST /v1/batches\0");
        scope.update(key);
        let mut pairs = self.metadata.pairs().to_vec();
        pairs.sort();
        let mut request = vec![
            json!(self.input_file.to_string()),
            json!(self.endpoint.as_str()),
            json!(self.window.to_string()),
            json!(pairs),
            json!(self.output_expires_after.map(ExpiresAfter::seconds)),
        ];
        // Added only if there are any: keys from earlier versions keep their binding.
        request.extend(self.preferences.stated());
        if self.invalid != InvalidRows::default() {
            request.push(json!(self.invalid.as_str()));
        }
        Idempotency { key: scope.finalize().into(), request: Sha256::digest(json!(request).to_string()).into() }
    }

    fn into_batch(self, input_file: FileId, caller: &Caller, api: &Api, once: Option<Idempotency>) -> NewBatch {
        let order = BatchInput::Unquoted { endpoint: self.endpoint, window: self.window, invalid: self.invalid };
        let (now, input) = (api.service.clock.now(), InputSource::Uploaded(input_file));
        NewBatch {
            metadata: self.metadata,
            output_expires_after: self.output_expires_after,
            fallback: self.preferences.fallback,
            control: Control { priority: self.preferences.priority, paused: false },
            once,
            ..NewBatch::new(now, Dialect::OpenAi, caller.org, caller.owner(), order, input)
        }
    }
}

fn endpoint(body: &Object) -> Result<RowEndpoint, ApiError> {
    let legal = format!("{}, or `{}` if each row says it in its `url`", Endpoint::choices(&Endpoint::ALL), RowEndpoint::MIXED);
    let text = body.need_text("endpoint", &format!("it must be one of {legal}"))?;
    let meant = || spelled_otherwise(text).map(|meant| format!("; write `{meant}`")).unwrap_or_default();
    text.parse().map_err(|_| {
        let found: String = text.chars().take(100).collect();
        ApiError::invalid("endpoint", format!("`endpoint` must be one of {legal}; found `{found}`{}", meant()))
    })
}

fn invalid_rows(body: &Object) -> Result<InvalidRows, ApiError> {
    let Some(word) = body.text("on_invalid_rows")? else { return Ok(InvalidRows::default()) };
    let known = InvalidRows::ALL.into_iter().find(|known| known.as_str() == word);
    known.ok_or_else(|| unknown_choice("on_invalid_rows", word, &quoted(InvalidRows::ALL.iter().map(|known| known.as_str()))))
}

fn no_such_input(id: FileId) -> ApiError {
    ApiError::invalid("input_file_id", format!("there is no file `{id}`; upload the input first, with the purpose `batch`"))
}

async fn check_input(api: &Api, caller: &Caller, id: FileId) -> Result<(), ApiError> {
    let file = api
        .service
        .store
        .file(id, api.service.clock.now())
        .await?
        .filter(|file| file.org == caller.org)
        .ok_or_else(|| no_such_input(id))?;
    if file.purpose != Purpose::Batch {
        let message = format!("`{id}` was uploaded for `{}`; the input of a batch must be uploaded for `batch`", file.purpose.as_str());
        return Err(ApiError::invalid("input_file_id", message));
    }
    api.check_room(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys live for 30 days, and so outlive an upgrade.
    #[test]
    fn a_request_without_preferences_is_bound_as_it_was_before_there_were_any() {
        let asked = OpenAiCreate {
            endpoint: RowEndpoint::One(Endpoint::Responses),
            invalid: InvalidRows::default(),
            input_file: FileId::from_u128(7),
            window: CompletionWindow::DAY,
            metadata: Metadata::new(vec![("b".into(), "2".into()), ("a".into(), "1".into())]).unwrap(),
            output_expires_after: None,
            preferences: Preferences::default(),
        };
        let text = r#"["file-00000000000000000000000007","/v1/responses","24h",[["a","1"],["b","2"]],null]"#;
        let digest: [u8; 32] = Sha256::digest(text).into();
        assert_eq!(asked.once(&Caller::operator([0; 32]), "k").request, digest);
    }
}
