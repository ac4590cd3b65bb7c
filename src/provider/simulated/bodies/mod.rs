//! A plausible body for each operation, in the shape that OpenAI or Anthropic documents.
//!
//! Everything in a body follows from the row, the timestamps included: they lie in 2025, because an
//! answer with the real time could not be the same twice. Tokens are a quarter of the bytes. Texts
//! quote the row's last user message. Embeddings are unit vectors that depend only on the model and
//! the text, and texts are scored by their vectors. A moderation flags a text for each category whose name is in the text. Images are one
//! pixel in PNG, whatever size and format the row asks for. A video is a finished job. Nobody listens
//! to a recording.
//!
//! Invariant: every body is one JSON object that fits the operation's schema, or the text that a row
//! with a recording asks for.

mod audio;
mod conversation;
mod lexicon;
mod logprobs;
mod media;
mod reply;
mod scores;
mod shape;
mod text;
mod vectors;

use serde_json::value::RawValue;

use self::lexicon::Length;
use super::force::Forced;
use super::json::Json;
use super::profile::Dice;
use super::request::{Body, SimulatedRefusal, string, tokens};
use crate::domain::format::wire::WireFormat;
use crate::provider::CallFile;

/// 2025-01-01, in seconds since 1970.
const EPOCH: u64 = 1_735_689_600;
const YEAR: u64 = 31_536_000;
/// The most inputs of one row, as in the hosted API.
const MAX_INPUTS: usize = 2_048;
/// The most tokens, over all texts, that directives may ask of one row.
const MAX_FORCED_TOKENS: u64 = 262_144;

/// An answer that is being written.
pub(super) struct Draft<'a> {
    pub model: &'a str,
    pub body: &'a Body<'a>,
    pub forced: &'a Forced,
    /// The row's fingerprint.
    pub seed: u64,
    pub dice: Dice,
}

/// Writes the body that answers the row. `file` is what was sent beside it.
///
/// # Errors
/// When the hosted API would also refuse the row.
pub(super) fn render(format: WireFormat, mut draft: Draft<'_>, file: Option<&CallFile>) -> Result<Vec<u8>, SimulatedRefusal> {
    let padding = draft.forced.body_bytes;
    if format.takes_audio() {
        let body = audio::transcript(&mut draft, format, file)?;
        return Ok(if body.starts_with(b"{") { padded(body, padding) } else { body });
    }
    let mut json = Json::default();
    match format {
        WireFormat::Responses => text::response(&mut draft, &mut json),
        WireFormat::ChatCompletions => text::chat(&mut draft, &mut json),
        WireFormat::Completions => text::completion(&mut draft, &mut json),
        WireFormat::AnthropicMessages => text::message(&mut draft, &mut json),
        WireFormat::Embeddings => vectors::embeddings(&mut draft, &mut json),
        WireFormat::Moderations => vectors::moderations(&mut draft, &mut json),
        WireFormat::ImagesGenerations => media::images(&mut draft, &mut json),
        WireFormat::ImagesEdits => media::edits(&mut draft, &mut json),
        WireFormat::Videos => media::video(&mut draft, &mut json),
        WireFormat::Rerank | WireFormat::RerankV2 => scores::rerank(&mut draft, &mut json),
        WireFormat::Score => scores::score(&mut draft, &mut json),
        WireFormat::Tokenize => scores::tokenize(&mut draft, &mut json),
        // Dealt with above.
        WireFormat::AudioTranscriptions | WireFormat::AudioTranslations => Ok(()),
        WireFormat::PassedThrough(_) => Err(SimulatedRefusal::new("Nothing is known of this path.", None::<&str>)),
    }?;
    Ok(padded(json.into_bytes(), padding))
}

/// Extends the body with a last field to at least the requested length.
fn padded(mut body: Vec<u8>, wanted: Option<u64>) -> Vec<u8> {
    const FIELD: &[u8] = b",\"padding\":\"";
    let wanted = wanted.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    if wanted > body.len() && body.pop().is_some() {
        body.extend_from_slice(FIELD);
        body.resize(wanted.saturating_sub(2).max(body.len()), b'x');
        body.extend_from_slice(b"\"}");
    }
    body
}

impl Draft<'_> {
    /// An id specific to the row; `index` distinguishes several ids of one row.
    fn id(&self, prefix: &str, index: u64) -> String {
        let more = Dice::new(self.seed.wrapping_add(index)).next();
        format!("{prefix}{:016x}{:08x}", self.seed, more >> 32)
    }

    /// The creation time that the answer states, in seconds since 1970.
    fn created(&self) -> u64 {
        EPOCH + self.seed % YEAR
    }

    fn length(&self, limit: Option<u64>, texts: u64) -> Length {
        Length { wanted: self.forced.output_tokens.map(|wanted| wanted.min(MAX_FORCED_TOKENS / texts.max(1)).max(1)), limit }
    }

    /// Writes the answer's object: the fields with which every operation starts, then the rest.
    fn object(&self, json: &mut Json, prefix: &str, object: &str, created: &str, rest: impl FnOnce(&Self, &mut Json)) {
        json.object(|json| {
            json.key("id").text(&self.id(prefix, 0));
            json.key("object").text(object);
            json.key(created).number(self.created());
            json.key("model").text(self.model);
            rest(self, json);
        });
    }
}

/// The inputs of a row: one text, several, one list of tokens, or several.
fn inputs<'a>(raw: &'a RawValue, param: &'static str) -> Result<Vec<&'a RawValue>, SimulatedRefusal> {
    let refuse = |what: &str| Err(SimulatedRefusal::new(format!("Invalid '{param}': {what}."), Some(param)));
    if let Some(text) = string(raw) {
        return if text.is_empty() { refuse("input cannot be an empty string") } else { Ok(vec![raw]) };
    }
    let Ok(parts) = serde_json::from_str::<Vec<&'a RawValue>>(raw.get()) else {
        return refuse("expected a string or an array");
    };
    match parts.first().map(|first| first.get().as_bytes()[0]) {
        None => refuse("input cannot be an empty array"),
        // A list of tokens is one input.
        Some(b'0'..=b'9') => Ok(vec![raw]),
        Some(b'"' | b'[' | b'{') if parts.len() <= MAX_INPUTS => Ok(parts),
        Some(b'"' | b'[' | b'{') => refuse("too many inputs"),
        Some(_) => refuse("expected strings or arrays of tokens"),
    }
}

/// The tokens of one of the [`inputs`].
fn input_tokens(input: &RawValue) -> u64 {
    if input.get().starts_with('[') {
        return input.get().bytes().filter(|b| *b == b',').count() as u64 + 1;
    }
    tokens(input.get().len().saturating_sub(2))
}

#[cfg(test)]
mod tests;
