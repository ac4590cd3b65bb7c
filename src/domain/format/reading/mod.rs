//! What the body of a call that ended well says: whether it is an answer of the kind that was asked
//! for, and its usage.
//!
//! Servers and gateways report failures with status 200, too: an `error` member, an answer without
//! content, a job that has only begun. OpenRouter documents the first form.
//!
//! The body is read in one pass, and no member's shape is taken for granted: only JSON that is not
//! complete is an error.

mod shape;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};
use serde_json::Value;
use serde_json::value::RawValue;

use self::shape::{Choices, Data, Length, Name, Shape, is_empty, last, look};
use super::wire::WireFormat;
use crate::domain::usage::Usage;
use crate::domain::usage::reported::Reported;

/// Characters of a provider's message that are quoted.
const MAX_EXCERPT_CHARS: usize = 200;

/// Why a body is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// The status, 400 to 599, that the body itself names.
    pub status: Option<u16>,
    /// What came instead, for a person, on one line: reads on after "the provider answered with".
    pub why: String,
}

/// The members of a body that matter. Of a member that is there twice, the last one counts that is
/// not null.
#[derive(Debug, Default)]
pub struct Reading<'a> {
    error: Option<&'a RawValue>,
    object: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    detail: Option<&'a RawValue>,
    code: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
    choices: Option<Choices<'a>>,
    output: Option<Length>,
    content: Option<Length>,
    results: Option<Length>,
    data: Option<Data>,
}

impl<'a> Reading<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When the body is not one complete JSON object.
    pub fn of(body: &'a str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(body);
        let reading = look(&mut deserializer)?;
        deserializer.end()?;
        Ok(reading.unwrap_or_default())
    }

    /// What the provider reports about tokens.
    pub fn reported(&self) -> Reported {
        Reported::read(self.usage)
    }

    /// The usage, as far as the body states it.
    pub fn usage(&self) -> Usage {
        Usage { images: self.images(), ..self.reported().usage }
    }

    /// The images in the answer.
    pub fn images(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.images)
    }

    /// Why the body is no answer in this format; `None` if it is one. `asked` is the body of the
    /// request.
    pub fn fault(&self, format: WireFormat, asked: &[u8]) -> Option<NoAnswer> {
        if let Some(error) = self.error.filter(|error| !is_empty(error)) {
            return Some(self.told("an error", Some(error)));
        }
        if [self.object, self.kind].into_iter().flatten().any(|kind| kind.get() == "\"error\"") {
            return Some(self.told("an error", self.message));
        }
        if let Some(error) = self.choices.as_ref().and_then(|choices| choices.failed) {
            return Some(self.told("a choice that ended with an error", error));
        }
        if self.choices.as_ref().is_some_and(|choices| choices.is_aborted) {
            // As if the server had refused the call while it ends: no fault of the row.
            return Some(NoAnswer { status: Some(503), why: "a choice that the server aborted".into() });
        }
        let why = match format {
            WireFormat::ChatCompletions | WireFormat::Completions => match &self.choices {
                Some(choices) if choices.length > 0 => return None,
                _ => "no `choices`".to_owned(),
            },
            WireFormat::Responses => match text_of(self.status).as_deref() {
                Some(status @ ("failed" | "cancelled" | "queued" | "in_progress")) => format!("the status `{status}`"),
                _ if self.output.is_some() => return None,
                _ => "no `output`".to_owned(),
            },
            WireFormat::AnthropicMessages if self.content.is_none() => "no `content`".to_owned(),
            WireFormat::Embeddings => {
                let (inputs, vectors) = (inputs(asked), self.data.as_ref().map_or(0, |data| data.vectors));
                if vectors >= inputs {
                    return None;
                }
                format!("{vectors} embeddings for {inputs} inputs")
            }
            WireFormat::Moderations if self.results.as_ref().is_none_or(|results| results.0 == 0) => "no `results`".to_owned(),
            WireFormat::ImagesGenerations | WireFormat::ImagesEdits if self.images() == 0 => "no images in `data`".to_owned(),
            WireFormat::AudioTranscriptions | WireFormat::AudioTranslations => match self.text {
                // Empty where nobody speaks.
                Some(text) if text.get().starts_with('"') => return None,
                _ => "no `text`".to_owned(),
            },
            // The answer is a job, whose state is its own business.
            WireFormat::Videos if self.id.is_none() && self.data.is_none() => "no `id`".to_owned(),
            _ => return None,
        };
        Some(self.told(&why, self.detail.or(self.message)))
    }

    /// The fault with what the provider said about it.
    fn told(&self, why: &str, said: Option<&RawValue>) -> NoAnswer {
        let said = said.and_then(|said| serde_json::from_str::<Value>(said.get()).ok()).unwrap_or_default();
        let status = status_of(&said).or_else(|| [self.code, self.status].into_iter().flatten().find_map(stated));
        let message = message_of(&said);
        let code = status.map(|status| format!(" (code {status})")).unwrap_or_default();
        NoAnswer { status, why: format!("{why}{}{code}", message.map(|message| format!(": {message}")).unwrap_or_default()) }
    }
}

fn text_of(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// The error status that a value states, as a number or as text.
fn stated(value: &RawValue) -> Option<u16> {
    value.get().trim_matches('"').parse().ok().filter(|status| (400..600).contains(status))
}

/// The status that an error names.
fn status_of(error: &Value) -> Option<u16> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let places = ["code", "status", "status_code"].into_iter().filter_map(|name| error.get(name));
    places.filter_map(number).find(|status| (400..600).contains(status))
}

/// What an error says, in the forms of OpenAI, vLLM, FastAPI and others, on one line.
pub fn message_of(error: &Value) -> Option<String> {
    let first = error.get(0).and_then(|first| first.get("msg"));
    let places = [Some(error), error.get("message"), error.get("detail"), error.get("msg"), first];
    let text = places.into_iter().flatten().find_map(Value::as_str)?;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_EXCERPT_CHARS) {
        _ if line.is_empty() => None,
        Some((end, _)) => Some(format!("{}…", &line[..end])),
        None => Some(line),
    }
}

/// How many vectors a request for embeddings asks for.
fn inputs(asked: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Asked<'a> {
        #[serde(borrow)]
        input: &'a RawValue,
    }
    let Ok(asked) = serde_json::from_slice::<Asked<'_>>(asked) else { return 1 };
    // The elements are texts, or lists of tokens; a single list of tokens is one input.
    match serde_json::from_str::<Vec<&RawValue>>(asked.input.get()) {
        Ok(items) if items.iter().all(|item| item.get().starts_with(['"', '['])) => (items.len() as u64).max(1),
        _ => 1,
    }
}

impl<'de> Shape<'de> for Reading<'de> {
    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut reading = Self::default();
        while let Some(Name(name)) = map.next_key()? {
            let raw = match &*name {
                "error" => &mut reading.error,
                "object" => &mut reading.object,
                "type" => &mut reading.kind,
                "message" => &mut reading.message,
                "detail" => &mut reading.detail,
                "code" => &mut reading.code,
                "status" => &mut reading.status,
                "id" => &mut reading.id,
                "text" => &mut reading.text,
                "usage" => &mut reading.usage,
                other => {
                    match other {
                        "choices" => last(&mut reading.choices, &mut map)?,
                        "output" => last(&mut reading.output, &mut map)?,
                        "content" => last(&mut reading.content, &mut map)?,
                        "results" => last(&mut reading.results, &mut map)?,
                        "data" => last(&mut reading.data, &mut map)?,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                    continue;
                }
            };
            let value = map.next_value::<&RawValue>()?;
            if value.get() != "null" {
                *raw = Some(value);
            }
        }
        Ok(Some(reading))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::endpoint::Endpoint;
    use proptest::prelude::*;

    fn fault(format: WireFormat, asked: &str, body: &str) -> Option<NoAnswer> {
        Reading::of(body).unwrap().fault(format, asked.as_bytes())
    }

    #[test]
    fn what_is_no_answer_is_told_with_its_code() {
        use WireFormat::{
            AnthropicMessages, AudioTranscriptions, AudioTranslations, ChatCompletions, Completions, Embeddings, ImagesGenerations,
            Moderations, Responses, Videos,
        };
        let table = [
            (ChatCompletions, r#"{"error":{"message":"Provider returned error","code":502}}"#),
            (ChatCompletions, r#"{"error":"plain\ntext"}"#),
            (ChatCompletions, r#"{"error":{"message":"slow down","code":"429"},"choices":[{"message":{}}]}"#),
            (ChatCompletions, r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#),
            (AnthropicMessages, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
            (ChatCompletions, r#"{"detail":"Model is loading"}"#),
            (Completions, r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#),
            (ChatCompletions, r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"error","error":{"code":503,"message":"gone"}}]}"#),
            (Completions, r#"{"choices":[{"finish_reason":"error"}]}"#),
            (ChatCompletions, r#"{"choices":[{"finish_reason":"abort","message":{"content":"half of"}}]}"#),
            (ChatCompletions, r#"{"choices":null}"#),
            (ChatCompletions, r#"{"choices":[]}"#),
            (ChatCompletions, r#"{"choices":[null]}"#),
            (ChatCompletions, "{}"),
            (Responses, r#"{"status":"failed","output":[],"error":{"code":"server_error","message":"sorry"}}"#),
            (Responses, r#"{"status":"incomplete","output":[],"error":{"code":500}}"#),
            (Responses, r#"{"status":"queued","output":[]}"#),
            (Responses, r#"{"status":"in_progress","output":[],"error":null}"#),
            (Responses, "{}"),
            (AnthropicMessages, "{}"),
            (Embeddings, r#"{"data":[{"embedding":[1]},{"embedding":[]}]}"#),
            (Embeddings, "{}"),
            (Moderations, r#"{"results":[]}"#),
            (ImagesGenerations, r#"{"data":[{"url":null}]}"#),
            (Videos, "{}"),
            (AudioTranscriptions, r#"{"text":null}"#),
            (AudioTranslations, r#"{"detail":"no speech model"}"#),
        ];
        let asked = r#"{"input":["a","b"]}"#;
        let told = table.map(|(format, body)| {
            let NoAnswer { status, why } = fault(format, asked, body).unwrap_or_else(|| panic!("{body} is an answer"));
            format!("{body}\n  {}: {why}", status.map_or("-".to_owned(), |status| status.to_string()))
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn what_is_an_answer_stays_one() {
        use WireFormat::{
            AnthropicMessages, AudioTranscriptions, ChatCompletions, Completions, Embeddings, ImagesEdits, Moderations, Responses, Videos,
        };
        let table = [
            (ChatCompletions, "{}", r#"{"choices":[{"message":{"content":null,"error":3}}],"error":null}"#),
            (ChatCompletions, "{}", r#"{"choices":[{"finish_reason":"length","error":null}],"error":""}"#),
            (Completions, "{}", r#"{"choices":[{"text":""}],"error":{}}"#),
            (Responses, "{}", r#"{"status":"completed","output":[]}"#),
            (Responses, "{}", r#"{"output":[{}]}"#),
            (Responses, "{}", r#"{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[{}],"error":null}"#),
            (AnthropicMessages, "{}", r#"{"type":"message","content":[]}"#),
            (Embeddings, r#"{"input":"a"}"#, r#"{"data":[{"embedding":"AAAA"}]}"#),
            (Embeddings, r#"{"input":[1,2,3]}"#, r#"{"data":[{"embedding":[0.5]}]}"#),
            (Embeddings, r#"{"input":[[1],[2]]}"#, r#"{"data":[{"embedding":[0.5]},{"embedding":[0.25]}]}"#),
            (Embeddings, "{}", r#"{"data":[{"embedding":[0.5]}]}"#),
            (Moderations, "{}", r#"{"results":[{}]}"#),
            (ImagesEdits, "{}", r#"{"data":[{"b64_json":"x"}]}"#),
            (Videos, "{}", r#"{"id":"v","status":"queued","error":null}"#),
            (AudioTranscriptions, "{}", r#"{"text":"","usage":{"type":"duration","seconds":9}}"#),
        ];
        for (format, asked, body) in table {
            assert_eq!(fault(format, asked, body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_shape_is_read(
            name in "error|object|type|status|usage|choices|output|data|results|code|detail",
            value in prop_oneof!["null", "3", "-1", "1e9", "\"x\"", "\\[\\]", "\\{\\}", "\\[3,\\{\"error\":\\[1\\]\\}\\]", "\\{\"code\":500\\}", "\\[\\[\\]\\]"],
            endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
        ) {
            let body = format!(r#"{{"{name}":{value},"{name}":{value},"x":[{value}]}}"#);
            let reading = Reading::of(&body).unwrap();
            reading.usage();
            if let Some(NoAnswer { status, why }) = reading.fault(WireFormat::of(endpoint), body.as_bytes()) {
                prop_assert!(!why.contains('\n') && status.is_none_or(|status| (400..600).contains(&status)));
            }
            prop_assert!(Reading::of(&body[..body.len() - 1]).is_err());
        }
    }
}
