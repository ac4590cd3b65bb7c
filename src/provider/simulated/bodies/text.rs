//! Bodies of the operations that write text.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::conversation::Conversation;
use super::reply::{Question, SimulatedReply, format};
use super::{Draft, inputs};
use super::{lexicon, logprobs};
use crate::provider::simulated::json::Json;
use crate::provider::simulated::request::{SimulatedRefusal, raw_tokens, required, string, tokens, whole};
use crate::provider::simulated::sampling::{self, Alternatives};

/// The most tokens that a row may ask for; beyond what any model can write.
const MAX_LIMIT: u64 = 10_000_000;
/// The tokens that the hosted API writes for a prompt without a limit of its own.
const COMPLETION_TOKENS: u64 = 16;
/// The most texts of one row.
const MAX_CHOICES: u64 = 128;

/// A chat completion.
pub(super) fn chat(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let messages = required(body.messages, "messages")?;
    let n = whole(body.n, "n", 1..=MAX_CHOICES)?.unwrap_or(1);
    let newer = whole(body.max_completion_tokens, "max_completion_tokens", 1..=MAX_LIMIT)?;
    let older = whole(body.max_tokens, "max_tokens", 1..=MAX_LIMIT)?;
    let length = draft.length(newer.or(older), n);
    let alternatives = sampling::of_chat(body)?;
    let place = ("messages", Conversation::Chat);
    let question = Question::read(body, messages, place, format(body.response_format, "response_format")?, length)?;
    let replies: Vec<SimulatedReply> = (0..n).map(|_| question.reply(&mut draft.dice)).collect();
    logprobs::check(replies.iter().map(SimulatedReply::tokens).sum(), alternatives)?;

    draft.object(json, "chatcmpl-", "chat.completion", "created", |draft, json| {
        json.key("choices").array(|json| {
            for (index, reply) in (0..).zip(&replies) {
                json.object(|json| choice(draft, index, reply, alternatives, json));
            }
        });
        let prompt = tokens(messages.get().len()) + raw_tokens(body.tools);
        completion_usage(prompt, replies.iter().map(SimulatedReply::tokens).sum(), json);
        json.key("service_tier").text("default");
        json.key("system_fingerprint").text("fp_simulated");
    });
    Ok(())
}

fn choice(draft: &Draft<'_>, index: u64, reply: &SimulatedReply, alternatives: Alternatives, json: &mut Json) {
    json.key("index").number(index);
    json.key("message").object(|json| {
        json.key("role").text("assistant");
        match reply {
            SimulatedReply::Text(text) => json.key("content").text(&text.text),
            SimulatedReply::Call { .. } => json.key("content").null(),
        }
        json.key("refusal").null();
        if let SimulatedReply::Call { name, arguments } = reply {
            json.key("tool_calls").array(|json| {
                json.object(|json| {
                    json.key("id").text(&draft.id("call_", index));
                    json.key("type").text("function");
                    json.key("function").object(|json| {
                        json.key("name").text(name);
                        json.key("arguments").text(arguments);
                    });
                });
            });
        }
        json.key("annotations").array(|_| {});
    });
    json.key("logprobs");
    match (reply, alternatives) {
        (SimulatedReply::Text(text), Some(most)) => logprobs::of_chat(&text.text, most, draft.seed.wrapping_add(index), json),
        (SimulatedReply::Text(_) | SimulatedReply::Call { .. }, _) => json.null(),
    }
    json.key("finish_reason").text(match reply {
        SimulatedReply::Text(text) if text.cut => "length",
        SimulatedReply::Text(_) => "stop",
        SimulatedReply::Call { .. } => "tool_calls",
    });
}

/// An Anthropic message.
pub(super) fn message(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    #[derive(Deserialize)]
    struct Output<'a> {
        #[serde(borrow)]
        format: Option<&'a RawValue>,
    }
    let body = draft.body;
    let messages = required(body.messages, "messages")?;
    required(body.max_tokens, "max_tokens")?;
    let limit = whole(body.max_tokens, "max_tokens", 1..=MAX_LIMIT)?;
    sampling::of_message(body)?;
    let asked = body.output_config.and_then(|raw| serde_json::from_str::<Output<'_>>(raw.get()).ok()).and_then(|output| output.format);
    let length = draft.length(limit, 1);
    let place = ("messages", Conversation::Message);
    let reply = Question::read(body, messages, place, format(asked, "output_config.format")?, length)?.reply(&mut draft.dice);
    json.object(|json| {
        json.key("id").text(&draft.id("msg_", 0));
        json.key("type").text("message");
        json.key("role").text("assistant");
        json.key("model").text(draft.model);
        json.key("content").array(|json| json.object(|json| block(draft, &reply, json)));
        json.key("stop_reason").text(match &reply {
            SimulatedReply::Text(text) if text.cut => "max_tokens",
            SimulatedReply::Text(_) => "end_turn",
            SimulatedReply::Call { .. } => "tool_use",
        });
        json.key("stop_sequence").null();
        json.key("usage").object(|json| {
            json.key("input_tokens").number(tokens(messages.get().len()) + raw_tokens(body.system) + raw_tokens(body.tools));
            json.key("cache_creation_input_tokens").number(0);
            json.key("cache_read_input_tokens").number(0);
            json.key("output_tokens").number(reply.tokens());
            json.key("service_tier").text("standard");
        });
    });
    Ok(())
}

fn block(draft: &Draft<'_>, reply: &SimulatedReply, json: &mut Json) {
    match reply {
        SimulatedReply::Text(text) => {
            json.key("type").text("text");
            json.key("text").text(&text.text);
        }
        SimulatedReply::Call { name, arguments } => {
            json.key("type").text("tool_use");
            json.key("id").text(&draft.id("toolu_", 0));
            json.key("name").text(name);
            json.key("input").raw(arguments);
        }
    }
}

fn completion_usage(prompt: u64, completion: u64, json: &mut Json) {
    json.key("usage").object(|json| {
        json.key("prompt_tokens").number(prompt);
        json.key("completion_tokens").number(completion);
        json.key("total_tokens").number(prompt + completion);
        json.key("prompt_tokens_details").object(|json| json.key("cached_tokens").number(0));
        json.key("completion_tokens_details").object(|json| json.key("reasoning_tokens").number(0));
    });
}

/// A text completion.
pub(super) fn completion(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let prompts = inputs(required(body.prompt, "prompt")?, "prompt")?;
    let n = whole(body.n, "n", 1..=MAX_CHOICES)?.unwrap_or(1);
    let limit = whole(body.max_tokens, "max_tokens", 1..=MAX_LIMIT)?.or(draft.forced.output_tokens).unwrap_or(COMPLETION_TOKENS);
    let alternatives = sampling::of_completion(body)?;
    let length = draft.length(Some(limit), n * prompts.len() as u64);
    let mut texts = Vec::new();
    for prompt in &prompts {
        let prompt = string(prompt).unwrap_or_default();
        texts.extend((0..n).map(|_| lexicon::answer(&prompt, length, &mut draft.dice)));
    }
    logprobs::check(texts.iter().map(lexicon::Text::tokens).sum(), alternatives)?;

    draft.object(json, "cmpl-", "text_completion", "created", |draft, json| {
        json.key("choices").array(|json| {
            for (index, text) in (0..).zip(&texts) {
                json.object(|json| {
                    json.key("text").text(&text.text);
                    json.key("index").number(index);
                    json.key("logprobs");
                    match alternatives {
                        Some(most) => logprobs::of_completion(&text.text, most, draft.seed.wrapping_add(index), json),
                        None => json.null(),
                    }
                    json.key("finish_reason").text(if text.cut { "length" } else { "stop" });
                });
            }
        });
        completion_usage(prompts.iter().map(|p| super::input_tokens(p)).sum(), texts.iter().map(lexicon::Text::tokens).sum(), json);
    });
    Ok(())
}

/// A response.
pub(super) fn response(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    #[derive(Deserialize)]
    struct TextOptions<'a> {
        #[serde(borrow)]
        format: Option<&'a RawValue>,
    }
    let body = draft.body;
    let input = required(body.input, "input")?;
    let limit = whole(body.max_output_tokens, "max_output_tokens", 1..=MAX_LIMIT)?;
    let asked = body.text.and_then(|raw| serde_json::from_str::<TextOptions<'_>>(raw.get()).ok()).and_then(|text| text.format);
    let length = draft.length(limit, 1);
    let alternatives = sampling::of_response(body)?;
    let question = Question::read(body, input, ("input", Conversation::Response), format(asked, "text.format")?, length)?;
    let reply = question.reply(&mut draft.dice);
    logprobs::check(reply.tokens(), alternatives)?;
    let cut = matches!(&reply, SimulatedReply::Text(text) if text.cut);

    draft.object(json, "resp_", "response", "created_at", |draft, json| {
        json.key("status").text(if cut { "incomplete" } else { "completed" });
        json.key("background").flag(false);
        if !cut {
            json.key("completed_at").number(draft.created() + 1);
        }
        json.key("error").null();
        match cut {
            true => json.key("incomplete_details").object(|json| json.key("reason").text("max_output_tokens")),
            false => json.key("incomplete_details").null(),
        }
        json.key("output").array(|json| json.object(|json| output(draft, &reply, alternatives, json)));
        // The answer repeats the row's settings, with the API's defaults.
        let echo = |raw: Option<&RawValue>, otherwise: &'static str, key: &str, json: &mut Json| {
            json.key(key).raw(raw.map_or(otherwise, RawValue::get));
        };
        echo(body.instructions, "null", "instructions", json);
        echo(body.max_output_tokens, "null", "max_output_tokens", json);
        echo(body.metadata(), "{}", "metadata", json);
        echo(body.parallel_tool_calls, "true", "parallel_tool_calls", json);
        echo(body.previous_response_id, "null", "previous_response_id", json);
        echo(body.temperature, "1.0", "temperature", json);
        echo(body.text, r#"{"format":{"type":"text"}}"#, "text", json);
        echo(body.tool_choice, "\"auto\"", "tool_choice", json);
        echo(body.tools, "[]", "tools", json);
        echo(body.top_p, "1.0", "top_p", json);
        json.key("service_tier").text("default");
        json.key("truncation").text("disabled");
        let read = raw_tokens(body.input) + raw_tokens(body.instructions) + raw_tokens(body.tools);
        response_usage(read, reply.tokens(), json);
    });
    Ok(())
}

fn output(draft: &Draft<'_>, reply: &SimulatedReply, alternatives: Alternatives, json: &mut Json) {
    match reply {
        SimulatedReply::Text(text) => {
            json.key("id").text(&draft.id("msg_", 0));
            json.key("type").text("message");
            json.key("status").text(if text.cut { "incomplete" } else { "completed" });
            json.key("role").text("assistant");
            json.key("content").array(|json| {
                json.object(|json| {
                    json.key("type").text("output_text");
                    json.key("text").text(&text.text);
                    json.key("annotations").array(|_| {});
                    json.key("logprobs");
                    match alternatives {
                        Some(most) => logprobs::of_text(&text.text, most, draft.seed, json),
                        None => json.array(|_| {}),
                    }
                });
            });
        }
        SimulatedReply::Call { name, arguments } => {
            json.key("id").text(&draft.id("fc_", 0));
            json.key("type").text("function_call");
            json.key("status").text("completed");
            json.key("call_id").text(&draft.id("call_", 0));
            json.key("name").text(name);
            json.key("arguments").text(arguments);
        }
    }
}

fn response_usage(input: u64, output: u64, json: &mut Json) {
    json.key("usage").object(|json| {
        json.key("input_tokens").number(input);
        json.key("input_tokens_details").object(|json| {
            json.key("cached_tokens").number(0);
            json.key("cache_write_tokens").number(0);
        });
        json.key("output_tokens").number(output);
        json.key("output_tokens_details").object(|json| json.key("reasoning_tokens").number(0));
        json.key("total_tokens").number(input + output);
    });
}
