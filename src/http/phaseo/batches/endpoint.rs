//! The endpoint of a batch, in any of the spellings that Phaseo's server takes.

use crate::domain::endpoint::Endpoint;

/// What a batch of this dialect can be for: what its quotes can price.
pub const QUOTABLE: [Endpoint; 3] = [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings];

/// The endpoint that a text names: a URL or a path, with or without `/v1`, in any case. The bare form without
/// a slash, which stands in a sample of its documents, is taken as well.
pub fn named(text: &str) -> Option<Endpoint> {
    let text = text.trim();
    let path = text.split_once("://").map_or(text, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    let path = path.split(['?', '#']).next().unwrap_or(path).trim_matches('/').to_ascii_lowercase();
    let path = path.strip_prefix("v1/").unwrap_or(&path);
    Endpoint::ALL.into_iter().find(|endpoint| endpoint.tail().trim_start_matches('/') == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_endpoint() {
        for text in ["/v1/responses", "/responses", "/v1/responses/", "HTTPS://host/v1/Responses?x=1", "responses", " /v1/RESPONSES#a "] {
            assert_eq!(named(text), Some(Endpoint::Responses), "{text}");
        }
        for text in ["", "/", "https://host", "/v2/responses", "/v1/responses/x", "://", "/v1"] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
