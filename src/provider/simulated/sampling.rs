//! The settings of a text that the hosted APIs refuse when they are out of range: temperature,
//! penalties, log probabilities, stop sequences.
//!
//! A field that is absent or null is not looked at, so that a row without settings costs nothing.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use super::request::{Body, SimulatedRefusal, string, whole};

/// The most stop sequences of a row in OpenAI's form.
const MAX_STOPS: usize = 4;
/// The most alternatives to a token that a chat or a response may ask for, and a completion.
const MAX_ALTERNATIVES: u64 = 20;
const MAX_COMPLETION_ALTERNATIVES: u64 = 5;
/// Where a response asks for log probabilities.
const LOGPROBS_OF_RESPONSE: &str = "message.output_text.logprobs";

/// The alternatives to each token that an answer lists; `None` if it lists no log probabilities.
pub(super) type Alternatives = Option<u64>;

/// Checks the settings of a chat.
pub(super) fn of_chat(body: &Body<'_>) -> Result<Alternatives, SimulatedRefusal> {
    chance(body, 2.0)?;
    penalties(body)?;
    stops(body.stop, "stop", MAX_STOPS)?;
    let top = whole(body.top_logprobs, "top_logprobs", 0..=MAX_ALTERNATIVES)?;
    let asked = flag(body.logprobs, "logprobs")?.unwrap_or(false);
    if top.is_some() && !asked {
        let message = "'top_logprobs' is only allowed when 'logprobs' is enabled.";
        return Err(SimulatedRefusal::new(message, Some("top_logprobs")));
    }
    Ok(asked.then(|| top.unwrap_or(0)))
}

/// Checks the settings of a text completion.
pub(super) fn of_completion(body: &Body<'_>) -> Result<Alternatives, SimulatedRefusal> {
    chance(body, 2.0)?;
    penalties(body)?;
    stops(body.stop, "stop", MAX_STOPS)?;
    whole(body.logprobs, "logprobs", 0..=MAX_COMPLETION_ALTERNATIVES)
}

/// Checks the settings of a response.
pub(super) fn of_response(body: &Body<'_>) -> Result<Alternatives, SimulatedRefusal> {
    chance(body, 2.0)?;
    let top = whole(body.top_logprobs, "top_logprobs", 0..=MAX_ALTERNATIVES)?;
    let Some(include) = body.include else { return Ok(None) };
    let Ok(include) = serde_json::from_str::<Vec<Cow<'_, str>>>(include.get()) else {
        return Err(SimulatedRefusal::new("Invalid 'include': expected an array of strings.", Some("include")));
    };
    Ok(include.iter().any(|field| field == LOGPROBS_OF_RESPONSE).then(|| top.unwrap_or(0)))
}

/// Checks the settings of a transcript.
pub(super) fn of_transcript(body: &Body<'_>) -> Result<(), SimulatedRefusal> {
    decimal(body.temperature, "temperature", 0.0..=1.0)
}

/// Checks the settings of an Anthropic message.
pub(super) fn of_message(body: &Body<'_>) -> Result<(), SimulatedRefusal> {
    chance(body, 1.0)?;
    whole(body.top_k, "top_k", 0..=u64::MAX)?;
    stops(body.stop_sequences, "stop_sequences", usize::MAX)
}

fn chance(body: &Body<'_>, hottest: f64) -> Result<(), SimulatedRefusal> {
    decimal(body.temperature, "temperature", 0.0..=hottest)?;
    decimal(body.top_p, "top_p", 0.0..=1.0)
}

fn penalties(body: &Body<'_>) -> Result<(), SimulatedRefusal> {
    decimal(body.frequency_penalty, "frequency_penalty", -2.0..=2.0)?;
    decimal(body.presence_penalty, "presence_penalty", -2.0..=2.0)
}

fn decimal(raw: Option<&RawValue>, param: &'static str, range: RangeInclusive<f64>) -> Result<(), SimulatedRefusal> {
    let Some(raw) = raw else { return Ok(()) };
    if serde_json::from_str::<f64>(raw.get()).is_ok_and(|number| range.contains(&number)) {
        return Ok(());
    }
    let message = format!("Invalid '{param}': expected a number from {} to {}.", range.start(), range.end());
    Err(SimulatedRefusal::new(message, Some(param)))
}

fn flag(raw: Option<&RawValue>, param: &'static str) -> Result<Option<bool>, SimulatedRefusal> {
    let Some(raw) = raw else { return Ok(None) };
    let refuse = |_| SimulatedRefusal::new(format!("Invalid type for '{param}': expected a boolean."), Some(param));
    serde_json::from_str(raw.get()).map(Some).map_err(refuse)
}

/// OpenAI takes one sequence or a few of them, Anthropic any number.
fn stops(raw: Option<&RawValue>, param: &'static str, most: usize) -> Result<(), SimulatedRefusal> {
    let Some(raw) = raw else { return Ok(()) };
    if most == MAX_STOPS && string(raw).is_some() {
        return Ok(());
    }
    let few = if most == MAX_STOPS { format!("a string or an array of 1 to {most} strings") } else { "an array of strings".to_owned() };
    match serde_json::from_str::<Vec<Cow<'_, str>>>(raw.get()) {
        Ok(stops) if stops.len() <= most && (most != MAX_STOPS || !stops.is_empty()) => Ok(()),
        Ok(_) | Err(_) => Err(SimulatedRefusal::new(format!("Invalid '{param}': expected {few}."), Some(param))),
    }
}
