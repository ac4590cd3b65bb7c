//! Answers that depend only on the catalog and on the state of the lanes: rendered once, served as
//! bytes to every client.
//!
//! A view is built from a snapshot into a [`Template`]: text with holes for live values. The text
//! is serialised once per snapshot and query. Filling the holes is copying; it happens at most once
//! per generation of the executor's board, about once a second, and when lanes are held or
//! released. In between every request is answered with the same bytes, the same strong `ETag`, and
//! the same compressed forms.
//!
//! Invariants: an answer shows one snapshot, never parts of two; one view is made at a time,
//! however many clients ask; the bytes that are kept have a bound.

mod content_coding;
mod template;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::content_coding::Coding;
pub use self::template::Template;
use super::error::ApiError;
use super::range;
use crate::catalog::Snapshot;
use crate::domain::provider::lane_hold::LaneHold;
use crate::domain::text::hex;
use crate::domain::time::Timestamp;
use crate::http::state::Api;
use crate::service::live_lanes::Live;

/// Bytes that the kept views may take, texts and compressed forms together. Beyond this bound, all
/// views but the one just made are dropped, and made again on demand.
const MAX_BYTES: usize = 64 << 20;

/// The views that are kept.
#[derive(Debug, Default)]
pub struct Views {
    kept: RwLock<HashMap<String, Arc<Made>>>,
    /// Views are made one at a time: requests that arrive meanwhile wait and find the view made.
    making: tokio::sync::Mutex<()>,
}

/// A view as it was made for one snapshot and one moment.
#[derive(Debug)]
struct Made {
    version: u64,
    generation: u64,
    /// The list is replaced as a whole whenever a hold changes.
    holds: Arc<Vec<LaneHold>>,
    /// When the view becomes outdated by time alone.
    good_until: Option<Timestamp>,
    template: Arc<Template>,
    /// The encoded form for each coding, made on demand.
    forms: [OnceLock<EncodedView>; Coding::ALL.len()],
}

/// The bytes of a view in one coding, with their headers.
#[derive(Debug, Clone)]
struct EncodedView {
    body: Bytes,
    etag: HeaderValue,
}

impl Made {
    fn is_good(&self, version: u64, generation: u64, holds: &Arc<Vec<LaneHold>>, now: Timestamp) -> bool {
        let still = self.good_until.is_none_or(|until| now < until) && Arc::ptr_eq(&self.holds, holds);
        self.version == version && (!self.template.is_live() || (self.generation == generation && still))
    }

    fn bytes(&self) -> usize {
        let forms: usize = self.forms.iter().filter_map(OnceLock::get).map(|form| form.body.len()).sum();
        self.template.bytes() + forms
    }

    fn form(&self, coding: Coding) -> Option<&EncodedView> {
        self.forms[coding as usize].get()
    }

    /// Returns the form in a coding, and makes it if needed. Blocks.
    fn make(&self, coding: Coding) -> Result<EncodedView, std::io::Error> {
        if let Some(form) = self.form(coding) {
            return Ok(form.clone());
        }
        let plain = &self.form(Coding::Identity).map(|form| form.body.clone()).unwrap_or_default();
        let form = EncodedView::new(coding.encode(plain)?, coding);
        Ok(self.forms[coding as usize].get_or_init(|| form).clone())
    }
}

impl EncodedView {
    fn new(body: Bytes, coding: Coding) -> Self {
        let digest = Sha256::digest(&body);
        let hash = hex(&digest[..16]);
        let etag = HeaderValue::from_str(&format!("\"{hash}{}\"", coding.suffix())).unwrap_or(HeaderValue::from_static("\"\""));
        Self { body, etag }
    }
}

/// Answers with the view of that name; if it is not kept, `build` makes it from a snapshot.
///
/// # Errors
/// When the view could not be made.
pub async fn respond(
    api: &Arc<Api>,
    name: &str,
    headers: &HeaderMap,
    cache_control: &'static str,
    build: impl FnOnce(&Snapshot) -> Template + Send + 'static,
) -> Result<Response, ApiError> {
    let coding = Coding::wanted(headers);
    let form = match api.views.find(api, name).and_then(|made| made.form(coding).cloned()) {
        Some(form) => form,
        None => {
            let _turn = api.views.making.lock().await;
            let (api, name) = (api.clone(), name.to_owned());
            let make = move || api.views.made(&api, name, build).make(coding);
            tokio::task::spawn_blocking(make).await.map_err(ApiError::internal)?.map_err(ApiError::internal)?
        }
    };
    Ok(response(form, coding, headers, cache_control))
}

fn response(form: EncodedView, coding: Coding, request: &HeaderMap, cache_control: &'static str) -> Response {
    let known = form.etag.to_str().is_ok_and(|etag| range::is_known(request, etag));
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(form.body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, form.etag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if !known {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(name) = coding.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
    }
    response
}

impl Views {
    /// Finds the view of that name, if it is still up to date.
    fn find(&self, api: &Api, name: &str) -> Option<Arc<Made>> {
        let made = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(name).cloned()?;
        let (version, generation) = (api.service.catalog.versioned().0, api.service.executor.board().generation);
        made.is_good(version, generation, &api.service.executor.lane_holds(), api.service.clock.now()).then_some(made)
    }

    /// Returns the view of that name, made or refilled if needed. Blocks.
    fn made(&self, api: &Api, name: String, build: impl FnOnce(&Snapshot) -> Template) -> Arc<Made> {
        if let Some(made) = self.find(api, &name) {
            return made;
        }
        let earlier = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&name).cloned();
        let (current, board, holds, now) =
            (api.service.catalog.versioned(), api.service.executor.board(), api.service.executor.lane_holds(), api.service.clock.now());
        let (version, snapshot) = &*current;
        let template = match earlier.filter(|made| made.version == *version) {
            Some(made) => made.template.clone(),
            None => Arc::new(build(snapshot)),
        };
        let (body, good_until) = template.fill(&Live { board: &board, holds: &holds, now });
        let forms = [const { OnceLock::new() }; Coding::ALL.len()];
        let _ = forms[Coding::Identity as usize].set(EncodedView::new(body, Coding::Identity));
        let made = Arc::new(Made { version: *version, generation: board.generation, holds, good_until, template, forms });
        let mut kept = self.kept.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.remove(&name);
        if kept.values().map(|made| made.bytes()).sum::<usize>() + made.bytes() > MAX_BYTES {
            kept.clear();
        }
        kept.insert(name, made.clone());
        made
    }
}
