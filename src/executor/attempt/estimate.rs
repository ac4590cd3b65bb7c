//! Tokens of an answer whose provider does not state them, where they have a price: a row is never
//! free because its server forgot to count.
//!
//! An estimate of bytes, as quotes are made before a row runs; a usage says when it is one
//! ([`crate::domain::usage::note`]).

use serde_json::{Map, Value};

use crate::domain::format::wire::WireFormat;
use crate::domain::money::PriceSheet;
use crate::domain::row::output_limits::OutputLimits;
use crate::domain::usage::Usage;
use crate::domain::usage::reported::UsageGaps;
use crate::quote::{Content, media};

/// Bytes of text in a token: about what English text has.
const BYTES_PER_TOKEN: u64 = 4;
/// What recordings are to an estimate.
const RECORDED: &str = "audio/mpeg";
/// The members of an answer that hold what was written.
const WRITTEN: [&str; 8] = ["content", "text", "reasoning_content", "reasoning", "thinking", "arguments", "refusal", "summary"];

/// What a call has asked.
#[derive(Debug, Clone, Copy)]
pub struct AskedFor<'a> {
    pub format: WireFormat,
    pub body: &'a [u8],
    /// Bytes of the recording that was sent beside the body.
    pub recorded: u64,
}

/// The usage with estimates in its gaps, as far as the price needs them.
pub fn filled(mut usage: Usage, gaps: UsageGaps, price: &PriceSheet, asked: AskedFor<'_>, answer: &[u8]) -> Usage {
    let costs = |price: Option<rust_decimal::Decimal>| price.is_some_and(|price| !price.is_zero());
    if gaps.input && costs(price.input) {
        usage.input_tokens = input_tokens(asked.format, asked.body).saturating_add(media::tokens(RECORDED, asked.recorded));
    }
    if gaps.output && costs(price.output) {
        usage.output_tokens = output_tokens(answer);
    }
    usage
}

fn input_tokens(format: WireFormat, asked: &[u8]) -> u64 {
    let Ok(asked) = serde_json::from_slice::<Map<String, Value>>(asked) else { return 0 };
    match Content::read(format.endpoint(), &asked, OutputLimits::default()) {
        Ok(content) => content.measured(&[], BYTES_PER_TOKEN),
        // The older completions have their text here.
        Err(_) => tokens(["prompt", "input"].iter().filter_map(|name| asked.get(*name)).map(texts).sum()),
    }
}

fn output_tokens(answer: &[u8]) -> u64 {
    match serde_json::from_slice(answer) {
        Ok(Value::Object(answer)) => {
            let text = answer.get("text").and_then(Value::as_str).map_or(0, |text| text.len() as u64);
            tokens(["choices", "output", "content"].iter().filter_map(|name| answer.get(*name)).map(written).sum::<u64>() + text)
        }
        // The plain text of a recording.
        Ok(Value::String(text)) => tokens(text.len() as u64),
        Ok(_) | Err(_) => 0,
    }
}

fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Bytes of all texts in a value.
fn texts(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(texts).sum(),
        Value::Object(members) => members.values().map(texts).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Bytes of the texts below the members that hold what was written.
fn written(value: &Value) -> u64 {
    match value {
        Value::Array(values) => values.iter().map(written).sum(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| match value {
                Value::String(text) if WRITTEN.contains(&name.as_str()) => text.len() as u64,
                other => written(other),
            };
            members.iter().map(member).sum()
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_decimal::Decimal;

    const GAPS: UsageGaps = UsageGaps { input: true, output: true };

    #[test]
    fn only_what_has_a_price_and_is_not_stated_is_estimated() {
        let price =
            |input, output| PriceSheet { input: Some(Decimal::from(input)), output: Some(Decimal::from(output)), ..PriceSheet::default() };
        let asked = br#"{"model":"m","messages":[{"role":"user","content":"0123456789abcdef"}]}"#;
        let answer = br#"{"id":"a long name that nobody wrote","choices":[{"message":{"role":"assistant","content":"01234567","tool_calls":[{"id":"x","function":{"name":"f","arguments":"0123"}}]},"finish_reason":"stop"}]}"#;
        let of = |usage, gaps, price| {
            let Usage { input_tokens, output_tokens, .. } =
                filled(usage, gaps, &price, AskedFor { format: WireFormat::ChatCompletions, body: asked, recorded: 0 }, answer);
            (input_tokens, output_tokens)
        };
        // Three tokens frame each message, and three the answer.
        assert_eq!(of(Usage::default(), GAPS, price(1, 1)), (10, 3));
        assert_eq!(of(Usage::default(), GAPS, price(0, 1)), (0, 3));
        assert_eq!(
            of(Usage { input_tokens: 7, ..Usage::default() }, UsageGaps { output: true, ..UsageGaps::default() }, price(1, 1)),
            (7, 3)
        );
        assert_eq!(of(Usage { input_tokens: 7, ..Usage::default() }, UsageGaps::default(), price(1, 1)), (7, 0));
        let completion = filled(
            Usage::default(),
            GAPS,
            &price(1, 1),
            AskedFor { format: WireFormat::Completions, body: br#"{"prompt":["01234567"]}"#, recorded: 0 },
            br#"{"choices":[{"text":"0123"}]}"#,
        );
        assert_eq!((completion.input_tokens, completion.output_tokens), (2, 1));
        let vectors = AskedFor { format: WireFormat::Embeddings, body: br#"{"input":["01234567"]}"#, recorded: 0 };
        let embedding = filled(Usage::default(), GAPS, &price(1, 0), vectors, br#"{"data":[]}"#);
        assert_eq!((embedding.input_tokens, embedding.output_tokens), (2, 0));
        let heard = AskedFor { format: WireFormat::AudioTranscriptions, body: br#"{"prompt":"0123"}"#, recorded: 1_024 };
        for answer in [&br#"{"text":"01234567"}"#[..], br#""01234567""#] {
            let words = filled(Usage::default(), GAPS, &price(1, 1), heard, answer);
            assert_eq!((words.input_tokens, words.output_tokens), (3, 2));
        }
    }
}
