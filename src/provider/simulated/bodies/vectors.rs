//! Bodies of the operations that measure text: embeddings and moderations.

use serde_json::value::RawValue;

use super::{Draft, input_tokens, inputs};
use crate::provider::simulated::json::Json;
use crate::provider::simulated::profile::{Dice, fingerprint};
use crate::provider::simulated::request::{SimulatedRefusal, required, string, whole};

/// The dimensions of the hosted default model, and the most of any hosted model.
const DIMENSIONS: u64 = 1_536;
const MAX_DIMENSIONS: u64 = 3_072;
const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Embeddings.
pub(super) fn embeddings(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let inputs = inputs(required(body.input, "input")?, "input")?;
    let dimensions = whole(body.dimensions, "dimensions", 1..=MAX_DIMENSIONS)?.unwrap_or(DIMENSIONS);
    let packed = match body.encoding_format.map(string) {
        None => false,
        Some(Some(format)) if format == "float" => false,
        Some(Some(format)) if format == "base64" => true,
        Some(_) => return Err(SimulatedRefusal::new("Invalid 'encoding_format': must be 'float' or 'base64'.", Some("encoding_format"))),
    };
    json.object(|json| {
        json.key("object").text("list");
        json.key("data").array(|json| {
            for (index, input) in (0..).zip(&inputs) {
                let vector = unit_vector(draft.model, input, dimensions);
                json.object(|json| {
                    json.key("object").text("embedding");
                    json.key("index").number(index);
                    json.key("embedding");
                    write_vector(&vector, packed, json);
                });
            }
        });
        json.key("model").text(draft.model);
        let tokens = inputs.iter().map(|input| input_tokens(input)).sum();
        json.key("usage").object(|json| {
            json.key("prompt_tokens").number(tokens);
            json.key("total_tokens").number(tokens);
        });
    });
    Ok(())
}

pub(super) fn unit_vector(model: &str, input: &RawValue, dimensions: u64) -> Vec<f32> {
    let mut dice = Dice::new(fingerprint(&[model.as_bytes(), input.get().as_bytes()]));
    let mut vector: Vec<f32> = (0..dimensions).map(|_| (dice.unit() * 2.0 - 1.0) as f32).collect();
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for x in &mut vector {
        *x = (f64::from(*x) / length) as f32;
    }
    vector
}

fn write_vector(vector: &[f32], packed: bool, json: &mut Json) {
    if packed {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        json.base64(&bytes);
    } else {
        json.array(|json| vector.iter().for_each(|x| json.float(*x)));
    }
}

/// Moderations.
pub(super) fn moderations(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let raw = required(draft.body.input, "input")?;
    let mut inputs = inputs(raw, "input")?;
    // Texts and pictures that are listed as objects are judged together.
    if inputs.iter().any(|input| input.get().starts_with('{')) {
        inputs = vec![raw];
    }
    let draft = &*draft;
    json.object(|json| {
        json.key("id").text(&draft.id("modr-", 0));
        json.key("model").text(draft.model);
        json.key("results").array(|json| {
            for input in &inputs {
                json.object(|json| judge(draft.model, input, json));
            }
        });
    });
    Ok(())
}

fn judge(model: &str, input: &RawValue, json: &mut Json) {
    let named = |category: &str| input.get().contains(category);
    let mut dice = Dice::new(fingerprint(&[model.as_bytes(), input.get().as_bytes()]));
    json.key("flagged").flag(CATEGORIES.into_iter().any(named));
    json.key("categories").object(|json| {
        for category in CATEGORIES {
            json.key(category).flag(named(category));
        }
    });
    json.key("category_scores").object(|json| {
        for category in CATEGORIES {
            let chance = dice.unit() as f32;
            json.key(category).float(if named(category) { 0.9 + 0.09 * chance } else { 0.001 * chance });
        }
    });
    json.key("category_applied_input_types").object(|json| {
        for category in CATEGORIES {
            json.key(category).array(|json| json.text("text"));
        }
    });
}
