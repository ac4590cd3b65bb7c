//! Paths that several dialects have, where no mount shows which dialect is meant: `/v1/batches` and
//! the paths below it, `/v1/files`. [`super::dialect`] decides which dialect answers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::dialect::{of_client, of_create};
use super::layers::caller::Caller;
use super::phaseo::context::Context;
use super::request::held_body::read_held;
use super::request::{Object, PathId, announced_bytes, media_type, read_json};
use super::response::error::ApiError;
use super::response::signed_links::Signed;
use super::route_table::{RouteEntry, routes};
use super::state::Api;
use super::{batchrouter, openai, phaseo};
use crate::domain::dialect::Dialect;
use crate::domain::id::{BatchId, FileId};

/// The shared paths, below `/v1`.
pub const ROUTES: &[RouteEntry] = routes! {
    own "/files" Key { get: openai::files::list, post: upload }
    own "/files/{file_id}" Key { get: file, delete: openai::files::delete }
    own "/batches" Key { get: list, post: create }
    own "/batches/{batch_id}" Key { get: retrieve, post: openai::batches::control::update, delete: delete }
    own "/batches/{batch_id}/cancel" Key { post: cancel }
    own "/batches/{batch_id}/results" Key { get: results }
};

async fn create(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, headers: HeaderMap, request: Request) -> Response {
    match of_client(&headers) {
        Some(Dialect::BatchRouter) => batchrouter::batches::create(State(api), Extension(caller), headers, request).await.into_response(),
        Some(Dialect::Phaseo) => call(phaseo::batches::create, request, api).await,
        Some(Dialect::OpenAi) | None => create_by_body(&api, caller, &headers, request).await.unwrap_or_else(IntoResponse::into_response),
    }
}

async fn create_by_body(api: &Arc<Api>, caller: Caller, headers: &HeaderMap, request: Request) -> Result<Response, ApiError> {
    api.check_open()?;
    let most = api.service.limits.quotes.max_body_bytes.max(Object::MAX_BYTES);
    let context = Context::of(&request);
    // A small body is read at once; a body that may be large waits until there is room for it.
    let (_held, body) = match announced_bytes(headers) {
        Some(small) if small <= Object::MAX_BYTES => (None, read_json(request, api, most).await?),
        _ => read_held(request, api, caller.owner(), most).await.map(|(held, body)| (Some(held), body))?,
    };
    Ok(match of_create(&body) {
        Dialect::BatchRouter => batchrouter::batches::create_from(api, caller, headers, body).await.into_response(),
        Dialect::Phaseo => phaseo::batches::create_from(api, caller, &context, headers, body).await,
        Dialect::OpenAi => openai::batches::create::create(State(api.clone()), Extension(caller), headers.clone(), Object::read(body)?)
            .await
            .into_response(),
    })
}

async fn list(State(api): State<Arc<Api>>, request: Request) -> Response {
    match of_client(request.headers()) {
        Some(Dialect::BatchRouter) => call(batchrouter::batches::list, request, api).await,
        Some(Dialect::Phaseo) => call(phaseo::batches::list, request, api).await,
        Some(Dialect::OpenAi) | None => call(openai::batches::list, request, api).await,
    }
}

async fn retrieve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (dialect, request) = of_batch(&api, request).await;
    match dialect {
        Dialect::BatchRouter => call(batchrouter::batches::retrieve, request, api).await,
        Dialect::Phaseo => call(phaseo::batches::retrieve, request, api).await,
        Dialect::OpenAi => call(openai::batches::retrieve, request, api).await,
    }
}

async fn cancel(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (dialect, request) = of_batch(&api, request).await;
    match dialect {
        Dialect::BatchRouter => call(batchrouter::batches::cancel, request, api).await,
        Dialect::Phaseo => call(phaseo::batches::cancel, request, api).await,
        Dialect::OpenAi => call(openai::batches::cancel, request, api).await,
    }
}

async fn delete(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (dialect, request) = of_batch(&api, request).await;
    match dialect {
        Dialect::BatchRouter => call(batchrouter::batches::delete, request, api).await,
        Dialect::Phaseo => call(phaseo::batches::delete, request, api).await,
        Dialect::OpenAi => call(openai::batches::delete, request, api).await,
    }
}

async fn results(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (dialect, request) = of_batch(&api, request).await;
    match dialect {
        Dialect::BatchRouter => call(batchrouter::batches::page, request, api).await,
        Dialect::Phaseo => call(phaseo::batches::results, request, api).await,
        Dialect::OpenAi => call(openai::batches::results, request, api).await,
    }
}

/// The dialect of the batch that a path names, or that of the client if the client reaches no such
/// batch: the form of an answer must not tell that a batch of others exists.
async fn of_batch(api: &Arc<Api>, request: Request) -> (Dialect, Request) {
    let (mut parts, body) = request.into_parts();
    let id = PathId::<BatchId>::from_request_parts(&mut parts, api).await.ok();
    let batch = match id {
        Some(PathId(id)) => api.service.store.batch(id).await.ok().flatten(),
        None => None,
    };
    let caller = parts.extensions.get::<Caller>();
    let batch = batch.filter(|batch| caller.is_some_and(|caller| caller.reaches(batch.spec.org)));
    let dialect = batch.map(|batch| batch.spec.dialect).or_else(|| of_client(&parts.headers)).unwrap_or(Dialect::OpenAi);
    (dialect, Request::from_parts(parts, body))
}

async fn call<H, T>(handler: H, request: Request, api: Arc<Api>) -> Response
where
    H: axum::handler::Handler<T, Arc<Api>>,
{
    handler.call(request, api).await
}

/// Answers with a file's object, or with the results that a link leads to.
async fn file(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    signed: Option<Extension<Signed>>,
    id: Result<PathId<FileId>, ApiError>,
) -> Response {
    match (signed, id) {
        (Some(Extension(signed)), _) => batchrouter::batches::download(&api, signed).await.unwrap_or_else(ApiError::into_batchrouter),
        (None, Ok(id)) => openai::files::retrieve(State(api), Extension(caller), id).await.into_response(),
        (None, Err(error)) => error.into_response(),
    }
}

/// Takes an upload: a form as in OpenAI's dialect, or a body of lines as BatchRouter's clients send
/// it.
async fn upload(State(api): State<Arc<Api>>, request: Request) -> Response {
    let lines = media_type(request.headers()).is_some_and(|kind| batchrouter::files::is_lines(&kind));
    match of_client(request.headers()) {
        Some(Dialect::BatchRouter) => call(batchrouter::files::create, request, api).await,
        Some(Dialect::Phaseo) => call(phaseo::files::create, request, api).await,
        Some(Dialect::OpenAi) | None if lines => call(batchrouter::files::create, request, api).await,
        Some(Dialect::OpenAi) | None => call(openai::files::create, request, api).await,
    }
}
