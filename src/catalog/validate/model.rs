//! One model file: the models. What serves them is checked in [`super::offering`].

use std::ops::Range;

use toml::Spanned;

use super::super::model::{Files, Model};
use super::super::schema::{Field, ListField, ModelFile, WrittenFiles, WrittenModel};
use super::super::vocabulary::{HostedTool, Modality, Operation};
use super::context::ValidateContext;
use super::offering::{self, Found};
use crate::domain::endpoint::Endpoint;
use crate::domain::row::openai::MAX_MODEL_CHARS;

/// The largest number of tokens that a context may hold; far beyond any, it catches slips.
pub(super) const MAX_TOKENS: i64 = 1_000_000_000;
/// The largest file that a model may be said to read, in bytes.
const MAX_FILE_BYTES: i64 = 1 << 40;

/// A model and its offerings, which are completed when all providers are known.
pub(super) type FoundModel = (Model, Vec<Found>);

/// Checks a model file. Models that a fault left too little of are left out.
pub(super) fn check(context: &mut ValidateContext<'_>, file: &ModelFile) -> Vec<FoundModel> {
    context.schema(&file.schema);
    if file.model.is_empty() && context.whole {
        context.fault(0..0, "there is no `[[model]]` in the file; write at least one or remove the file");
    }
    file.model.iter().filter_map(|written| check_model(context, written.get_ref(), written.span())).collect()
}

fn check_model(context: &mut ValidateContext<'_>, written: &WrittenModel, within: Range<usize>) -> Option<FoundModel> {
    context.required(&written.id, within.clone(), "id", "the model's canonical name");
    let id = context.parse(&written.id, "id", |id| check_name(id));
    let aliases = written.aliases.iter().filter_map(|alias| context.parse_value(alias, "aliases", |name| check_name(name))).collect();
    context.required(&written.organisation, within.clone(), "organisation", "who made the model");
    let organisation = context.text(&written.organisation, "organisation");
    context.required(&written.endpoints, within.clone(), "endpoints", "a list of paths such as `/v1/chat/completions`");
    let endpoints = check_endpoints(context, &written.endpoints).unwrap_or_default();
    context.required(&written.released, within, "released", "the day the model was released, such as 2025-08-07");
    let released = context.date(&written.released, "released");
    let input = context.words(&written.input, "input", Modality::parse, Modality::choices).unwrap_or_default();
    let operations = context.words(&written.operations, "operations", Operation::parse, Operation::choices);
    let model = Model {
        name: context.text(&written.name, "name").or_else(|| id.clone()).unwrap_or_default(),
        aliases,
        family: context.text(&written.family, "family"),
        released,
        deprecated: context.date(&written.deprecated, "deprecated"),
        retired: context.date(&written.retired, "retired"),
        operations: operations.unwrap_or_else(|| derive_operations(&endpoints, &input)),
        endpoints,
        input,
        output: context.words(&written.output, "output", Modality::parse, Modality::choices).unwrap_or_default(),
        context_window: context.number(&written.context_window, "context_window", 1..=MAX_TOKENS),
        max_input_tokens: context.number(&written.max_input_tokens, "max_input_tokens", 1..=MAX_TOKENS),
        max_output_tokens: context.number(&written.max_output_tokens, "max_output_tokens", 1..=MAX_TOKENS),
        files: check_files(context, &written.files),
        hosted_tools: context.words(&written.hosted_tools, "hosted_tools", HostedTool::parse, HostedTool::choices).unwrap_or_default(),
        evidence: context.evidence(&written.source, &written.verified_at, ""),
        ..Model::unknown(&id.clone().unwrap_or_default(), &organisation.clone().unwrap_or_default())
    };
    let offerings = written.offering.iter().filter_map(|each| offering::check(context, each, &model)).collect();
    // Without these there is a fault, and without these it cannot be spoken of.
    (id.is_some() && organisation.is_some()).then_some((model, offerings))
}

/// Names as vendors write them: `gpt-4o`, `meta-llama/Llama-3.3-70B-Instruct`, `qwen3:8b`.
fn check_name(name: &str) -> Result<String, String> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte));
    if first && rest && name.len() <= MAX_MODEL_CHARS {
        return Ok(name.to_owned());
    }
    Err(format!("must be at most {MAX_MODEL_CHARS} of A-Z, a-z, 0-9, `.`, `_`, `:`, `/` and `-`, and start with a letter or digit"))
}

pub(super) fn check_endpoints(context: &mut ValidateContext<'_>, field: &ListField<String>) -> Option<Vec<Endpoint>> {
    if let Some(list) = field.as_ref().filter(|list: &&Spanned<Vec<_>>| list.get_ref().is_empty()) {
        context.fault(list.span(), format!("`endpoints` is empty; it must hold at least one of {}", Endpoint::choices(&Endpoint::ALL)));
    }
    context.list(field, "endpoints", |path| {
        path.parse::<Endpoint>().map_err(|_| format!("must be one of {}", Endpoint::choices(&Endpoint::ALL)))
    })
}

/// BatchRouter knows three operations: text, with or without images, is `responses`.
fn derive_operations(endpoints: &[Endpoint], input: &[Modality]) -> Vec<Operation> {
    let writes = endpoints.iter().any(|endpoint| match endpoint {
        Endpoint::Responses | Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::Completions => true,
        Endpoint::Embeddings | Endpoint::Moderations | Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::Videos => false,
    });
    let embeds = endpoints.contains(&Endpoint::Embeddings);
    let sees = writes && input.contains(&Modality::Image);
    let found = [(writes, Operation::Responses), (embeds, Operation::Embeddings), (sees, Operation::Vision)];
    found.into_iter().filter(|(does, _)| *does).map(|(_, operation)| operation).collect()
}

pub(super) fn check_files(context: &mut ValidateContext<'_>, field: &Field<WrittenFiles>) -> Option<Files> {
    let (written, within) = field.as_ref().map(|written| (written.get_ref(), written.span()))?;
    context.required(&written.types, within.clone(), "files.types", "a list of MIME types such as `image/png`");
    let types = context.list(&written.types, "files.types", check_mime).unwrap_or_default();
    if types.is_empty() && written.types.as_ref().is_some_and(|list| list.get_ref().is_empty()) {
        context.fault(within, "`files.types` is empty; leave `files` out if the model reads none");
    }
    let max_bytes = context.number(&written.max_bytes, "files.max_bytes", 1..=MAX_FILE_BYTES);
    (!types.is_empty()).then_some(Files { types, max_bytes })
}

fn check_mime(text: &str) -> Result<String, &'static str> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".*+-".contains(&b));
    match text.split_once('/') {
        Some((kind, sub)) if plain(kind) && plain(sub) && !kind.contains('*') && text.len() <= 128 => Ok(text.to_owned()),
        Some(_) | None => Err("must be a MIME type in lower case, such as `image/png` or `image/*`"),
    }
}
