//! Seeds for a server without any seed yet, made from the server's own list of models.
//!
//! Pure: the caller asks the server and hands over the answer. The list of an OpenAI-compatible
//! server contains little more than names; missing facts are left out of the seed or marked as a
//! guess.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use crate::catalog::archive::Archive;

/// The most models that are taken from one server.
const MAX_MODELS: usize = 10_000;

/// A model as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// The server's name for the model.
    pub id: String,
    pub owned_by: Option<String>,
    /// In seconds since 1970.
    pub created: Option<i64>,
    /// In tokens.
    pub context_window: Option<u64>,
    /// The context window is that of the model's training; the server may have been given less.
    pub is_trained_context: bool,
}

/// The answer is not a list of models.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no list of models in OpenAI's form, `{{\"data\": [{{\"id\": …}}]}}`: {0}")]
pub struct NotAList(String);

/// Reads the answer to `GET /v1/models`.
///
/// # Errors
/// When the answer is not such a list, or the list is empty.
pub fn read_models(body: &[u8]) -> Result<Vec<Discovered>, NotAList> {
    #[derive(Deserialize)]
    struct ServerListing {
        data: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        id: String,
        owned_by: Option<String>,
        created: Option<f64>,
        /// vLLM
        #[serde(default)]
        max_model_len: Value,
        /// Several hosted services.
        #[serde(default)]
        context_length: Value,
        /// llama.cpp
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default)]
        n_ctx: Value,
        #[serde(default)]
        n_ctx_train: Value,
    }
    let listing: ServerListing = serde_json::from_slice(body).map_err(|error| NotAList(error.to_string()))?;
    if listing.data.is_empty() {
        return Err(NotAList("it lists no model".to_owned()));
    }
    if listing.data.len() > MAX_MODELS {
        return Err(NotAList(format!("it lists {} models, more than {MAX_MODELS}", listing.data.len())));
    }
    let discovered = listing.data.into_iter().map(|item| {
        let tokens = |value: &Value| value.as_u64().filter(|tokens| *tokens > 0);
        let of_meta = |member: fn(&Meta) -> &Value| item.meta.as_ref().map(member).and_then(tokens);
        let served = tokens(&item.max_model_len).or_else(|| tokens(&item.context_length)).or_else(|| of_meta(|meta| &meta.n_ctx));
        let trained = of_meta(|meta| &meta.n_ctx_train);
        Discovered {
            context_window: served.or(trained),
            is_trained_context: served.is_none() && trained.is_some(),
            // Whole seconds; some servers send a fraction.
            created: item.created.map(|seconds| seconds as i64).filter(|seconds| *seconds > 0),
            owned_by: item.owned_by.map(|owner| owner.replace(char::is_control, " ")).filter(|owner| !owner.trim().is_empty()),
            id: item.id,
        }
    });
    Ok(discovered.collect())
}

/// Where a discovered server is.
#[derive(Debug, Clone, Copy)]
pub struct SeedPlace<'a> {
    pub base_url: &'a str,
    /// Below `base_url`, unless it is the usual path.
    pub api_path: Option<&'a str>,
    /// The variable with the server's key.
    pub key_env: Option<&'a str>,
}

/// Writes one provider file and one model file, both named `id`. Callers must check them before
/// use.
pub fn write_seeds(id: &str, place: SeedPlace<'_>, models: &[Discovered], today: Date) -> Archive {
    let SeedPlace { base_url, api_path, key_env } = place;
    let mut provider = format!(
        "schema = 1\nid = {}\nname = {}\nkind = \"openai\"\nbase_url = {}\n",
        quote(id),
        quote(base_url.split("://").nth(1).unwrap_or(base_url)),
        quote(base_url)
    );
    // Hosted services speak TLS; what is reached without is in the operator's own network.
    if base_url.starts_with("http://") {
        provider.push_str("local = true\n");
    }
    if let Some(path) = api_path {
        let _ = writeln!(provider, "api_path = {}", quote(path));
    }
    if let Some(variable) = key_env {
        let _ = writeln!(provider, "api_key_env = {}", quote(variable));
    }
    let mut text = format!(
        "# What {base_url} lists, on {today}. `endpoints` are guessed from the names and `released` is what the server states,\n\
         # which may be the time of its own start: check both. Prices are not known to it; add them if there are any.\n\nschema = 1\n"
    );
    let mut seen = HashSet::new();
    for model in models {
        match unique(&mut seen, model) {
            Some(slug) => write_model(&mut text, id, &slug, model),
            // Debug form: it stays on one line whatever the name holds, so it stays a comment.
            None => _ = writeln!(text, "\n# left out, because its name cannot be made unique: {:?}", model.id),
        }
    }
    Archive(vec![(format!("providers/{id}.toml"), provider), (format!("models/{id}.toml"), text)])
}

/// The server's names for those of its models that seeds can have.
pub(super) fn listed_ids(models: &[Discovered]) -> BTreeSet<&str> {
    let mut seen = HashSet::new();
    models.iter().filter(|model| unique(&mut seen, model).is_some()).map(|model| model.id.as_str()).collect()
}

/// A name for the model that none of those seen before has.
fn unique(seen: &mut HashSet<String>, model: &Discovered) -> Option<String> {
    let slug = model_id(&model.id);
    (!slug.is_empty() && seen.insert(slug.clone())).then_some(slug)
}

fn write_model(text: &mut String, provider: &str, slug: &str, model: &Discovered) {
    let released = model.created.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let embeds = slug.to_ascii_lowercase().contains("embed");
    let endpoints = if embeds { "[\"/v1/embeddings\"]" } else { "[\"/v1/chat/completions\", \"/v1/completions\"]" };
    let (owner, doubt) = match &model.owned_by {
        Some(owner) => (owner.as_str(), ""),
        None => (provider, "   # not stated; the provider's id"),
    };
    let _ = write!(text, "\n[[model]]\nid = {}\norganisation = {}{doubt}\n", quote(slug), quote(owner));
    if let Some(at) = released {
        let _ = writeln!(text, "released = {}", at.to_zoned(TimeZone::UTC).date());
    }
    let _ = writeln!(text, "endpoints = {endpoints}");
    if let Some(tokens) = model.context_window {
        let note = if model.is_trained_context { "   # of its training; the server may have been given less" } else { "" };
        let _ = writeln!(text, "context_window = {tokens}{note}");
    }
    let _ = writeln!(text, "[[model.offering]]\nprovider = {}", quote(provider));
    if model.id != slug {
        let _ = writeln!(text, "upstream = {}", quote(&model.id));
    }
}

/// A name that the catalog accepts: without the folder and the ending of a weights file, and with
/// every other character replaced by a dash.
pub(super) fn model_id(name: &str) -> String {
    let bare = match name.strip_suffix(".gguf") {
        Some(path) => path.rsplit(['/', '\\']).next().unwrap_or(path),
        None => name,
    };
    let kept = bare.chars().map(|c| if c.is_ascii_alphanumeric() || "._:/-".contains(c) { c } else { '-' });
    let slug: String = kept.skip_while(|c| !c.is_ascii_alphanumeric()).collect();
    slug.chars().take(crate::domain::row::openai::MAX_MODEL_CHARS).collect()
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::seeds::load_archive;
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    #[test]
    fn a_servers_list_becomes_seeds_that_pass_the_check() {
        let list = br#"{"object":"list","data":[
            {"id":"Qwen/Qwen3-8B","object":"model","created":1764000000,"owned_by":"vllm","max_model_len":40960},
            {"id":"/models/llama 3.gguf","created":1764000000.5,"owned_by":"llamacpp","meta":{"n_ctx":8192,"n_ctx_train":131072}},
            {"id":"older.gguf","created":1764000000,"owned_by":"llamacpp","meta":{"n_ctx_train":4096}},
            {"id":"nomic-embed-text:latest","owned_by":" "},
            {"id":"llama-3"}]}"#;
        let place = SeedPlace { base_url: "http://gpu:8000", api_path: Some(""), key_env: Some("BOX_KEY") };
        let archive = write_seeds("box", place, &read_models(list).unwrap(), date(2026, 11, 24));
        insta::assert_snapshot!(archive.0.iter().map(|(file, text)| format!("--- {file}\n{text}")).collect::<String>());
        load_archive(archive).unwrap_or_else(|faults| panic!("{faults}"));
    }

    #[test]
    fn what_is_no_list_says_so() {
        for bad in [&b"<html>"[..], b"{}", b"{\"data\":[]}", b"{\"data\":[{\"name\":\"x\"}]}"] {
            assert!(read_models(bad).unwrap_err().to_string().starts_with("the answer is no list of models"));
        }
    }

    proptest! {
        #[test]
        fn any_names_make_seeds_that_pass_the_check(names in proptest::collection::vec("(?s).{1,40}", 1..8)) {
            let models: Vec<_> = names.into_iter().map(|id| Discovered { id, owned_by: None, created: None, context_window: None, is_trained_context: false }).collect();
            let place = SeedPlace { base_url: "http://gpu:8000", api_path: None, key_env: None };
            let archive = write_seeds("box", place, &models, date(2026, 11, 24));
            if archive.0[1].1.contains("[[model]]") {
                load_archive(archive).unwrap_or_else(|faults| panic!("{faults}"));
            }
        }
    }
}
