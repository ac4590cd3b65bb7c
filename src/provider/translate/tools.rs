//! Tools that a provider runs itself, as they stand in a request.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::format::wire::WireFormat;
use crate::domain::vocabulary::HostedTool;

/// What OpenAI calls a tool: its documents of Responses, `tools`.
const fn usual_name(tool: HostedTool) -> &'static str {
    match tool {
        HostedTool::PythonExecution => "code_interpreter",
        other => other.word(),
    }
}

/// Adds the tools to a request that does not ask for them by itself.
pub(super) fn demand(request: &mut Map<String, Value>, format: WireFormat, tools: &[HostedTool], names: &BTreeMap<HostedTool, String>) {
    if tools.is_empty() {
        return;
    }
    let stated = request.entry("tools").or_insert_with(|| Value::Array(Vec::new()));
    if stated.is_null() {
        *stated = Value::Array(Vec::new());
    }
    // Anything else is the provider's to refuse.
    let Some(stated) = stated.as_array_mut() else { return };
    for tool in tools {
        let name = names.get(tool).map_or(usual_name(*tool), String::as_str);
        if stated.iter().any(|each| each["type"] == name) {
            continue;
        }
        if format == WireFormat::AnthropicMessages {
            // Anthropic's tools have a name besides, which is the same in every version of them.
            stated.push(json!({ "type": name, "name": tool.word() }));
            continue;
        }
        // OpenAI runs code in a container, and wants to be told in which.
        let in_container = format == WireFormat::Responses && *tool == HostedTool::PythonExecution && !names.contains_key(tool);
        stated.push(if in_container { json!({ "type": name, "container": { "type": "auto" } }) } else { json!({ "type": name }) });
    }
}
