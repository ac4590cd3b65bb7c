//! A value that fits a JSON Schema, kept simple: whatever a schema says beyond the shapes of
//! structured outputs is ignored.
//!
//! Invariant: for every schema, recursive ones included, a bounded number of values is made.

use serde_json::{Map, Value, json};

use crate::provider::simulated::profile::Dice;

/// The depth at which a recursive schema ends.
const MAX_DEPTH: u32 = 16;
/// The most values in total: a schema of a few bytes can ask for more than a machine can hold.
const MAX_VALUES: u32 = 10_000;
/// Beyond this depth only required parts are made, so that recursive schemas end soon.
const FULL_DEPTH: u32 = 4;
/// The elements of an array whose schema asks for many.
const MAX_ITEMS: u64 = 16;

/// A value that fits `schema`.
pub(super) fn fitting(schema: &Value, dice: &mut Dice) -> Value {
    Maker { root: schema, dice, left: MAX_VALUES }.value(schema, 0)
}

struct Maker<'s, 'd> {
    /// The schema in which references start.
    root: &'s Value,
    dice: &'d mut Dice,
    left: u32,
}

impl<'s> Maker<'s, '_> {
    fn value(&mut self, schema: &'s Value, depth: u32) -> Value {
        self.left = self.left.saturating_sub(1);
        if depth > MAX_DEPTH || self.left == 0 {
            return Value::Null;
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema.get("enum").and_then(Value::as_array).filter(|choices| !choices.is_empty()) {
            let index = usize::try_from(self.dice.below(choices.len() as u64)).unwrap_or(0);
            return choices.get(index).cloned().unwrap_or_default();
        }
        if let Some(target) = self.target(schema, depth) {
            return self.value(target, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "integer" => self.integer(schema),
            "number" => self.number(schema),
            "boolean" => json!(self.dice.below(2) == 1),
            "null" => Value::Null,
            _ => text(schema),
        }
    }

    /// The schema to which this one leads.
    fn target(&self, schema: &'s Value, depth: u32) -> Option<&'s Value> {
        if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
            return self.root.pointer(path.strip_prefix('#')?);
        }
        let choices = ["anyOf", "oneOf", "allOf"].into_iter().find_map(|key| schema.get(key)?.as_array())?;
        // The last choice of a recursive schema is usually the one that ends it.
        if depth < FULL_DEPTH { choices.first() } else { choices.last() }
    }

    fn object(&mut self, schema: &'s Value, depth: u32) -> Value {
        let required = schema.get("required").and_then(Value::as_array);
        let mut fields = Map::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if depth < FULL_DEPTH || required.is_some_and(|names| names.iter().any(|n| n == name)) {
                fields.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        Value::Object(fields)
    }

    fn array(&mut self, schema: &'s Value, depth: u32) -> Value {
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(u64::from(depth < FULL_DEPTH));
        let Some(items) = schema.get("items") else { return json!([]) };
        (0..least.min(MAX_ITEMS)).map(|_| self.value(items, depth + 1)).collect()
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let low = schema.get("minimum").and_then(Value::as_i64).unwrap_or(0);
        let high = schema.get("maximum").and_then(Value::as_i64).unwrap_or_else(|| low.saturating_add(99)).max(low);
        json!(low.saturating_add_unsigned(self.dice.below(high.abs_diff(low).saturating_add(1))))
    }

    fn number(&mut self, schema: &Value) -> Value {
        let low = schema.get("minimum").and_then(Value::as_f64).unwrap_or(0.0);
        let high = schema.get("maximum").and_then(Value::as_f64).unwrap_or(low + 1.0);
        json!(low + (high - low) * (self.dice.unit() * 100.0).floor() / 100.0)
    }
}

/// The type, even where only the other keywords imply it; of several types, the first that is not
/// null.
fn kind(schema: &Value) -> &str {
    let stated = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None => None,
    };
    let implied = || if schema.get("properties").is_some() { "object" } else { "string" };
    stated.unwrap_or_else(implied)
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
    fn a_small_schema_cannot_ask_for_a_large_value() {
        let names: Vec<String> = (0..50).map(|n| format!("p{n}")).collect();
        let properties: serde_json::Map<_, _> = names.iter().map(|n| (n.clone(), json!({"$ref": "#"}))).collect();
        let schema = json!({"type": "object", "required": names, "properties": properties});
        assert!(fitting(&schema, &mut Dice::new(4)).to_string().len() < 20 * MAX_VALUES as usize);
    }

    #[test]
    fn extreme_bounds_do_not_overflow() {
        for (low, high) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (i64::MAX, i64::MAX)] {
            fitting(&json!({"type": "integer", "minimum": low, "maximum": high}), &mut Dice::new(2));
        }
        assert_eq!(fitting(&json!(true), &mut Dice::new(3)), json!("simulated"));
    }
}
