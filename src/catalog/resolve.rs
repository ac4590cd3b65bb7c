//! Why no provider serves a model, in words for the client who asked for it.

use super::model::Model;
use crate::domain::endpoint::Endpoint;
use crate::domain::suggest::{did_you_mean, nearest};

/// No provider serves the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The catalog has no such name, and there is no catch-all.
    #[error("the model `{model}` is not known here; {}", hint(suggestions))]
    UnknownModel {
        model: String,
        /// At most three names of models that can be used, the nearest first.
        suggestions: Vec<String>,
    },
    /// The catalog knows the model, but none of its providers can be used.
    #[error("the model `{model}` is known, but no provider of it can be used here{}", remedies(providers))]
    NoUsableOffering {
        model: String,
        /// Ids of the model's providers, each with a remedy such as `set BATCHD_OPENAI_API_KEY`.
        providers: Vec<(String, String)>,
    },
    /// The model can be used, but not for this operation.
    #[error("the model `{model}` does not serve `{asked}`; {}", instead(served))]
    NotServed {
        model: String,
        asked: Endpoint,
        /// None if that is not known.
        served: Vec<Endpoint>,
    },
}

fn hint(suggestions: &[String]) -> String {
    did_you_mean(suggestions).unwrap_or_else(|| "`GET /v1/models` lists the models that can be used".to_owned())
}

fn instead(served: &[Endpoint]) -> String {
    if served.is_empty() {
        return "none of its providers lists the path in `pass_through`".to_owned();
    }
    format!("it serves {}", Endpoint::choices(served))
}

fn remedies(providers: &[(String, String)]) -> String {
    if providers.is_empty() {
        return ": none is listed for it".to_owned();
    }
    let each: Vec<_> = providers.iter().map(|(provider, remedy)| format!("{provider} ({remedy})")).collect();
    format!(": {}", each.join(", "))
}

/// The ids of the models whose id or alias is nearest to `asked`.
pub(super) fn suggestions<'a>(asked: &str, models: impl Iterator<Item = &'a Model>) -> Vec<String> {
    nearest(asked, models.map(|model| (model.aliases.iter().chain([&model.id]).map(String::as_str), model.id.clone())))
}
