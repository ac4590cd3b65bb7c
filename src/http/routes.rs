//! The table of routes for people: what `/` lists, what an unknown path is told, what `Allow` says.

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, Uri};

use super::error::ApiError;
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;

/// A path, its methods, and what it is for.
pub struct Listed {
    pub methods: &'static str,
    pub path: &'static str,
}

/// From 0 (nothing in common) to 1 (the same), how near a path must be to be suggested.
const NEAR: f64 = 0.75;
/// The same for one segment of a path.
const ALIKE: f64 = 0.5;
/// The mounts whose routes equal those under `/v1`.
const MOUNTS: [&str; 1] = ["/openai"];

const fn at(methods: &'static str, path: &'static str) -> Listed {
    Listed { methods, path }
}

/// Every route; a test holds it to the router.
pub const TABLE: &[Listed] = &[
    at("GET", "/"),
    at("GET", "/healthz"),
    at("GET", "/readyz"),
    at("GET, POST", "/v1/files"),
    at("GET, DELETE", "/v1/files/{file_id}"),
    at("GET", "/v1/files/{file_id}/content"),
    at("GET", "/v1/files/{file_id}/cost-estimate"),
    at("POST", "/v1/uploads"),
    at("GET", "/v1/uploads/{upload_id}"),
    at("POST", "/v1/uploads/{upload_id}/parts"),
    at("POST", "/v1/uploads/{upload_id}/complete"),
    at("POST", "/v1/uploads/{upload_id}/cancel"),
    at("GET, POST", "/v1/batches"),
    at("GET", "/v1/batches/{batch_id}"),
    at("POST", "/v1/batches/{batch_id}/cancel"),
    at("POST", "/v1/batches/{batch_id}/retry"),
    at("GET", "/v1/batches/{batch_id}/results"),
    at("GET", "/v1/models"),
    at("GET", "/v1/models/{*model}"),
];

/// Answers for a path that no route has.
pub async fn unknown(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let hint = match (path.parse::<Endpoint>(), near(&path)) {
        (Ok(endpoint), _) => format!("; rows of a batch run it: name it as `endpoint` in `POST /v1/batches`, as `{endpoint}`"),
        (Err(_), Some(listed)) => format!("; did you mean `{listed}`?"),
        (Err(_), None) => "; `GET /` lists what there is".to_owned(),
    };
    ApiError::new(Code::UnknownRoute, format!("there is no `{method} {path}`{hint}"))
}

/// Answers for a path that has other methods.
pub async fn wrong_method(request: Request) -> ApiError {
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let path = MOUNTS.iter().find_map(|mount| matched.strip_prefix(mount)).unwrap_or(matched);
    let allow = TABLE.iter().find(|listed| listed.path == path).map_or("GET", |listed| listed.methods);
    let allow = allow.replace("GET", "GET, HEAD");
    ApiError::method_not_allowed(format!("`{matched}` does not take {}; it takes {allow}", request.method()), &allow)
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
