//! Parts of a row that have a price of their own which is not counted here, such as audio.

use serde_json::{Map, Value};

/// Members whose price differs from that of text tokens and is not counted here. This is the
/// server's list, without the members that are counted.
const UNCOUNTED: [&str; 9] =
    ["audio", "cache_control", "cachecontrol", "input_audio", "input_video", "modalities", "video", "video_url", "web_search_options"];
/// Members that hold schemas: the names in them mean nothing.
const SCHEMAS: [&str; 3] = ["parameters", "input_schema", "schema"];

/// The first part of a row whose price is not counted, for a message.
pub fn uncounted(members: &Map<String, Value>) -> Option<String> {
    members.iter().find_map(|(name, value)| match name.as_str() {
        _ if value.is_null() => None,
        "modalities" if *value == serde_json::json!(["text"]) => None,
        "tools" => {
            let mut kinds = value.as_array().into_iter().flatten().filter_map(|tool| tool.get("type")?.as_str());
            kinds.find(|kind| !matches!(*kind, "function" | "custom")).map(|kind| format!("`tools` of the type `{kind}`"))
        }
        name if SCHEMAS.contains(&name) => None,
        name if UNCOUNTED.contains(&name) => Some(format!("`{name}`")),
        _ => uncounted_in(value),
    })
}

fn uncounted_in(value: &Value) -> Option<String> {
    match value {
        Value::Object(members) => uncounted(members),
        Value::Array(values) => values.iter().find_map(uncounted_in),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_a_price_of_its_own_is_found_wherever_it_is() {
        let text = json!({"type": "text", "text": "audio", "cache_control": {"type": "ephemeral"}});
        for (body, found) in [
            (json!({"system": [text]}), Some("`cache_control`")),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}), Some("`input_audio`")),
            (json!({"modalities": ["text", "audio"]}), Some("`modalities`")),
            (json!({"tools": [{"type": "function"}, {"type": "web_search"}]}), Some("`tools` of the type `web_search`")),
            (json!({"modalities": ["text"], "audio": null, "tools": [{"name": "x", "input_schema": {"audio": {}}}]}), None),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}), None),
        ] {
            assert_eq!(uncounted_in(&body).as_deref(), found, "{body}");
        }
    }
}
