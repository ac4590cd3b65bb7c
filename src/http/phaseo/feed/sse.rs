//! `GET /v1/batches/{batch_id}/events`: a batch as server-sent events. Our own extension, for the
//! batches of every dialect.
//!
//! The id of an event names the state that the event reports. A client that reconnects with the
//! name of the present state does not get that state again. A client that reconnects with another
//! name gets the present state at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deleted;
use super::subscribe::FollowOptions;
use crate::domain::batch::Batch;
use crate::domain::error::Code;
use crate::domain::row::line_ends::escaped;
use crate::http::dialect::{has_header_of_phaseo, speaks_batchrouter};
use crate::http::layers::caller::Caller;
use crate::http::phaseo::CACHE;
use crate::http::phaseo::batches::find;
use crate::http::phaseo::batches::job::at;
use crate::http::phaseo::batches::object::BatchLinks;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::Refusal;
use crate::http::request::{Params, named};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::feed::watcher::{Follower, Frame};

/// How often a keep-alive is sent while there is no event, so that no proxy on the way takes the
/// connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /v1/batches/{batch_id}/events`
pub async fn events(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    params: Result<Params, ApiError>,
    path: Result<RawPathParams, RawPathParamsRejection>,
) -> Response {
    let for_phaseo = context.mount != "/v1" || context.batches == "batch" || has_header_of_phaseo(&headers);
    let followed = async {
        let batch = of_path(&api, &caller, path.ok().as_ref(), for_phaseo).await?;
        let mut follower = api.feeds.follow(&api.service, batch.spec.id);
        let first = follower.now().await.ok_or_else(|| ApiError::unavailable("the batch cannot be followed at present; try again"))?;
        let always = [(CACHE_CONTROL.as_str(), CACHE), ("x-accel-buffering", "no")];
        let known = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        let first = match first.message.as_ref().filter(|message| known == Some(&message.name)) {
            // This status tells a browser not to reconnect.
            Some(message) if message.ended => return Ok((StatusCode::NO_CONTENT, always).into_response()),
            Some(_) => None,
            None => Some(first),
        };
        let place = BatchLinks::of(&api, &headers, &context);
        let (interval, draining) = (FollowOptions::of(params.ok().as_ref()).interval, api.service.draining.clone());
        let telling = EventStream { follower, place, interval, draining, first, due: Instant::now(), over: false };
        let events = stream::unfold(telling, EventStream::next);
        Ok((always, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response())
    };
    followed.await.unwrap_or_else(|refusal| match refusal {
        Refusal::Api(error) if speaks_batchrouter(&headers) => error.into_batchrouter(),
        Refusal::Api(error) if !for_phaseo => error.into_response(),
        other => other.respond(&context),
    })
}

/// The batch that a path names.
async fn of_path(api: &Api, caller: &Caller, path: Option<&RawPathParams>, for_phaseo: bool) -> Result<Batch, Refusal> {
    let path = path.ok_or_else(|| ApiError::new(Code::NotFound, "the id in the path is not valid UTF-8"))?;
    if for_phaseo {
        return find(api, caller, path).await;
    }
    let id = named(path, "batch_id").parse().map_err(ApiError::from)?;
    let batch = api.service.store.batch(id).await?.filter(|batch| caller.reaches(batch.spec.org));
    Ok(batch.ok_or_else(|| ApiError::not_found("batch", id))?)
}

/// The state of one stream of events.
struct EventStream {
    follower: Follower,
    place: BatchLinks,
    interval: Duration,
    draining: CancellationToken,
    /// The present state, until it is sent.
    first: Option<Arc<Frame>>,
    due: Instant,
    over: bool,
}

impl EventStream {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.over {
            return None;
        }
        let (kind, frame) = match self.first.take() {
            Some(frame) => ("job.snapshot", frame),
            None => tokio::select! {
                biased;
                // Clients reconnect by themselves, to the daemon that takes over.
                () = self.draining.cancelled() => return None,
                frame = self.follower.next(self.due) => ("job.updated", frame?),
            },
        };
        self.due = Instant::now() + self.interval;
        let event = match &frame.message {
            Some(message) => {
                self.over = message.ended;
                Event::default().event(kind).id(&message.name).data(on_one_line(&at(message, &self.place)))
            }
            None => {
                self.over = true;
                Event::default().event("job.deleted").data(on_one_line(&deleted(&frame).to_string()))
            }
        };
        Some((Ok(event), self))
    }
}

/// Readers of events that split lines as Python's `str` does would see the end of the event's line.
fn on_one_line(json: &str) -> String {
    String::from_utf8_lossy(&escaped(json.as_bytes())).into_owned()
}
