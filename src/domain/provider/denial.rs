//! What a provider says to every request of a lane, whatever the request asks: no such key, no
//! credit, no such model. Read from the answer once, by status and by the provider's own words.
//!
//! A denial is a fault that the operator mends, not the row. What follows is decided elsewhere
//! (`executor/lane/denials.rs`). Anything that is said of the request itself is no denial.
//!
//! The words are those of the providers' documentation of errors, as of November 2026: OpenAI, Azure,
//! Anthropic, Gemini, Groq, Mistral, DeepSeek, xAI, Together, Fireworks, OpenRouter, and of vLLM,
//! llama.cpp, Ollama and LiteLLM.

use serde_json::{Map, Value};

/// Why a provider takes no request of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The key is missing, wrong, or was withdrawn.
    Key,
    /// The key may not use this, or not from here.
    Access,
    /// The account has no money left, or has used up what it may spend.
    Credit,
    /// The account was closed or suspended.
    Account,
    /// The provider has no such model, or not for this key.
    Model,
    /// The server has no such path: another base URL, or an API that it does not have.
    Path,
}

impl Denial {
    /// The stable code: in attempts, in the reasons why rows wait, in metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Key => "key_refused",
            Self::Access => "access_denied",
            Self::Credit => "no_credit",
            Self::Account => "account_closed",
            Self::Model => "model_unknown",
            Self::Path => "path_unknown",
        }
    }

    /// What the operator can do about it, as the end of a sentence.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Key => "set the key that the provider gave you",
            Self::Access => "use a key that may use this model, or another provider",
            Self::Credit => "add credit to the account or raise its limit",
            Self::Account => "use the key of an account that is open",
            Self::Model => "name a model that the provider has, in the rows or as the offering's `upstream_model`",
            Self::Path => "check the base URL and whether the server has this endpoint",
        }
    }
}

/// The members of an answer that say what went wrong, in the forms in use.
#[derive(Debug, Default)]
struct Said {
    /// Codes, types and statuses, in lower case.
    codes: Vec<String>,
    /// The message, in lower case.
    message: String,
    /// The member of the request that is at fault.
    param: Option<String>,
}

/// The most bytes of an answer that are read; a longer one is not an error but a page.
const READ: usize = 64 << 10;

impl Said {
    /// Reads an answer that is a JSON object.
    fn read(body: &[u8]) -> Option<Self> {
        let Value::Object(own) = serde_json::from_slice(body.get(..READ.min(body.len()))?).ok()? else { return None };
        let mut said = Self::default();
        match own.get("error") {
            Some(Value::Object(error)) => said.add(error),
            Some(Value::String(text)) => said.message.push_str(&text.to_lowercase()),
            Some(_) | None => {}
        }
        said.add(&own);
        Some(said)
    }

    fn add(&mut self, member: &Map<String, Value>) {
        let text = |name: &str| member.get(name).and_then(Value::as_str);
        let details = member.get("details").and_then(Value::as_array).into_iter().flatten();
        let reasons = details.filter_map(|each| each["reason"].as_str());
        self.codes.extend(["code", "type", "status"].into_iter().filter_map(text).chain(reasons).map(str::to_lowercase));
        for name in ["message", "detail"] {
            // Some servers nest the message.
            let nested = || member.get(name).and_then(|nested| nested["message"].as_str().or_else(|| nested["error"].as_str()));
            self.message.push_str(&text(name).or_else(nested).unwrap_or_default().to_lowercase());
            self.message.push(' ');
        }
        if let Some(param) = text("param").filter(|param| !param.is_empty()) {
            self.param = Some(param.to_owned());
        }
    }

    fn has_code(&self, parts: &[&str]) -> bool {
        self.codes.iter().any(|code| parts.iter().any(|part| code.contains(part)))
    }

    fn says(&self, parts: &[&str]) -> bool {
        parts.iter().any(|part| self.message.contains(part))
    }

    /// Whether the request's content is what was refused.
    fn is_of_content(&self) -> bool {
        const WORDS: [&str; 8] =
            ["content_filter", "content_policy", "policy_violation", "moderation", "flagged", "safety", "harm", "recitation"];
        self.has_code(&WORDS) || self.says(&WORDS) || self.says(&["content policy", "usage policies", "usage policy"])
    }
}

const CREDIT_CODES: [&str; 9] = [
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "billing_error",
    "insufficient_credit",
    "insufficient_balance",
    "credit_limit",
    "payment_required",
    "budget_exceeded",
];
const CREDIT_WORDS: [&str; 8] = [
    "insufficient balance",
    "insufficient credit",
    "credit balance is too low",
    "billing hard limit",
    "budget has been exceeded",
    "doesn't have any credits",
    "have no credits",
    "enable billing",
];
const KEY_CODES: [&str; 6] =
    ["invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication", "invalid_organization", "unauthenticated"];
const KEY_WORDS: [&str; 4] = ["api key not valid", "incorrect api key", "invalid api key", "api key expired"];
const ACCOUNT_CODES: [&str; 4] = ["account_deactivated", "account_suspended", "account_disabled", "organization_deactivated"];
const ACCOUNT_WORDS: [&str; 4] = ["account is deactivated", "account has been deactivated", "account suspended", "account is suspended"];
const MODEL_CODES: [&str; 7] = [
    "model_not_found",
    "invalid_model",
    "model_not_available",
    "model_decommissioned",
    "model_not_exist",
    "deploymentnotfound",
    "model_deprecated",
];
/// What is said of a model in the same breath as `model`.
const MODEL_WORDS: [&str; 14] = [
    "does not exist",
    "not exist",
    "not found",
    "not a valid model",
    "invalid model",
    "unknown model",
    "no such model",
    "not available",
    "decommissioned",
    "deprecated and",
    "no endpoints found",
    "is not supported for api version",
    "not deployed",
    "does not have access",
];
/// How a server says that it has no such path, as the whole of the message.
const PATH_WORDS: [&str; 7] = [
    "not found",
    "file not found",
    "404 page not found",
    "resource not found",
    "the requested url was not found",
    "no route matched",
    "404",
];
const PATH_STARTS: [&str; 4] = ["invalid url (", "unknown request url", "cannot post /", "no route for"];
/// How a server says that it speaks TLS on this port: the base URL is wrong.
const TLS_WORDS: [&str; 2] = ["plain http request was sent to https port", "sent an http request to an https server"];

/// Reads a denial from an answer that is not 2xx; `None` if the answer may be due to the request.
pub fn denial_of(status: u16, body: &[u8]) -> Option<Denial> {
    if !matches!(status, 400..=404 | 405 | 412 | 429) {
        return None;
    }
    let Some(said) = Said::read(body) else {
        return of_page(status, body);
    };
    let is_credit = said.has_code(&CREDIT_CODES) || (status != 429 && said.says(&CREDIT_WORDS));
    let is_account = said.has_code(&ACCOUNT_CODES) || said.says(&ACCOUNT_WORDS);
    match status {
        _ if said.is_of_content() => None,
        _ if is_account => Some(Denial::Account),
        _ if is_credit || status == 402 => Some(Denial::Credit),
        429 => None,
        401 => Some(Denial::Key),
        400 | 403 if said.has_code(&KEY_CODES) || said.says(&KEY_WORDS) => Some(Denial::Key),
        400 | 403 | 404 if is_of_model(&said) => Some(Denial::Model),
        403 => said.param.is_none().then_some(Denial::Access),
        404 | 405 if is_of_path(&said) => Some(Denial::Path),
        _ => None,
    }
}

fn is_of_model(said: &Said) -> bool {
    let is_other = said.param.as_deref().is_some_and(|param| param != "model");
    let names_model = said.message.contains("model") || said.message.contains("deployment") || said.message.contains("no endpoints found");
    said.has_code(&MODEL_CODES) || (!is_other && names_model && said.says(&MODEL_WORDS) && !said.says(&["file ", "previous response"]))
        // Anthropic names the model and nothing else: "model: claude-x".
        || (said.has_code(&["not_found_error"]) && said.message.trim_start().starts_with("model:"))
}

fn is_of_path(said: &Said) -> bool {
    let message = said.message.trim().trim_end_matches('.');
    said.param.is_none()
        && (message.is_empty() || PATH_WORDS.contains(&message) || PATH_STARTS.iter().any(|start| message.starts_with(start)))
}

/// An answer that is no JSON object: a page of the server, or of what stands before it.
fn of_page(status: u16, body: &[u8]) -> Option<Denial> {
    match status {
        401 => Some(Denial::Key),
        402 => Some(Denial::Credit),
        403 => Some(Denial::Access),
        404 | 405 => Some(Denial::Path),
        400 => {
            // Some servers answer with a bare text.
            let text = String::from_utf8_lossy(body.get(..512.min(body.len())).unwrap_or_default()).to_lowercase();
            let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
            let is_tls = says(&TLS_WORDS).then_some(Denial::Path);
            is_tls.or_else(|| says(&KEY_WORDS).then_some(Denial::Key))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_provider_is_understood_in_its_own_words() {
        let table = [
            (
                401,
                r#"{"error":{"message":"Incorrect API key provided: sk-x.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
            ),
            (401, "<html><h1>401 Authorization Required</h1></html>"),
            (401, ""),
            (401, r#"{"error":{"message":"Your account has been deactivated","code":"account_deactivated"}}"#),
            (
                400,
                r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#,
            ),
            (400, r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***."}"#),
            (
                403,
                r#"{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null}}"#,
            ),
            (403, r#"{"type":"error","error":{"type":"permission_error","message":"Your API key does not have permission"}}"#),
            (
                403,
                r#"{"error":{"message":"Your chosen model requires moderation and your input was flagged for \"violence\"","code":403}}"#,
            ),
            (403, r#"{"error":{"message":"You may not use this file","param":"file_id","code":null}}"#),
            (402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#),
            (429, r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#),
            (429, r#"{"error":{"message":"Rate limit reached for gpt-5","type":"tokens","code":"rate_limit_exceeded"}}"#),
            (
                429,
                r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED"}}"#,
            ),
            (400, r#"{"error":{"message":"Billing hard limit has been reached","code":"billing_hard_limit_reached"}}"#),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
            ),
            (
                400,
                r#"{"error":{"message":"Budget has been exceeded! Current cost: 1.1, Max budget: 1.0","type":"budget_exceeded","param":null,"code":"400"}}"#,
            ),
            (
                404,
                r#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            ),
            (404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}"#),
            (404, r#"{"error":{"code":404,"message":"models/gemini-9 is not found for API version v1beta","status":"NOT_FOUND"}}"#),
            (404, r#"{"error":{"message":"No endpoints found for foo/bar.","code":404}}"#),
            (404, r#"{"error":{"message":"model \"llama9\" not found, try pulling it first","type":"api_error"}}"#),
            (404, r#"{"object":"error","message":"The model `m` does not exist.","type":"NotFoundError","param":null,"code":404}"#),
            (400, r#"{"error":{"message":"foo is not a valid model ID","code":400}}"#),
            (400, r#"{"object":"error","message":"Invalid model: mistral-9","type":"invalid_model","param":null,"code":"1500"}"#),
            (400, r#"{"error":{"message":"The model `x` has been decommissioned","code":"model_decommissioned"}}"#),
            (400, r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models`","code":"400"}}"#),
            (404, r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#),
            (404, r#"{"detail":"Not Found"}"#),
            (404, "404 page not found"),
            (404, r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#),
            (404, r#"{"error":{"message":"Invalid URL (POST /v1/foo)","type":"invalid_request_error","param":null,"code":null}}"#),
            (
                404,
                r#"{"error":{"message":"Previous response with id 'resp_x' not found.","param":"previous_response_id","code":"previous_response_not_found"}}"#,
            ),
            (404, r#"{"error":{"message":"No such File object: file-x","param":"id","code":null}}"#),
            (400, r#"{"error":{"message":"Invalid schema","param":"response_format","code":null}}"#),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 8192 tokens","param":"messages","code":"context_length_exceeded"}}"#,
            ),
            (
                400,
                r#"{"error":{"message":"Unsupported parameter: 'temperature' is not supported with this model.","param":"temperature","code":"unsupported_parameter"}}"#,
            ),
            (400, "Client sent an HTTP request to an HTTPS server.\n"),
            (400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"),
            (413, "too large"),
            (500, r#"{"error":{"code":"model_not_found"}}"#),
        ];
        let lines = table.map(|(status, body)| {
            let denial = denial_of(status, body.as_bytes()).map_or("-", Denial::code);
            format!("{denial:15} {status} {body}")
        });
        insta::assert_snapshot!(lines.join("\n"));
    }

    proptest! {
        #[test]
        fn any_answer_is_read(status in 100u16..600, body: Vec<u8>, text in "\\PC{0,40}") {
            let _ = denial_of(status, &body);
            let _ = denial_of(status, format!("{{\"error\":{{\"message\":{text:?},\"code\":[1]}},\"param\":{{}}}}").as_bytes());
        }
    }
}
