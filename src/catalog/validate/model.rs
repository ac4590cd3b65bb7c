//! The check of one model file: its models. Their offerings are checked in [`super::offering`].

use std::ops::Range;

use super::super::model::Model;
use super::super::schema::{ModelFile, WrittenModel};
use super::super::vocabulary::{HostedTool, Modality, Operation};
use super::context::ValidateContext;
use super::offering::{self, Found};
use crate::catalog::validate::shared::{MAX_TOKENS, check_endpoints, check_files};
use crate::domain::endpoint::{Endpoint, Kind};
use crate::domain::row::openai::MAX_MODEL_CHARS;

/// A model and its offerings, which are completed when all providers are known.
pub(super) type FoundModel = (Model, Vec<Found>);

/// Checks a model file. A model is left out if faults leave too little of it.
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
    context.required(&written.endpoints, within, "endpoints", "a list of paths such as `/v1/chat/completions`");
    let endpoints = check_endpoints(context, &written.endpoints).unwrap_or_default();
    let input = context.words(&written.input, "input", Modality::parse, Modality::choices).unwrap_or_default();
    let operations = context.words(&written.operations, "operations", Operation::parse, Operation::choices);
    let model = Model {
        name: context.text(&written.name, "name").or_else(|| id.clone()).unwrap_or_default(),
        aliases,
        family: context.text(&written.family, "family"),
        released: context.date(&written.released, "released"),
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
    // Without an id and an organisation there is a fault already, and further faults could not name
    // the model.
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

/// BatchRouter knows three operations: text, with or without images, is `responses`.
fn derive_operations(endpoints: &[Endpoint], input: &[Modality]) -> Vec<Operation> {
    let writes = endpoints.iter().any(|endpoint| endpoint.kind() == Kind::Text);
    let embeds = endpoints.contains(&Endpoint::Embeddings);
    let sees = writes && input.contains(&Modality::Image);
    let found = [(writes, Operation::Responses), (embeds, Operation::Embeddings), (sees, Operation::Vision)];
    found.into_iter().filter(|(does, _)| *does).map(|(_, operation)| operation).collect()
}
