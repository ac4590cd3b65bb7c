//! Why no provider serves a model, in words for the client who asked for it.

use super::model::Model;

/// Names suggested in place of an unknown one.
const MAX_SUGGESTIONS: usize = 3;
/// From 0 (nothing in common) to 1 (the same), how near a name must be to be suggested.
const NEAR: f64 = 0.6;

/// Nobody serves the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The catalog has no such name, and there is no catch-all.
    #[error("the model `{model}` is not known here; {}", did_you_mean(suggestions))]
    UnknownModel {
        model: String,
        /// At most three names of models that can be used, the nearest first.
        suggestions: Vec<String>,
    },
    /// The catalog knows it, but none of its providers can be used.
    #[error("the model `{model}` is known, but no provider of it can be used here{}", remedies(providers))]
    NoUsableOffering {
        model: String,
        /// Ids of its providers with what would help, such as `set BATCHD_OPENAI_API_KEY`.
        providers: Vec<(String, String)>,
    },
}

fn did_you_mean(suggestions: &[String]) -> String {
    match suggestions {
        [] => "`GET /v1/models` lists the models that can be used".to_owned(),
        [only] => format!("did you mean `{only}`?"),
        [first @ .., last] => format!("did you mean `{}` or `{last}`?", first.join("`, `")),
    }
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
    let asked = asked.to_lowercase();
    let nearness = |name: &String| strsim::normalized_damerau_levenshtein(&asked, &name.to_lowercase());
    let best = |model: &Model| model.aliases.iter().chain([&model.id]).map(nearness).fold(0.0, f64::max);
    let mut near: Vec<_> = models.map(|model| (best(model), &model.id)).filter(|(near, _)| *near >= NEAR).collect();
    // The sort is stable: equally near names stay in the order of the seeds.
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(MAX_SUGGESTIONS).map(|(_, id)| id.clone()).collect()
}
