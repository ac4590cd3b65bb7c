//! Tools that a provider runs itself, as they appear in a request.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::format::wire::WireFormat;
use crate::domain::vocabulary::HostedTool;

/// OpenAI's name for a tool, from its documentation of Responses, `tools`.
const fn usual_name(tool: HostedTool) -> &'static str {
    match tool {
        HostedTool::PythonExecution => "code_interpreter",
        other => other.word(),
    }
}

/// Adds the tools to a request that does not ask for them itself.
pub(super) fn demand(request: &mut Map<String, Value>, format: WireFormat, tools: &[HostedTool], names: &BTreeMap<HostedTool, String>) {
    if tools.is_empty() {
        return;
    }
    let stated = request.entry("tools").or_insert_with(|| Value::Array(Vec::new()));
    if stated.is_null() {
        *stated = Value::Array(Vec::new());
    }
    // Any other value is left for the provider to refuse.
    let Some(stated) = stated.as_array_mut() else { return };
    for tool in tools {
        let name = names.get(tool).map_or(usual_name(*tool), String::as_str);
        if stated.iter().any(|each| each["type"] == name) {
            continue;
        }
        if format == WireFormat::AnthropicMessages {
            // Anthropic's tools also have a name, which is the same in every version of a tool.
            stated.push(json!({ "type": name, "name": tool.word() }));
            continue;
        }
        // OpenAI runs code in a container, and the request must say in which.
        let in_container = format == WireFormat::Responses && *tool == HostedTool::PythonExecution && !names.contains_key(tool);
        stated.push(if in_container { json!({ "type": name, "container": { "type": "auto" } }) } else { json!({ "type": name }) });
    }
}
