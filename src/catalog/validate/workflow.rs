//! The check of one workflow file.

use super::super::schema::{Field, WorkflowFile, WrittenArtifact, WrittenItem, WrittenRouting};
use super::super::vocabulary::{HostedTool, Operation, slug};
use super::super::workflow::{Artifact, ItemTemplate, Workflow};
use super::context::ValidateContext;
use crate::domain::quote::constraints::{Constraints, RoutingMode, SlaTier};

/// Checks a workflow file. `known` returns whether a model name exists. `None` if faults leave too
/// little of the file.
pub(super) fn check(context: &mut ValidateContext<'_>, file: &WorkflowFile, known: &dyn Fn(&str) -> bool) -> Option<Workflow> {
    context.schema(&file.schema);
    let stem = context.source.stem().to_owned();
    context.required(&file.slug, 0..0, "slug", &format!("the file's name, {stem:?}"));
    let slug = context.parse(&file.slug, "slug", |text| match slug(text)? {
        text if text == stem => Ok(text),
        _ => Err(format!("must be the file's name, {stem:?}")),
    });
    context.required(&file.version, 0..0, "version", "1, or more after a change");
    let version = context.number(&file.version, "version", 1..=1_000_000);
    context.required(&file.name, 0..0, "name", "the workflow's name for people");
    let name = context.text(&file.name, "name");
    context.required(&file.description, 0..0, "description", "a sentence about what it does");
    let description = context.text(&file.description, "description");
    let operation = context.word(&file.operation, "operation", Operation::parse, Operation::choices);
    context.required(&file.models, 0..0, "models", "models of the catalog that may serve it");
    let models = context.list(&file.models, "models", |name| match known(name) {
        true => Ok(name.to_owned()),
        false => Err("must be the name of a model of this catalog"),
    });
    let constraints = file.routing.as_ref().map_or_else(Constraints::default, |written| routing(context, written.get_ref()));
    context.required(&file.item, 0..0, "item", "a table that says what each item is asked");
    let item = file.item.as_ref().and_then(|written| item(context, written.get_ref(), written.span()));
    context.required(&file.artifact, 0..0, "artifact", "a table that says what comes out");
    let artifact = file.artifact.as_ref().and_then(|written| artifact(context, written.get_ref(), written.span()));
    Some(Workflow {
        slug: slug?,
        version: u32::try_from(version?).ok()?,
        name: name?,
        description: description?,
        operation: operation.unwrap_or(Operation::Responses),
        models: models.filter(|models| !models.is_empty())?,
        constraints,
        item: item?,
        artifact: artifact?,
    })
}

fn routing(context: &mut ValidateContext<'_>, written: &WrittenRouting) -> Constraints {
    let default = Constraints::default();
    Constraints {
        mode: context.word(&written.routing_mode, "routing.routing_mode", RoutingMode::parse, RoutingMode::choices).unwrap_or(default.mode),
        tier: context.word(&written.sla_tier, "routing.sla_tier", SlaTier::parse, SlaTier::choices).unwrap_or(default.tier),
        privacy_tier: context.parse(&written.privacy_tier, "routing.privacy_tier", |text| slug(text)).unwrap_or(default.privacy_tier),
        regions: context.list(&written.allowed_regions, "routing.allowed_regions", slug).unwrap_or_default(),
        tools: context.words(&written.required_tools, "routing.required_tools", HostedTool::parse, HostedTool::choices).unwrap_or_default(),
        ..Constraints::default()
    }
}

fn item(context: &mut ValidateContext<'_>, written: &WrittenItem, within: std::ops::Range<usize>) -> Option<ItemTemplate> {
    context.required(&written.prompt, within, "item.prompt", "what each item says, with `{{name}}` where the client puts something in");
    let prompt = long_text(context, &written.prompt, "item.prompt");
    let instructions = long_text(context, &written.instructions, "item.instructions");
    let max_output_tokens = context.number(&written.max_output_tokens, "item.max_output_tokens", 1..=10_000_000);
    let temperature = context.parse(&written.temperature, "item.temperature", |temperature| {
        if (0.0..=2.0).contains(temperature) { Ok(*temperature) } else { Err("must be from 0.0 to 2.0") }
    });
    Some(ItemTemplate { instructions, prompt: prompt?, max_output_tokens, temperature })
}

/// A text that may have several lines.
fn long_text(context: &mut ValidateContext<'_>, field: &Field<String>, name: &str) -> Option<String> {
    context.parse(field, name, |text| if text.trim().is_empty() { Err("must not be blank") } else { Ok(text.to_owned()) })
}

fn artifact(context: &mut ValidateContext<'_>, written: &WrittenArtifact, within: std::ops::Range<usize>) -> Option<Artifact> {
    context.required(&written.description, within, "artifact.description", "a sentence about each row");
    let description = context.text(&written.description, "artifact.description");
    let fields = written.fields.iter().map(|(name, meaning)| (name.get_ref().clone(), meaning.get_ref().clone()));
    let fields = fields.collect();
    Some(Artifact { description: description?, fields })
}
