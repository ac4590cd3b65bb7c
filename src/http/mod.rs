//! The HTTP API. The only module that names axum and hyper's server side.
//!
//! Handlers are thin: they read a request into `domain` values, ask the store or the executor, and
//! render the answer. What every request has in common (ids, access, limits, errors) is here; what
//! belongs to one dialect is in a module of its own, and `shared` decides where several have a path.
//!
//! Invariants others rely on:
//! * every response carries `x-request-id`, and every error the envelope of [`ApiError`];
//! * whatever a response shows is durable, because every store call waits for that;
//! * memory does not grow with the size of an upload or a download;
//! * work that must not be left half-done goes on when its client goes away.

mod access;
mod admin;
mod batchrouter;
mod body;
mod canonical;
mod connection;
mod crowd;
mod error;
mod extract;
mod form;
mod gate;
mod keys;
mod lanes;
mod links;
mod metrics;
mod openai;
mod ops;
mod orgs;
mod phaseo;
mod range;
mod routes;
mod serve;
mod shared;
mod stream;
mod trace;
mod views;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use futures_util::future::BoxFuture;
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument;

pub use access::{Access, Origins};
pub use batchrouter::Quoting;
pub use error::ApiError;
pub use phaseo::feed::Feeds;
pub use phaseo::told_of_batches;
pub use serve::serve;
pub use views::Views;

use crate::catalog::Catalog;
use crate::descriptors::Descriptors;
use crate::domain::ledger::Credits;
use crate::domain::receiver::{Probed, Receiver};
use crate::domain::routing::TierTimes;
use crate::domain::target::Targets;
use crate::domain::time::Clock;
use crate::executor;
use crate::store::Store;

/// What the handlers need.
pub struct Api {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub executor: executor::Handle,
    pub clock: Clock,
    pub limits: Limits,
    /// What is open, and what may be.
    pub descriptors: Descriptors,
    pub access: Access,
    /// What was rendered of the catalog.
    pub views: Views,
    /// Where others reach the daemon, if that is not where it listens: the beginning of links.
    pub public_url: Option<String>,
    pub accounts: Accounts,
    /// Bounds the quotes that are made at the same time.
    pub quoting: Quoting,
    /// Tries receivers out.
    pub probe: Probe,
    /// The batches that somebody follows.
    pub feeds: Feeds,
    /// Cancelled when the daemon begins to stop: from then on nothing new is created.
    pub draining: CancellationToken,
    /// Work that goes on when its client goes away; the daemon waits for it before it closes the store.
    pub tasks: TaskTracker,
}

/// What clients may do with accounts.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// Whoever may call may register an organisation.
    pub may_register: bool,
    /// What such a one may spend.
    pub first_credits: Credits,
    /// Which receivers of messages may be named.
    pub targets: Targets,
    /// Batches of Phaseo's name receivers that are managed by themselves, and no URLs.
    pub managed_receivers: bool,
}

/// Sends one message to a receiver, to try it out.
pub type Probe = Arc<dyn Fn(Receiver) -> BoxFuture<'static, Probed> + Send + Sync>;

impl Default for Accounts {
    /// As for a daemon that only its own machine can reach.
    fn default() -> Self {
        Self { may_register: true, first_credits: Credits::Unlimited, targets: Targets::PublicAndLoopback, managed_receivers: false }
    }
}

/// Limits of what clients may send.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a file uploaded in one request.
    pub max_file_bytes: u64,
    /// Bytes of a file uploaded in parts.
    pub max_upload_bytes: u64,
    /// Bytes of one part.
    pub max_part_bytes: u64,
    /// Bytes of one line that a cost estimate looks at: the limit of a row.
    pub max_line_bytes: usize,
    /// Room on the disk that nothing uploaded may use.
    pub min_free_bytes: u64,
    /// When a batch file goes away if its upload does not say; `None` keeps it.
    pub file_retention: Option<Duration>,
    /// How long the next piece of a request's body may take.
    pub body_idle: Duration,
    pub quotes: QuoteTerms,
}

/// What quotes may be, and how long they hold.
#[derive(Debug, Clone)]
pub struct QuoteTerms {
    /// Items in one request.
    pub max_items: usize,
    /// Bytes of the body of one request.
    pub max_body_bytes: u64,
    /// How long its prices hold.
    pub validity: Duration,
    pub tiers: TierTimes,
    /// What is charged besides what providers charge, in percent of that.
    pub fee: Decimal,
}

impl Default for QuoteTerms {
    fn default() -> Self {
        Self {
            max_items: 5_000,
            max_body_bytes: 20 << 20,
            validity: Duration::from_secs(600),
            tiers: TierTimes::default(),
            fee: Decimal::ZERO,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 1 << 30,
            max_upload_bytes: 8 << 30,
            max_part_bytes: 64 << 20,
            max_line_bytes: 16 << 20,
            min_free_bytes: 512 << 20,
            file_retention: None,
            body_idle: Duration::from_secs(60),
            quotes: QuoteTerms::default(),
        }
    }
}

impl Api {
    /// A secret as it is kept.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    fn seal(&self, secret: &str) -> Result<Vec<u8>, ApiError> {
        self.store.seal().seal(secret.as_bytes()).ok_or_else(|| ApiError::internal("a secret could not be sealed"))
    }

    /// Refuses to create anything while the daemon stops.
    ///
    /// # Errors
    /// When it does.
    fn check_open(&self) -> Result<(), ApiError> {
        match self.draining.is_cancelled() {
            true => Err(ApiError::unavailable("the daemon is stopping and takes no new work; try again after it has restarted")),
            false => Ok(()),
        }
    }

    /// Runs `work` to its end even if the client goes away meanwhile: hyper drops a handler whose
    /// connection closes, and a batch that is stored but not handed to the executor would wait for
    /// the next start of the daemon.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
        self.tasks.spawn(work.in_current_span()).await.map_err(ApiError::internal)
    }
}

/// All routes with their layers.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new()
        .route("/", get(ops::index))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/admin/catalog/reload", post(admin::reload))
        .route("/admin/catalog/history", get(admin::history))
        .route("/admin/store/backup", post(admin::backup))
        .route("/admin/organisations", get(orgs::list).post(orgs::create))
        .route("/admin/organisations/{org_id}/credits", post(orgs::credit))
        .route("/admin/organisations/{org_id}/keys", get(orgs::list_keys).post(orgs::create_key))
        .route("/admin/organisations/{org_id}/keys/{api_key_id}", delete(orgs::revoke_key))
        .route("/admin/lanes", get(lanes::list))
        .route("/admin/lanes/pause", post(lanes::pause))
        .route("/admin/lanes/resume", post(lanes::resume))
        .route("/admin/lanes/drain", post(lanes::drain))
        .nest("/v1", shared::routes().merge(openai::own()).merge(phaseo::own()).merge(batchrouter::own()))
        .nest("/openai/v1", openai::routes())
        // Where BatchRouter has it.
        .nest("/v1/openai/v1", openai::routes())
        .nest("/phaseo/v1", phaseo::routes())
        .nest("/batchrouter/v1", batchrouter::routes());
    #[cfg(test)]
    {
        router = router.merge(tests::routes());
    }
    router = router
        .fallback(routes::unknown)
        .method_not_allowed_fallback(routes::wrong_method)
        // The last layer is the outermost.
        .layer(from_fn_with_state(api.clone(), access::guard));
    if let Some(cors) = cors(api.access.origins()) {
        router = router.layer(cors);
    }
    router
        .layer(CatchPanicLayer::custom(trace::panicked))
        .layer(from_fn(trace::request))
        // Around all that may answer: none of it has to think of the body that it does not read.
        .layer(from_fn_with_state(api.clone(), body::watch))
        .with_state(api)
}

fn cors(origins: &Origins) -> Option<CorsLayer> {
    let allowed = match origins {
        Origins::None => return None,
        Origins::Any => AllowOrigin::any(),
        Origins::Listed(origins) => {
            let listed: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
            AllowOrigin::predicate(move |origin, request| access::is_public(request.uri.path()) || listed.contains(origin))
        }
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        // Client libraries send headers of their own, and `*` would not cover `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([trace::REQUEST_ID, error::SHOULD_RETRY, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, RETRY_AFTER])
        .max_age(Duration::from_secs(3_600));
    Some(layer)
}
