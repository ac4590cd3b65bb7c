//! `/admin`: the operator's calls about the catalog of a running daemon, and its backup.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::catalog::{Accepted, CatalogStatus, Changes, Fault, Faults, Origin, ReloadError};
use crate::domain::error::Code;
use crate::http::request::{Object, Params};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{Backup, BackupError, CATALOGS_KEPT, StoredCatalog};

/// `POST /admin/catalog/reload`: loads the seeds again, all or nothing.
pub async fn reload(State(api): State<Arc<Api>>) -> Response {
    match api.service.catalog.reload("asked for by a client").await {
        Ok(reloaded) => {
            let status = if reloaded.changes.is_some() { "reloaded" } else { "unchanged" };
            let mut shown = shown(&reloaded.accepted);
            shown["status"] = json!(status);
            shown["changes"] = json!(reloaded.changes);
            Json(shown).into_response()
        }
        Err(ReloadError::Faults(faults)) => {
            let count = faults.as_slice().len();
            let message = format!("the catalog has {count} faults, so nothing was changed; `faults` has them all with their places");
            let error = ApiError::new(Code::CatalogInvalid, message);
            error.with_details("faults", json!(listed(&faults)))
        }
        Err(ReloadError::Store(cause)) => {
            tracing::error!(cause, "a catalog could not be stored");
            ApiError::unavailable("the catalog could not be stored, so nothing was changed; the log has the cause").into_response()
        }
        Err(error @ ReloadError::Gone) => ApiError::unavailable(error.to_string()).into_response(),
    }
}

/// One accepted catalog of the history.
#[derive(Debug, Serialize)]
pub struct HistoryEntry {
    version: u64,
    hash: String,
    accepted_at: String,
    /// `null` for the seeds that are built into the program.
    folder: Option<String>,
    /// The differences from the catalog before it.
    changes: Changes,
}

impl From<StoredCatalog> for HistoryEntry {
    fn from(stored: StoredCatalog) -> Self {
        let StoredCatalog { version, hash, accepted_at, folder, changes } = stored;
        // An entry that an earlier build wrote may have another form.
        let changes = serde_json::from_slice(&changes).unwrap_or_default();
        Self { version, hash, accepted_at: accepted_at.to_string(), folder, changes }
    }
}

/// `GET /admin/catalog/history`: the accepted catalogs, the latest first, each with its changes.
pub async fn history(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    let most = usize::try_from(CATALOGS_KEPT).unwrap_or(usize::MAX);
    let limit = params.limit(20, most)?;
    let mut stored = api.service.store.catalogs().await?;
    let has_more = stored.len() > limit;
    stored.truncate(limit);
    let data: Vec<HistoryEntry> = stored.into_iter().map(HistoryEntry::from).collect();
    Ok(Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

/// `POST /admin/store/backup`: makes or renews a backup in a folder of the daemon's machine.
/// Answers once the backup is complete; the backup continues if the client goes away.
pub async fn backup(State(api): State<Arc<Api>>, body: Object) -> Result<Json<Value>, ApiError> {
    api.check_open()?;
    body.only(&["target"])?;
    let target = body.need_text("target", "it is the absolute path of a folder for the backup, on the daemon's machine")?.to_owned();
    let (store, path) = (api.service.store.clone(), PathBuf::from(&target));
    let work = tokio::task::spawn_blocking(move || store.backup(&path));
    let made = api.to_the_end(work).await?.map_err(ApiError::internal)?;
    let Backup { writes, entries, contents, copied, copied_bytes } = made.map_err(|error| match error {
        BackupError::Relative(_) | BackupError::Within(_) | BackupError::Foreign(_) => {
            ApiError::invalid("target", format!("`target`: {error}"))
        }
        BackupError::InUse(_) | BackupError::Busy => ApiError::new(Code::Conflict, error.to_string()),
        // The disk is the operator's own, so the caller may learn what is wrong with it.
        BackupError::GivenUp | BackupError::Store(_) => {
            tracing::error!(target, %error, "a backup could not be made");
            ApiError::unavailable(format!("the backup could not be made: {error}"))
        }
    })?;
    tracing::info!(target, writes, entries, contents, copied, copied_bytes, "made a backup");
    Ok(Json(json!({
        "object": "backup", "target": target, "writes": writes, "entries": entries,
        "contents": contents, "copied_contents": copied, "copied_bytes": copied_bytes,
    })))
}

/// The state of the catalog, for `GET /readyz?verbose`.
pub fn standing(standing: &CatalogStatus) -> Value {
    let mut shown = shown(&standing.accepted);
    let (refused_at, faults) = match &standing.refused {
        Some((faults, at)) => (Some(at.to_string()), listed(faults)),
        None => (None, Vec::new()),
    };
    shown["status"] = json!(if refused_at.is_some() { "stale" } else { "current" });
    shown["refused_at"] = json!(refused_at);
    shown["faults"] = json!(faults);
    shown
}

fn shown(accepted: &Accepted) -> Value {
    let (origin, folder) = match &accepted.origin {
        Origin::Embedded => ("embedded", None),
        Origin::Folder(folder) => ("folder", Some(folder)),
        Origin::Stored(folder) => ("last_good", Some(folder)),
    };
    json!({
        "version": accepted.version,
        "hash": accepted.hash,
        "origin": origin,
        "folder": folder,
        "accepted_at": accepted.at.to_string(),
    })
}

fn listed(faults: &Faults) -> Vec<Value> {
    let shown = |fault: &Fault| {
        let place = |number: fn(&crate::catalog::TextPlace) -> usize| fault.place.as_ref().map(number);
        json!({ "file": fault.file, "line": place(|place| place.line), "column": place(|place| place.column), "message": fault.message })
    };
    faults.as_slice().iter().map(shown).collect()
}
