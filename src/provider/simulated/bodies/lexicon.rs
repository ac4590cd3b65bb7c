//! Text of an exact length that looks like an answer to the prompt.

use crate::provider::simulated::profile::Dice;
use crate::provider::simulated::request::tokens;

/// Characters of the prompt that are quoted.
const MAX_QUOTE_CHARS: usize = 60;
/// Length of an answer without any limit, in tokens: this many, and up to as many more.
const USUAL_TOKENS: u64 = 24;
const USUAL_SPREAD: u64 = 73;

/// 32 words, so that five bits pick one.
const WORDS: [&str; 32] = [
    "the", "a", "batch", "row", "answer", "model", "result", "value", "some", "every", "first", "next", "clear", "small", "useful",
    "plain", "shows", "holds", "takes", "gives", "follows", "keeps", "and", "or", "with", "from", "into", "for", "of", "as", "by", "then",
];

/// One of the words.
pub(super) fn word(number: u64) -> &'static str {
    WORDS[(number & 31) as usize]
}

/// What limits the length of a text, in tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Length {
    /// The text must have exactly this length.
    pub wanted: Option<u64>,
    /// The row's own maximum.
    pub limit: Option<u64>,
}

/// A text, and whether the row's limit cut it off.
#[derive(Debug)]
pub(super) struct Text {
    pub text: String,
    pub cut: bool,
}

impl Text {
    /// `text` within the row's limit.
    pub fn limited(mut text: String, limit: Option<u64>) -> Self {
        let most = limit.and_then(|limit| usize::try_from(limit.saturating_mul(4)).ok()).unwrap_or(usize::MAX);
        let cut = text.len() > most;
        if cut {
            text.truncate(text.floor_char_boundary(most));
        }
        Self { text, cut }
    }

    pub fn tokens(&self) -> u64 {
        tokens(self.text.len())
    }
}

/// An answer to `prompt`.
pub(super) fn answer(prompt: &str, length: Length, dice: &mut Dice) -> Text {
    let usual = USUAL_TOKENS + dice.below(USUAL_SPREAD);
    let wanted = length.wanted.unwrap_or(usual);
    // Text that the limit would cut off again need not be written.
    let written = length.limit.map_or(wanted, |limit| wanted.min(limit));
    let bytes = usize::try_from(written.saturating_mul(4)).unwrap_or(usize::MAX);
    let mut text = String::with_capacity(bytes.saturating_add(MAX_QUOTE_CHARS * 4));
    text.push_str("Simulated answer to \"");
    quote(prompt, &mut text);
    text.push_str("\":");
    while text.len() < bytes {
        let mut bits = dice.next();
        for _ in 0..12 {
            text.push(' ');
            text.push_str(word(bits));
            bits >>= 5;
        }
    }
    text.truncate(text.floor_char_boundary(bytes));
    let cut = written < wanted;
    if length.wanted.is_none()
        && !cut
        && let Some(end) = text.rfind(' ')
    {
        // No exact length was requested, so the text may end after a whole word.
        text.truncate(end + 1);
    }
    if !cut && text.pop().is_some() {
        text.push('.');
    }
    Text { text, cut }
}

/// The beginning of the prompt on one line.
fn quote(prompt: &str, out: &mut String) {
    let mut chars = prompt.trim_start().chars();
    out.extend(chars.by_ref().take(MAX_QUOTE_CHARS).map(tame));
    if chars.next().is_some() {
        out.push('…');
    }
}

/// Replaces characters that would end the quotation or the line.
fn tame(c: char) -> char {
    match c {
        '"' => '\'',
        c if c.is_whitespace() => ' ',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_has_the_length_that_was_asked_for(prompt: String, wanted in proptest::option::of(1_u64..400), limit in proptest::option::of(1_u64..400), seed: u64) {
            let text = answer(&prompt, Length { wanted, limit }, &mut Dice::new(seed));
            if let Some(limit) = limit {
                prop_assert!(text.tokens() <= limit);
            }
            match (wanted, limit) {
                (Some(wanted), Some(limit)) => prop_assert!(text.tokens() <= wanted && text.cut == (limit < wanted)),
                (Some(wanted), None) => prop_assert!(!text.cut && text.tokens() <= wanted && text.tokens() + 1 >= wanted),
                (None, Some(_) | None) => prop_assert!(text.tokens() < 100),
            }
        }
    }
}
