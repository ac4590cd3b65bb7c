//! Base URLs of providers: one rule for seeds and for upstreams given on the command line.

use http::Uri;

use crate::domain::authority;
use crate::domain::endpoint::Endpoint;

/// Parses the URL below which a provider serves its operations, without trailing slashes.
///
/// # Errors
/// The rule for the URL, in words that follow "it".
pub(super) fn parse_base_url(text: &str) -> Result<Uri, String> {
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err("must be an absolute URL that starts with `http://` or `https://`".into());
    }
    if text.contains(['?', '#']) {
        return Err("must have no query and no fragment".into());
    }
    if lower.trim_end_matches('/').ends_with(':') && !lower.trim_end_matches('/').contains("//") {
        return Err("must name a host".into());
    }
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| "is not a valid URL".to_owned())?;
    let authority = uri.authority().ok_or("must name a host")?;
    if authority.as_str().contains('@') {
        // A URL ends up in logs and error messages; a key must not.
        return Err("must hold no user name, password or key; those come from a variable or a file".into());
    }
    authority::check(authority).map_err(|rule| rule.to_string())?;
    match Endpoint::ALL.into_iter().find(|endpoint| uri.path().ends_with(endpoint.tail())) {
        // The commonest mistake: the URL of one operation, copied from a curl example.
        Some(endpoint) => Err(format!("must end before `{}`; the operation is added to it", endpoint.tail())),
        None => Ok(uri),
    }
}

/// Parses the path that all operations of a server have in common; empty for a server whose
/// operations are at its root.
///
/// # Errors
/// The rule for the path, in words that follow "it".
pub fn parse_api_path(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let legal = path.is_empty() || path.starts_with('/') && !path.contains(['?', '#']) && path.parse::<http::uri::PathAndQuery>().is_ok();
    if !legal {
        return Err("must be a path such as `/v2`, or `/` for a server whose operations are at its root".into());
    }
    match Endpoint::ALL.into_iter().find(|endpoint| path.ends_with(endpoint.tail())) {
        Some(endpoint) => Err(format!("must end before `{}`; the operation is added to it", endpoint.tail())),
        None => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_an_api_is_a_path() {
        for (text, path) in [("", ""), ("/", ""), ("/v1", "/v1"), ("/api/v3/", "/api/v3")] {
            assert_eq!(parse_api_path(text).as_deref(), Ok(path), "{text}");
        }
        for bad in ["v1", "/v1?key=1", "/v1#a", "/a b", "/v1/chat/completions", "http://host/v1"] {
            assert!(parse_api_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_base_url_is_absolute_and_holds_no_secret() {
        for (text, path) in [
            ("http://localhost:8000", "/"),
            ("https://api.openai.com/", "/"),
            ("HTTPS://api.groq.com/openai/v1/", "/openai/v1"),
            ("http://[::1]:11434/v1", "/v1"),
        ] {
            assert_eq!(parse_base_url(text).unwrap().path(), path, "{text}");
        }
        let bad = [
            "",
            "localhost:8000",
            "ftp://host",
            "http://",
            "http://:80",
            "http://host:0",
            "http://host:99999",
            "http://host:",
            "http://[host]",
            "http://key@host",
            "http://host/?key=1",
            "http://host/#a",
            "http://ho st",
            "http://host/v1/chat/completions",
        ];
        let report: Vec<_> = bad.iter().map(|text| format!("{text:?} {}", parse_base_url(text).unwrap_err())).collect();
        insta::assert_snapshot!(report.join("\n"));
    }
}
