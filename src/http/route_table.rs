//! The table of routes for people: what `/` lists, what an unknown path is told, what `Allow` says.

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, Uri};
use axum::response::Response;

use super::response::error::ApiError;
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;

/// A path, its methods, and what it is for.
pub struct Listed {
    pub methods: &'static str,
    pub path: &'static str,
    /// Where the dialect it belongs to is mounted besides.
    pub mounts: &'static [&'static str],
}

/// From 0 (nothing in common) to 1 (the same), how near a path must be to be suggested.
const NEAR: f64 = 0.75;
/// The same for one segment of a path.
const ALIKE: f64 = 0.5;

const fn at(methods: &'static str, path: &'static str) -> Listed {
    Listed { methods, path, mounts: &[] }
}

const fn openai(methods: &'static str, path: &'static str) -> Listed {
    Listed { methods, path, mounts: &["/openai", "/v1/openai"] }
}

const fn phaseo(methods: &'static str, path: &'static str) -> Listed {
    Listed { methods, path, mounts: &["/phaseo"] }
}

const fn batchrouter(methods: &'static str, path: &'static str) -> Listed {
    Listed { methods, path, mounts: &["/batchrouter"] }
}

/// Every route; a test holds it to the router.
pub const TABLE: &[Listed] = &[
    at("GET", "/"),
    at("GET", "/healthz"),
    at("GET", "/readyz"),
    at("GET", "/metrics"),
    at("POST", "/admin/catalog/reload"),
    at("GET", "/admin/catalog/history"),
    at("POST", "/admin/store/backup"),
    at("GET, POST", "/admin/organisations"),
    at("POST", "/admin/organisations/{org_id}/credits"),
    at("GET, POST", "/admin/organisations/{org_id}/keys"),
    at("DELETE", "/admin/organisations/{org_id}/keys/{api_key_id}"),
    at("GET", "/admin/lanes"),
    at("POST", "/admin/lanes/pause"),
    at("POST", "/admin/lanes/resume"),
    at("POST", "/admin/lanes/drain"),
    openai("GET, POST", "/v1/files"),
    openai("GET, DELETE", "/v1/files/{file_id}"),
    openai("GET", "/v1/files/{file_id}/content"),
    openai("GET", "/v1/files/{file_id}/cost-estimate"),
    openai("POST", "/v1/uploads"),
    openai("GET", "/v1/uploads/{upload_id}"),
    openai("POST", "/v1/uploads/{upload_id}/parts"),
    openai("POST", "/v1/uploads/{upload_id}/complete"),
    openai("POST", "/v1/uploads/{upload_id}/cancel"),
    openai("GET, POST", "/v1/batches"),
    openai("GET, POST, DELETE", "/v1/batches/{batch_id}"),
    openai("POST", "/v1/batches/{batch_id}/pause"),
    openai("POST", "/v1/batches/{batch_id}/resume"),
    openai("POST", "/v1/batches/{batch_id}/cancel"),
    openai("POST", "/v1/batches/{batch_id}/retry"),
    openai("GET", "/v1/batches/{batch_id}/results"),
    openai("GET", "/v1/models"),
    openai("GET", "/v1/models/{*model}"),
    batchrouter("GET", "/v1/catalog/models"),
    batchrouter("GET", "/v1/catalog/workflow-products"),
    batchrouter("GET", "/v1/catalog/workflow-products/{slug}"),
    batchrouter("POST", "/v1/quotes/workflow"),
    batchrouter("GET", "/v1/providers"),
    batchrouter("GET", "/v1/pricing/fees"),
    batchrouter("GET", "/v1/health"),
    batchrouter("POST", "/v1/quotes/model"),
    batchrouter("POST", "/v1/batches/quote"),
    batchrouter("GET", "/v1/quotes/{quote_id}"),
    batchrouter("GET", "/v1/auth/account"),
    batchrouter("GET, POST", "/v1/auth/account/api-keys"),
    batchrouter("DELETE", "/v1/auth/account/api-keys/{api_key_id}"),
    batchrouter("GET, PUT, DELETE", "/v1/auth/account/delivery-webhook"),
    batchrouter("POST", "/v1/auth/agent-register"),
    batchrouter("POST", "/v1/batches/input-manifests"),
    batchrouter("GET", "/v1/batches/{batch_id}/artifact-url"),
    batchrouter("GET", "/v1/batches/{batch_id}/billing-receipt"),
    phaseo("GET", "/v1/batches/models"),
    phaseo("GET", "/v1/batches/capabilities"),
    phaseo("GET", "/v1/data/models"),
    phaseo("GET", "/v1/batches/{batch_id}/requests"),
    phaseo("GET, POST", "/v1/webhook-endpoints"),
    phaseo("GET, PATCH, DELETE", "/v1/webhook-endpoints/{endpoint_id}"),
    phaseo("POST", "/v1/webhook-endpoints/{endpoint_id}/rotate-secret"),
    phaseo("POST", "/v1/webhook-endpoints/{endpoint_id}/test"),
    phaseo("GET", "/v1/batches/{batch_id}/events"),
    phaseo("GET", "/v1/async/{kind}/{id}/ws"),
    phaseo("GET, POST", "/v1/batches/files"),
    phaseo("GET", "/v1/batches/files/{file_id}"),
    phaseo("GET", "/v1/batches/files/{file_id}/content"),
];

/// Answers for a path that no route has.
pub async fn unknown(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let hint = match (path.parse::<Endpoint>(), near(&path)) {
        (Ok(endpoint), _) => format!("; rows of a batch run it: name it as `endpoint` in `POST /v1/batches`, as `{endpoint}`"),
        (Err(_), Some(listed)) => format!("; did you mean `{listed}`?"),
        (Err(_), None) => "; `GET /` lists what there is".to_owned(),
    };
    ApiError::new(Code::UnknownRoute, format!("there is no `{method} {path}`{hint}")).into_response_at(&path)
}

/// Answers for a path that has other methods.
pub async fn wrong_method(request: Request) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let mount_of = |listed: &Listed| {
        let mount = matched.strip_suffix(listed.path)?;
        (mount.is_empty() || listed.mounts.contains(&mount)).then_some((listed.methods, mount))
    };
    let (allow, mount) = TABLE.iter().find_map(mount_of).unwrap_or(("GET", ""));
    let allow = allow.replace("GET", "GET, HEAD");
    // A nested route sees its path without the mount.
    let own: String = request.uri().path().chars().take(200).collect();
    let mounts = [format!("{mount}/v1"), "/v1".to_owned()];
    let mount = mounts.into_iter().find(|mount| matched.starts_with(mount) && !own.starts_with(mount)).unwrap_or_default();
    let path = format!("{mount}{own}");
    ApiError::method_not_allowed(format!("`{path}` does not take {}; it takes {allow}", request.method()), &allow).into_response_at(&path)
}

/// The path that was probably meant, with the parameters of the one that was asked for.
fn near(asked: &str) -> Option<String> {
    let trimmed = asked.trim_end_matches('/');
    let versioned = format!("/v1{trimmed}");
    let candidates = TABLE.iter().skip(1).flat_map(|listed| {
        let scored = |asked| fill(listed.path, asked).map(|path| (strsim::normalized_damerau_levenshtein(&path, asked), path));
        [scored(trimmed), scored(&versioned)].into_iter().flatten()
    });
    let best = candidates.filter(|(score, _)| *score >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, path)| path)
}

/// The path of a template whose segments resemble those of `asked`, its parameters filled in.
fn fill(template: &str, asked: &str) -> Option<String> {
    let (template, asked): (Vec<_>, Vec<_>) = (template.split('/').collect(), asked.split('/').collect());
    if template.len() != asked.len() {
        return None;
    }
    let filled = template.iter().zip(&asked).map(|(wanted, found)| match wanted.starts_with('{') {
        true => Some(*found),
        false => (strsim::normalized_damerau_levenshtein(wanted, found) >= ALIKE).then_some(*wanted),
    });
    Some(filled.collect::<Option<Vec<_>>>()?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let hints = [
            "/v1/files/",
            "/v1/batch",
            "/batches",
            "/v1/batches/batch_1/result",
            "/files/file-1/content",
            "/v1/chat/completions",
            "/",
            "//",
            "/favicon.ico",
            "/health",
        ];
        let text: Vec<_> = hints.iter().map(|path| format!("{path} -> {}", near(path).unwrap_or_default())).collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
