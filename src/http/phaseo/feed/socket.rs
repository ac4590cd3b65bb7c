//! `GET /v1/async/{kind}/{id}/ws`: a batch over a WebSocket.
//!
//! Each socket is one task that ends in bounded time whatever its client does: writes, the client's
//! silence and the closing handshake have time limits, and the client's messages have a size limit.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::header::{CACHE_CONTROL, UPGRADE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, Interval, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::deleted;
use super::subscribe::FollowOptions;
use crate::domain::id::BatchId;
use crate::http::layers::lease::Lease;
use crate::http::phaseo::CACHE;
use crate::http::phaseo::batches::job::at;
use crate::http::phaseo::batches::object::BatchLinks;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::{Refusal, respond};
use crate::http::request::{Params, named};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::feed::watcher::{Follower, Frame};

/// The most bytes of a client's message: every message with a meaning is shorter.
const MAX_MESSAGE: usize = 4 << 10;
/// Bytes that are read at a time. The library allocates this buffer for every socket up front.
const READ_BUFFER: usize = 512;
/// How long a write to a client may take.
const WRITE: Duration = Duration::from_secs(30);
/// How often a client is pinged. A client that has sent nothing since the last ping counts as gone.
const PING: Duration = Duration::from_secs(30);
/// How long the client may take to close its side as well.
const CLOSING: Duration = Duration::from_secs(1);

/// Whether a request to a WebSocket path does not ask for an upgrade. This check comes before
/// authentication.
pub fn lacks_upgrade(request: &Request) -> bool {
    let is_socket = request.extensions().get::<MatchedPath>().is_some_and(|path| path.as_str().ends_with("/async/{kind}/{id}/ws"));
    let upgrades = || {
        let named = request.headers().get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
        named.flat_map(|value| value.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
    };
    is_socket && matches!(*request.method(), Method::GET | Method::HEAD) && !upgrades()
}

/// The answer to a request that lacks the upgrade.
pub fn upgrade_required() -> Response {
    let message = "this is a WebSocket: connect with `Upgrade: websocket`";
    let body = json!({ "error": { "code": "websocket_upgrade_required", "message": message } });
    let headers = [(UPGRADE, "websocket"), (CACHE_CONTROL, CACHE)];
    (StatusCode::UPGRADE_REQUIRED, headers, axum::Json(body)).into_response()
}

/// `GET /v1/async/{kind}/{id}/ws`
pub async fn socket(
    State(api): State<Arc<Api>>,
    Extension(lease): Extension<Lease>,
    context: Context,
    headers: HeaderMap,
    params: Result<Params, ApiError>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let opened = async {
        let id = batch_of(path.ok().as_ref())?;
        let own = api.service.store.batch(id).await.map_err(ApiError::from)?.is_some_and(|batch| lease.caller().reaches(batch.spec.org));
        if !own {
            return Err(not_found(&id.in_upper()));
        }
        let upgrade = upgrade.map_err(|rejection| {
            Refusal::flat(rejection.status(), "validation_error", "invalid_websocket_handshake", rejection.body_text())
        })?;
        let mut follower = api.feeds.follow(&api.service, id);
        let first = follower.now().await.ok_or_else(|| ApiError::unavailable("the batch cannot be followed at present; try again"))?;
        let place = BatchLinks::of(&api, &headers, &context);
        let (options, draining) = (FollowOptions::of(params.ok().as_ref()), api.service.draining.clone());
        // A stopping daemon waits for its open sockets, because their clients must hear that it
        // stops.
        let waited_for = api.service.tasks.token();
        let upgrade = upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(0).max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
        Ok(upgrade.on_upgrade(move |socket| async move {
            let lapsed = Box::pin(lease.ended());
            let talk = Talk { socket, follower, place, options, draining, lapsed, shown_version: 0 };
            talk.run(first).await;
            drop(waited_for);
        }))
    };
    respond(opened.await, &context)
}

/// The batch that a path names. Jobs of other kinds do not exist.
fn batch_of(path: Option<&RawPathParams>) -> Result<BatchId, Refusal> {
    let named = |name| path.map_or("", |path| named(path, name));
    let (kind, id) = (named("kind").to_ascii_lowercase(), named("id"));
    let wrong = || Refusal::invalid("invalid_async_job_path", "the path must be `/async/batch/{id}/ws` with the id of a batch");
    match kind.as_str() {
        "batch" => id.parse().map_err(|_| wrong()),
        "video" if !id.is_empty() => Err(not_found(id)),
        _ => Err(wrong()),
    }
}

fn not_found(id: &str) -> Refusal {
    Refusal::not_found("async_job_not_found_or_not_owned", "id", id)
}

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Ping,
    Refresh,
}

impl Wish {
    /// Reads a wish: the word alone, as the hosted server takes it, or an object, as its document
    /// has it.
    fn read(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let typed = text.trim_start().starts_with('{').then(|| serde_json::from_str::<Typed>(text).ok()).flatten();
        match typed.as_ref().map_or(text, |typed| &typed.r#type) {
            "ping" => Some(Self::Ping),
            "refresh" => Some(Self::Refresh),
            _ => None,
        }
    }
}

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// No more messages will follow.
    Told,
    /// The daemon stops.
    Draining,
    /// The client's key is no longer accepted.
    Lapsed,
    /// The client sent a message that it may not send.
    Misuse,
    /// The batch cannot be read any more.
    Failed,
    /// The client closes, or no longer responds.
    Gone,
}

impl End {
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Told => (close_code::NORMAL, "closed"),
            Self::Draining => (close_code::AWAY, "stopping"),
            Self::Lapsed => (close_code::POLICY, "the API key is no longer accepted"),
            Self::Misuse => (close_code::POLICY, "message refused"),
            Self::Failed => (close_code::ERROR, "failed"),
            Self::Gone => return None,
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

enum SocketEvent {
    Heard(Message),
    Frame(Arc<Frame>),
    Ping,
}

/// A socket at work.
struct Talk {
    socket: WebSocket,
    follower: Follower,
    place: BatchLinks,
    options: FollowOptions,
    draining: CancellationToken,
    /// Ends when the client's key is no longer accepted.
    lapsed: BoxFuture<'static, ()>,
    /// The version of the state that was sent last.
    shown_version: u64,
}

impl Talk {
    async fn run(mut self, first: Arc<Frame>) {
        let end = match self.send_frame("job.snapshot", &first).await {
            Ok(()) => {
                drop(first);
                self.follow().await
            }
            Err(end) => end,
        };
        let farewell = async {
            if let Some(frame) = end.frame() {
                self.socket.send(Message::Close(Some(frame))).await.ok()?;
            }
            // Messages that the client has sent in the meantime are read, or the connection would
            // be reset before the client has read the close frame.
            while let Some(Ok(_)) = self.socket.recv().await {}
            Some(())
        };
        // A client that does not answer in time is dropped.
        let _ = timeout(CLOSING, farewell).await;
    }

    async fn follow(&mut self) -> End {
        let mut due = Instant::now() + self.options.interval;
        let mut ping = interval_at(Instant::now() + PING, PING);
        let mut is_there = true;
        loop {
            let event = match self.event(due, &mut ping).await {
                Ok(event) => event,
                Err(end) => return end,
            };
            let done = match event {
                SocketEvent::Heard(Message::Close(_)) => Err(End::Gone),
                SocketEvent::Heard(message) => {
                    is_there = true;
                    self.answer(&message, &mut due).await
                }
                SocketEvent::Frame(frame) => self.update(&frame, &mut due).await,
                SocketEvent::Ping if !std::mem::take(&mut is_there) => Err(End::Gone),
                SocketEvent::Ping => self.send(Message::Ping(bytes::Bytes::new())).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn event(&mut self, due: Instant, ping: &mut Interval) -> Result<SocketEvent, End> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(End::Draining),
            () = &mut self.lapsed => Err(End::Lapsed),
            heard = self.socket.recv() => match heard {
                Some(Ok(message)) => Ok(SocketEvent::Heard(message)),
                Some(Err(_)) => Err(End::Misuse),
                None => Err(End::Gone),
            },
            _ = ping.tick() => Ok(SocketEvent::Ping),
            frame = self.follower.next(due) => frame.map(SocketEvent::Frame).ok_or(End::Failed),
        }
    }

    async fn answer(&mut self, message: &Message, due: &mut Instant) -> Result<(), End> {
        let Message::Text(text) = message else { return Ok(()) };
        match Wish::read(text) {
            Some(Wish::Ping) => self.send(Message::text(r#"{"type":"pong"}"#)).await,
            Some(Wish::Refresh) => {
                let frame = self.follower.now().await.ok_or(End::Failed)?;
                self.update(&frame, due).await
            }
            None => Ok(()),
        }
    }

    async fn update(&mut self, frame: &Frame, due: &mut Instant) -> Result<(), End> {
        if frame.version > self.shown_version {
            *due = Instant::now() + self.options.interval;
            self.send_frame("job.updated", frame).await?;
        }
        Ok(())
    }

    async fn send_frame(&mut self, kind: &str, frame: &Frame) -> Result<(), End> {
        self.shown_version = frame.version;
        let Some(message) = &frame.message else {
            self.send(Message::text(json!({ "type": "job.deleted", "data": deleted(frame) }).to_string())).await?;
            return Err(End::Told);
        };
        self.send(Message::text(format!(r#"{{"type":"{kind}","data":{}}}"#, at(message, &self.place)))).await?;
        if message.ended && self.options.close_on_terminal { Err(End::Told) } else { Ok(()) }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        tokio::select! {
            sent = timeout(WRITE, self.socket.send(message)) => sent.ok().and_then(Result::ok).ok_or(End::Gone),
            () = self.draining.cancelled() => Err(End::Draining),
            () = &mut self.lapsed => Err(End::Lapsed),
        }
    }
}
