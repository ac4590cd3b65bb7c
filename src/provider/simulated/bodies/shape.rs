//! A value that fits a JSON Schema, simply: what a schema may say beyond the shapes of structured
//! outputs is passed over.

use serde_json::{Map, Value, json};

use crate::provider::simulated::profile::Dice;

/// A recursive schema ends here.
const MAX_DEPTH: u32 = 16;
/// Elements of an array whose schema asks for many.
const MAX_ITEMS: u64 = 16;

/// A value that fits `schema`.
pub(super) fn fitting(schema: &Value, dice: &mut Dice) -> Value {
    value(schema, schema, 0, dice)
}

fn value(schema: &Value, root: &Value, depth: u32, dice: &mut Dice) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array).filter(|choices| !choices.is_empty()) {
        let index = usize::try_from(dice.below(choices.len() as u64)).unwrap_or(0);
        return choices.get(index).cloned().unwrap_or_default();
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?)) {
        return value(target, root, depth + 1, dice);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        // The last choice of a recursive schema is usually the one that ends it.
        if let Some(choice) = schema.get(key).and_then(Value::as_array).and_then(|c| if depth < 4 { c.first() } else { c.last() }) {
            return value(choice, root, depth + 1, dice);
        }
    }
    match kind(schema) {
        "object" => object(schema, root, depth, dice),
        "array" => array(schema, root, depth, dice),
        "integer" => integer(schema, dice),
        "number" => {
            let low = schema.get("minimum").and_then(Value::as_f64).unwrap_or(0.0);
            let high = schema.get("maximum").and_then(Value::as_f64).unwrap_or(low + 1.0);
            json!(low + (high - low) * (dice.unit() * 100.0).floor() / 100.0)
        }
        "boolean" => json!(dice.below(2) == 1),
        "null" => Value::Null,
        _ => text(schema),
    }
}

/// The type, also where only the other keywords tell it; the first that is not null of several.
fn kind(schema: &Value) -> &str {
    let stated = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None => None,
    };
    let implied = || if schema.get("properties").is_some() { "object" } else { "string" };
    stated.unwrap_or_else(implied)
}

fn object(schema: &Value, root: &Value, depth: u32, dice: &mut Dice) -> Value {
    let mut fields = Map::new();
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let required = || schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|n| n == name));
        // Deep down only what must be there, so that recursive schemas end soon.
        if depth < 6 || required() {
            fields.insert(name.clone(), value(property, root, depth + 1, dice));
        }
    }
    Value::Object(fields)
}

fn array(schema: &Value, root: &Value, depth: u32, dice: &mut Dice) -> Value {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(u64::from(depth < 4));
    let Some(items) = schema.get("items") else { return json!([]) };
    // Nested arrays multiply; only the outer ones are long.
    let most = if depth < 4 { MAX_ITEMS } else { 1 };
    (0..least.min(most)).map(|_| value(items, root, depth + 1, dice)).collect()
}

fn integer(schema: &Value, dice: &mut Dice) -> Value {
    let low = schema.get("minimum").and_then(Value::as_i64).unwrap_or(0);
    let high = schema.get("maximum").and_then(Value::as_i64).unwrap_or_else(|| low.saturating_add(99)).max(low);
    json!(low.saturating_add_unsigned(dice.below(high.abs_diff(low).saturating_add(1))))
}

fn text(schema: &Value) -> Value {
    let text = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2025-01-01T00:00:00Z",
        Some("date") => "2025-01-01",
        Some("time") => "00:00:00Z",
        Some("email") => "someone@example.com",
        Some("uri") => "https://example.com/",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        Some("ipv4") => "192.0.2.1",
        Some(_) | None => "simulated",
    };
    json!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_kind() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"}, "when": {"type": "string", "format": "date"}, "kind": {"enum": ["a"]}, "one": {"const": 1},
                "count": {"type": "integer", "minimum": 3, "maximum": 3}, "maybe": {"type": ["null", "boolean"]}, "list": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 2},
                "either": {"anyOf": [{"type": "null"}, {"type": "string"}]}, "node": {"$ref": "#/$defs/node"}
            },
            "$defs": {
                "point": {"type": "object", "properties": {"x": {"type": "number", "minimum": 1, "maximum": 1}}},
                "node": {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#/$defs/node"}}}
            }
        });
        let mut fitting = fitting(&schema, &mut Dice::new(1));
        assert!(fitting["node"]["next"].is_object());
        fitting.as_object_mut().unwrap().remove("node");
        insta::assert_snapshot!(fitting.to_string());
    }

    #[test]
    fn extreme_bounds_do_not_overflow() {
        for (low, high) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (i64::MAX, i64::MAX)] {
            fitting(&json!({"type": "integer", "minimum": low, "maximum": high}), &mut Dice::new(2));
        }
        assert_eq!(fitting(&json!(true), &mut Dice::new(3)), json!("simulated"));
    }
}
