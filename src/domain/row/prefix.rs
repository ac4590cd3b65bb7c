//! Which requests share a beginning: the same model, tools and system prompt. When such requests
//! are served next to each other, they share what a model server caches of a prompt that it has
//! just read.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

/// The members at the beginning of a request, in the order in which chat templates put them.
#[derive(Deserialize)]
struct Beginning<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    /// A member of `/v1/responses`.
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// A number that is equal for requests with the same beginning, compared as written; never 0. All
/// requests that cannot be read count as having the same beginning.
pub fn beginning(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(Beginning { model, tools, instructions, messages }) = serde_json::from_slice::<Beginning<'_>>(body) {
        for part in [model, tools, instructions] {
            part.map(RawValue::get).hash(&mut hasher);
        }
        let is_system = |message: &&Message<'_>| message.role.is_some_and(|role| matches!(role.get(), "\"system\"" | "\"developer\""));
        for message in messages.iter().take_while(is_system) {
            message.content.map(RawValue::get).hash(&mut hasher);
        }
    }
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_prompt_model_and_tools_count_and_the_rest_does_not() {
        let chat = |model: &str, system: &str, user: &str| {
            format!(r#"{{"model":"{model}","messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{user}"}}]}}"#)
        };
        let of = |body: &str| beginning(body.as_bytes());
        assert_eq!(of(&chat("m", "s", "a")), of(&chat("m", "s", "b")));
        assert_ne!(of(&chat("m", "s", "a")), of(&chat("m", "t", "a")));
        assert_ne!(of(&chat("m", "s", "a")), of(&chat("n", "s", "a")));
        assert_ne!(of(r#"{"model":"m","instructions":"a","input":"x"}"#), of(r#"{"model":"m","instructions":"b","input":"x"}"#));
        assert_eq!(of("{"), of("no"));
        assert_ne!(of("no"), 0);
    }
}
