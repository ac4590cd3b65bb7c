//! How many tokens and images a response reports as used.
//!
//! The usage is read from the provider's body. It may have the chat form (`prompt_tokens`,
//! `completion_tokens`) or the Responses form (`input_tokens`, `output_tokens`) of OpenAI's
//! document, or the form of Anthropic's Messages, which counts cache reads and writes beside
//! `input_tokens`. Nothing is guessed here; where tokens have a price and the provider states none,
//! the executor estimates them, and [`note`] says so.

pub mod reported;

use std::ops::AddAssign;

use self::reported::{Reported, UsageGaps};
use crate::domain::format::reading::Reading;

/// Tokens and images of one response, or summed over many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read, cached ones included.
    pub input_tokens: u64,
    /// The part of the input that the provider served from its prompt cache.
    pub cached_tokens: u64,
    /// Tokens written, reasoning included.
    pub output_tokens: u64,
    /// The part of the output spent on reasoning.
    pub reasoning_tokens: u64,
    /// Images generated.
    pub images: u64,
}

impl Usage {
    /// Input and output together.
    pub fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.images = self.images.saturating_add(other.images);
    }
}

/// What there is to say about the usage of a row whose answer has this body and which counts as
/// `counted`; `None` if the provider's numbers count as they are.
pub fn note(body: &[u8], counted: &Usage) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let Reported { usage, gaps, note } = Reading::of(body).ok()?.reported();
    // A row that shares the answer of another one has no usage of its own.
    if counted.total_tokens() == 0 {
        return note.filter(|_| usage.total_tokens() == 0);
    }
    let sides = match (counted.input_tokens != usage.input_tokens, counted.output_tokens != usage.output_tokens) {
        (true, true) => "tokens are",
        (true, false) => "input tokens are",
        (false, true) => "output tokens are",
        (false, false) => return note,
    };
    let stated = if gaps == UsageGaps::default() { "" } else { ", because the provider states none" };
    let estimated = format!("{sides} estimated{stated}");
    Some(note.map_or(estimated.clone(), |note| format!("{note}; {estimated}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> Usage {
        Reading::of(std::str::from_utf8(body).unwrap()).unwrap().usage()
    }

    #[test]
    fn the_spellings_of_usage() {
        let chat = br#"{"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
        let expected = Usage { input_tokens: 9, cached_tokens: 4, output_tokens: 12, reasoning_tokens: 5, images: 0 };
        assert_eq!(read(chat), expected);
        let responses = br#"{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},
            "output_tokens":12,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":21}}"#;
        assert_eq!(read(responses), expected);
        let messages = br#"{"usage":{"input_tokens":3,"cache_creation_input_tokens":2,"cache_read_input_tokens":4,"output_tokens":12}}"#;
        assert_eq!(read(messages), Usage { reasoning_tokens: 0, ..expected });
        let gateway = br#"{"usage":{"prompt_tokens":9,"input_tokens":9,"cache_read_input_tokens":4,"completion_tokens":12}}"#;
        assert_eq!(read(gateway).input_tokens, 9);
        let rerank = br#"{"usage":{"total_tokens":56},"results":[{"index":0,"relevance_score":0.9}]}"#;
        assert_eq!(read(rerank), Usage { input_tokens: 56, ..Usage::default() });
        let both = br#"{"usage":{"prompt_tokens":9,"input_tokens":9,"completion_tokens":12,"output_tokens":12}}"#;
        assert_eq!(read(both), Usage { input_tokens: 9, output_tokens: 12, ..Usage::default() });
    }

    #[test]
    fn images_are_counted_and_embeddings_are_not() {
        assert_eq!(read(br#"{"data":[{"b64_json":"x"},{"url":"y"}]}"#).images, 2);
        assert_eq!(read(br#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3}}"#).images, 0);
    }

    #[test]
    fn the_note_follows_from_the_answer_and_from_what_is_counted() {
        let counted = |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() };
        let plain = br#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        assert_eq!(note(plain, &counted(3, 4)), None);
        assert_eq!(note(plain, &counted(0, 0)), None, "shared");
        assert_eq!(note(b"{}", &counted(0, 0)), None);
        let told = [
            note(b"{\"usage\":null}", &counted(3, 4)),
            note(br#"{"usage":{"prompt_tokens":3}}"#, &counted(3, 4)),
            note(br#"{"usage":{"prompt_tokens":-3,"completion_tokens":4}}"#, &counted(3, 4)),
            note(br#"{"usage":{"prompt_tokens":3,"completion_tokens":3.5}}"#, &counted(3, 4)),
            note(br#"{"usage":{"prompt_tokens":"x","completion_tokens":0}}"#, &counted(0, 0)),
        ];
        insta::assert_snapshot!(told.map(|note| note.unwrap_or_default()).join("\n"));
    }
}
