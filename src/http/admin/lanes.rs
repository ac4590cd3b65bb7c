//! `/admin/lanes`: what the lanes are doing, and an operator's hold on them.
//!
//! The numbers come from the executor's board and are about a second old. Holds are read from the
//! store, so that an answer shows what the request before it has changed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::catalog::{Snapshot, Status};
use crate::domain::batch::waiting::WaitReason;
use crate::domain::error::Code;
use crate::domain::provider::lane_hold::{Hold, LaneHold, LaneSelector, hold_on};
use crate::domain::time::Timestamp;
use crate::executor::{HoldError, LaneLoad, LaneReport, LaneWait};
use crate::http::request::Object;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// One lane on the wire.
#[derive(Debug, Serialize)]
struct LaneObject {
    lane: String,
    provider: String,
    /// The provider's name for the model; `null` stands for all models that the catalog does not
    /// know.
    model: Option<String>,
    status: &'static str,
    in_flight: u32,
    /// `null` if there is no bound.
    allowed: Option<u32>,
    /// `null` if there is no bound.
    requests_per_minute: Option<u64>,
    /// The latency of the lane's answers; `null` before the first.
    latency_ms: Option<u64>,
    queued_rows: u64,
    queued_tokens: u64,
    last_answer: Option<String>,
    resting_until: Option<String>,
    /// Why no call is made; `null` if calls are made, or would be.
    waiting: Option<WaitObject>,
    /// Each server of a provider with several; empty for one.
    servers: Vec<ServerObject>,
}

/// One server of a lane on the wire, with the same fields as the lane.
#[derive(Debug, Serialize)]
struct ServerObject {
    url: String,
    status: &'static str,
    in_flight: u32,
    allowed: Option<u32>,
    requests_per_minute: Option<u64>,
    latency_ms: Option<u64>,
    last_answer: Option<String>,
    resting_until: Option<String>,
    waiting: Option<WaitObject>,
}

impl ServerObject {
    fn new(url: &str, load: &LaneLoad, now: Timestamp) -> Self {
        Self {
            url: url.to_owned(),
            status: status(None, load, now),
            in_flight: load.in_flight,
            allowed: load.allowed,
            requests_per_minute: load.per_minute,
            latency_ms: load.latency_ms,
            last_answer: load.last_answer.map(|at| at.to_string()),
            resting_until: resting(load, now).map(|until| until.to_string()),
            waiting: load.wait.as_ref().map(WaitObject::from),
        }
    }
}

/// Until when a lane, or a server of it, rests, if it does.
fn resting(load: &LaneLoad, now: Timestamp) -> Option<Timestamp> {
    load.resting_until.filter(|until| now < *until)
}

/// How a lane, or a server of it, is, in a word.
fn status(hold: Option<&'static str>, load: &LaneLoad, now: Timestamp) -> &'static str {
    match (hold, load.wait.as_ref().map(|wait| wait.reason)) {
        (Some(hold), _) => hold,
        (None, Some(WaitReason::Denied(_))) => "held",
        (None, _) if load.unreachable => "unreachable",
        (None, _) if resting(load, now).is_some() => "resting",
        (None, _) => "active",
    }
}

/// Why a lane makes no call.
#[derive(Debug, Serialize)]
struct WaitObject {
    reason: &'static str,
    since: Option<String>,
    provider_said: Option<String>,
    /// What has to be done; `null` if time alone may help.
    remedy: Option<&'static str>,
}

impl From<&LaneWait> for WaitObject {
    fn from(wait: &LaneWait) -> Self {
        Self {
            reason: wait.reason.code(),
            since: wait.since.map(|since| since.to_string()),
            provider_said: wait.said.as_deref().map(str::to_owned),
            remedy: wait.reason.remedy(),
        }
    }
}

/// One hold on the wire.
#[derive(Debug, Serialize)]
struct HoldObject {
    lane: String,
    hold: &'static str,
    since: String,
}

/// Lanes, and the holds on them.
#[derive(Debug, Serialize)]
pub struct Lanes {
    object: &'static str,
    data: Vec<LaneObject>,
    holds: Vec<HoldObject>,
}

/// The result of a request to hold or release lanes.
#[derive(Debug, Serialize)]
pub struct Held {
    #[serde(flatten)]
    lanes: Lanes,
    /// `false` if the lanes were already in that state.
    changed: bool,
    message: String,
}

/// `GET /admin/lanes`
pub async fn list(State(api): State<Arc<Api>>) -> Json<Lanes> {
    Json(render_lanes(&api, None))
}

/// `POST /admin/lanes/pause`
pub async fn pause(State(api): State<Arc<Api>>, body: Object) -> Result<Json<Held>, ApiError> {
    put(&api, &body, Some(Hold::Paused)).await
}

/// `POST /admin/lanes/resume`
pub async fn resume(State(api): State<Arc<Api>>, body: Object) -> Result<Json<Held>, ApiError> {
    put(&api, &body, None).await
}

/// `POST /admin/lanes/drain`
pub async fn drain(State(api): State<Arc<Api>>, body: Object) -> Result<Json<Held>, ApiError> {
    put(&api, &body, Some(Hold::Drained)).await
}

async fn put(api: &Api, body: &Object, hold: Option<Hold>) -> Result<Json<Held>, ApiError> {
    body.only(&["lane"])?;
    let text = body.need_text("lane", "it is a provider's id, such as `groq`, or that, a slash and its name for a model")?;
    let lane: LaneSelector = text.parse().map_err(|error| ApiError::invalid("lane", format!("`lane` {error}")))?;
    let before = api.service.executor.lane_holds().iter().find(|held| held.lane == lane).map(|held| held.hold);
    if before.is_none() {
        // A lane that is held can always be released, even if the catalog no longer knows it.
        crate::http::admin::known_lanes::check(api, &lane)?;
    }
    // A lane whose hold does not change keeps its `since`.
    let changed = before != hold;
    if changed {
        let (executor, wished, now) = (api.service.executor.clone(), lane.clone(), api.service.clock.now());
        let done = api.to_the_end(async move { executor.hold_lane(wished, hold, now).await }).await?;
        done.map_err(|error| match error {
            HoldError::TooMany => ApiError::new(Code::Conflict, error.to_string()),
            HoldError::Gone(error) => error.into(),
            HoldError::Store(error) => error.into(),
        })?;
        tracing::info!(%lane, hold = hold.map_or("none", Hold::as_str), "lane held or let go");
    }
    let message = describe(&lane, hold, changed, &api.service.executor.lane_holds(), &api.service.catalog.current());
    Ok(Json(Held { lanes: render_lanes(api, Some(&lane)), changed, message }))
}

/// Renders the lanes that a selector covers, with the holds that affect them; all lanes without a
/// selector.
fn render_lanes(api: &Api, only: Option<&LaneSelector>) -> Lanes {
    let (board, holds, now) = (api.service.executor.board(), api.service.executor.lane_holds(), api.service.clock.now());
    let catalog = api.service.catalog.current();
    let mut lanes: Vec<_> = board.lanes().collect();
    // A held lane may never have had a row, and after a restart no lane has had one.
    for LaneSelector { provider, upstream } in holds.iter().map(|held| &held.lane) {
        let Some(upstream) = upstream else { continue };
        if !lanes.iter().any(|(known, name, _)| known == provider && *name == Some(upstream)) {
            lanes.push((provider, Some(upstream), board.lane(provider, upstream)));
        }
    }
    lanes.retain(|(provider, upstream, _)| only.is_none_or(|only| only.covers(provider, *upstream)));
    lanes.sort_by_key(|(provider, upstream, _)| (*provider, *upstream));
    let data = lanes.into_iter().map(|(provider, upstream, report)| {
        let hold = hold_on(&holds, provider, upstream).map(Hold::as_str);
        let hold = hold.or(catalog.is_paused(provider, upstream.unwrap_or_default()).then_some("paused"));
        lane(provider, upstream, &report, hold, now)
    });
    let data = data.collect();
    let mut holds: Vec<_> = holds.iter().filter(|held| only.is_none_or(|only| held.lane.overlaps(only))).collect();
    holds.sort_by_key(|held| &held.lane);
    let held = |held: &&LaneHold| HoldObject { lane: held.lane.to_string(), hold: held.hold.as_str(), since: held.since.to_string() };
    Lanes { object: "list", data, holds: holds.iter().map(held).collect() }
}

fn lane(provider: &str, upstream: Option<&str>, report: &LaneReport, hold: Option<&'static str>, now: Timestamp) -> LaneObject {
    let load = &report.load;
    let selector = LaneSelector { provider: provider.to_owned(), upstream: upstream.map(str::to_owned) };
    LaneObject {
        lane: selector.to_string(),
        provider: selector.provider,
        model: selector.upstream,
        status: status(hold, load, now),
        in_flight: load.in_flight,
        allowed: load.allowed,
        requests_per_minute: load.per_minute,
        latency_ms: load.latency_ms,
        queued_rows: report.queued_rows,
        queued_tokens: report.queued_tokens,
        last_answer: load.last_answer.map(|at| at.to_string()),
        resting_until: resting(load, now).map(|until| until.to_string()),
        waiting: load.wait.as_ref().map(WaitObject::from),
        servers: report.servers.iter().map(|(url, load)| ServerObject::new(url, load, now)).collect(),
    }
}

/// Describes for a person what holds now, including other holds that affect the same lanes.
fn describe(lane: &LaneSelector, hold: Option<Hold>, changed: bool, holds: &[LaneHold], catalog: &Snapshot) -> String {
    let mut text = match (hold, changed) {
        (Some(Hold::Paused), true) => format!("`{lane}` is paused: its rows wait, calls in flight finish"),
        (Some(Hold::Drained), true) => {
            format!("`{lane}` is drained: nothing new goes there, its rows go elsewhere or wait, calls in flight finish")
        }
        (Some(hold), false) => format!("`{lane}` was {} already", hold.as_str()),
        (None, true) => format!("`{lane}` is no longer held"),
        (None, false) => format!("`{lane}` was not held"),
    };
    for other in holds.iter().filter(|held| held.lane != *lane && held.lane.overlaps(lane)) {
        let wider = other.lane.upstream.is_none();
        // A hold on the lane itself wins over one on all lanes of its provider.
        if wider && hold.is_none() {
            text += &format!("; all of `{}` is {}", other.lane, other.hold.as_str());
        } else if !wider {
            text += &format!("; `{}` is {} on its own", other.lane, other.hold.as_str());
        }
    }
    let by_seed = match &lane.upstream {
        Some(upstream) => catalog.is_paused(&lane.provider, upstream),
        None => catalog.provider(&lane.provider).is_some_and(|provider| provider.status == Status::Paused),
    };
    if hold.is_none() && by_seed {
        text += "; its seed in the catalog pauses it";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::provider::denial::Denial;

    #[test]
    fn a_lane_says_in_a_word_how_it_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let load = LaneLoad {
            in_flight: 2,
            allowed: Some(8),
            per_minute: Some(600),
            latency_ms: Some(120),
            last_answer: Some(at(50)),
            ..LaneLoad::default()
        };
        let with = |load: &LaneLoad| LaneReport { queued_rows: 9, load: load.clone(), ..LaneReport::default() };
        let rests = LaneLoad { resting_until: Some(at(100)), ..load.clone() };
        let wait = LaneWait { reason: WaitReason::Denied(Denial::Key), since: Some(at(40)), said: Some("no such key".into()) };
        let (report, resting) = (with(&load), with(&rests));
        let unreachable = with(&LaneLoad { unreachable: true, ..rests });
        let denied = with(&LaneLoad { wait: Some(wait), ..load });
        let status = |report: &LaneReport, hold, now| lane("p", Some("a/b"), report, hold, at(now)).status;
        assert_eq!(status(&report, None, 60), "active");
        assert_eq!(status(&resting, None, 99), "resting");
        assert_eq!(status(&resting, None, 100), "active");
        assert_eq!(status(&unreachable, None, 99), "unreachable");
        assert_eq!((status(&denied, None, 60), status(&denied, Some("paused"), 60)), ("held", "paused"));
        assert_eq!(status(&unreachable, Some("drained"), 99), "drained");
        insta::assert_json_snapshot!([
            lane("p", Some("a/b"), &resting, None, at(60)),
            lane("p", Some("m"), &denied, None, at(60)),
            lane("p", None, &LaneReport::default(), None, at(60))
        ]);
    }
}
