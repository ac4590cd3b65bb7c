//! Headers of a create that go along with the calls of its rows.

use axum::http::HeaderMap;

use crate::catalog::Snapshot;
use crate::domain::batch::forwarded::{Forwarded, MAX_VALUE};
use crate::http::response::error::ApiError;

/// Reads the headers that at least one provider of the catalog lists.
///
/// # Errors
/// When the value of one of them is too long, or no text.
pub fn forwarded(headers: &HeaderMap, catalog: &Snapshot) -> Result<Forwarded, ApiError> {
    let listed = catalog.providers().flat_map(|(provider, _)| provider.connection.kind.forward_headers());
    let mut found: Vec<(String, String)> = Vec::new();
    for name in listed {
        let Some(value) = headers.get(name.as_str()).filter(|_| found.iter().all(|(known, _)| known != name)) else { continue };
        let text = value.to_str().ok().filter(|text| text.len() <= MAX_VALUE);
        let rule = || format!("the header `{name}` goes along to providers; it must be plain ASCII text of at most {MAX_VALUE} bytes");
        found.push((name.clone(), text.ok_or_else(|| ApiError::invalid(name, rule()))?.to_owned()));
    }
    Ok(Forwarded::new(found))
}
