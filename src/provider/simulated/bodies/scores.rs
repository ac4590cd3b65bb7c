//! Bodies of the operations that model servers such as vLLM have beside OpenAI's: ordering and
//! scoring texts, and counting their tokens.

use serde_json::value::RawValue;

use super::vectors::unit_vector;
use super::{Draft, input_tokens, inputs};
use crate::provider::simulated::json::Json;
use crate::provider::simulated::profile::{Dice, fingerprint};
use crate::provider::simulated::request::{SimulatedRefusal, required, string, whole};

/// The dimensions of the vectors by which texts are compared.
const COMPARED: u64 = 32;
/// The vocabulary and the longest input that the answers claim.
const VOCABULARY: u64 = 128_256;
const MAX_MODEL_LEN: u64 = 131_072;
/// The most tokens that are listed.
const MAX_LISTED: u64 = 1 << 20;

/// How well two texts fit, from 0 to 1: by their vectors, which know nothing of their meaning.
fn fit(model: &str, a: &RawValue, b: &RawValue) -> f32 {
    let (a, b) = (unit_vector(model, a, COMPARED), unit_vector(model, b, COMPARED));
    let cosine: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    (0.5 + 0.5 * cosine).clamp(0.0, 1.0)
}

/// Rerank, in the form that Jina, Cohere and vLLM share.
pub(super) fn rerank(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let query = required(body.query, "query")?;
    let documents = inputs(required(body.documents, "documents")?, "documents")?;
    let most = whole(body.top_n, "top_n", 0..=u64::MAX)?.filter(|most| *most > 0).unwrap_or(u64::MAX);
    let mut order: Vec<_> = (0..).zip(&documents).map(|(index, document)| (index, document, fit(draft.model, query, document))).collect();
    order.sort_by(|a, b| b.2.total_cmp(&a.2));
    order.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let tokens = documents.iter().map(|document| input_tokens(document) + input_tokens(query)).sum();
    json.object(|json| {
        json.key("id").text(&draft.id("rerank-", 0));
        json.key("model").text(draft.model);
        json.key("usage").object(|json| json.key("total_tokens").number(tokens));
        json.key("results").array(|json| {
            for (index, document, score) in order {
                json.object(|json| {
                    json.key("index").number(index);
                    json.key("document").object(|json| match string(document) {
                        Some(text) => json.key("text").text(&text),
                        None => json.key("text").text(document.get()),
                    });
                    json.key("relevance_score").float(score);
                });
            }
        });
    });
    Ok(())
}

/// Score: each of one side with the other side's one text, or pair by pair.
pub(super) fn score(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let first = inputs(required(body.text_1, "text_1")?, "text_1")?;
    let second = inputs(required(body.text_2, "text_2")?, "text_2")?;
    if first.len() != 1 && first.len() != second.len() {
        return Err(SimulatedRefusal::new("Invalid 'text_2': expected as many texts as in 'text_1'.", Some("text_2")));
    }
    let pairs: Vec<_> = first.iter().cycle().zip(&second).collect();
    let tokens = pairs.iter().map(|(a, b)| input_tokens(a) + input_tokens(b)).sum();
    draft.object(json, "score-", "list", "created", |draft, json| {
        json.key("data").array(|json| {
            for (index, (a, b)) in (0..).zip(pairs) {
                json.object(|json| {
                    json.key("index").number(index);
                    json.key("object").text("score");
                    json.key("score").float(fit(draft.model, a, b));
                });
            }
        });
        json.key("usage").object(|json| {
            json.key("prompt_tokens").number(tokens);
            json.key("total_tokens").number(tokens);
        });
    });
    Ok(())
}

/// Tokenize: as many tokens as other answers count.
pub(super) fn tokenize(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let text = draft.body.prompt.or(draft.body.messages);
    let text = required(text, "prompt")?;
    let count = input_tokens(text);
    let mut dice = Dice::new(fingerprint(&[draft.model.as_bytes(), text.get().as_bytes()]));
    json.object(|json| {
        json.key("count").number(count);
        json.key("max_model_len").number(MAX_MODEL_LEN);
        json.key("tokens").array(|json| (0..count.min(MAX_LISTED)).for_each(|_| json.number(dice.next() % VOCABULARY)));
        json.key("token_strs").null();
    });
    Ok(())
}
