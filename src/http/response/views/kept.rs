//! The views that are kept: made from one snapshot and the state of the lanes, with their encoded
//! forms.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use axum::http::HeaderValue;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::content_coding::Coding;
use super::template::Template;
use crate::catalog::Snapshot;
use crate::domain::provider::lane_hold::LaneHold;
use crate::domain::text::hex;
use crate::domain::time::Timestamp;
use crate::service::Service;
use crate::service::live_lanes::Live;

/// Bytes that the kept views may take, texts and compressed forms together. Beyond this bound, all
/// views but the one just made are dropped, and made again on demand.
const MAX_BYTES: usize = 64 << 20;

/// The views that are kept.
#[derive(Debug, Default)]
pub struct Views {
    kept: RwLock<HashMap<String, Arc<Made>>>,
    /// Views are made one at a time: requests that arrive meanwhile wait and find the view made.
    pub(super) making: tokio::sync::Mutex<()>,
}

/// A view as it was made for one snapshot and one moment.
#[derive(Debug)]
pub(super) struct Made {
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
pub(super) struct EncodedView {
    pub body: Bytes,
    pub etag: HeaderValue,
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

    pub(super) fn form(&self, coding: Coding) -> Option<&EncodedView> {
        self.forms[coding as usize].get()
    }

    /// Returns the form in a coding, and makes it if needed. Blocks.
    pub(super) fn make(&self, coding: Coding) -> Result<EncodedView, std::io::Error> {
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

impl Views {
    /// Finds the view of that name, if it is still up to date.
    pub(super) fn find(&self, service: &Service, name: &str) -> Option<Arc<Made>> {
        let made = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(name).cloned()?;
        let (version, generation) = (service.catalog.versioned().0, service.executor.board().generation);
        made.is_good(version, generation, &service.executor.lane_holds(), service.clock.now()).then_some(made)
    }

    /// Returns the view of that name, made or refilled if needed. Blocks.
    pub(super) fn made(&self, service: &Service, name: String, build: impl FnOnce(&Snapshot) -> Template) -> Arc<Made> {
        if let Some(made) = self.find(service, &name) {
            return made;
        }
        let earlier = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&name).cloned();
        let (current, board, holds, now) =
            (service.catalog.versioned(), service.executor.board(), service.executor.lane_holds(), service.clock.now());
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
