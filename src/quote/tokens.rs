//! How many tokens a text has, before a provider has read it.
//!
//! OpenAI's vocabularies are public and built into the program; their counts are exact except for
//! the few tokens of a message's frame. For other families, bytes are divided by a measured ratio,
//! and the result says so.
//!
//! Counting takes time (36 MB/s and core were measured; setting up a vocabulary 0.15 s), so it
//! belongs on a blocking thread, and a [`Counter`] counts no more than a sample of a large input.

use std::fmt;

use tiktoken_rs::CoreBPE;

/// Bytes of text that a [`Counter`] counts with each vocabulary. The rest is assumed to be similar.
const SAMPLE: u64 = 8 << 20;
/// A piece of text without a space is cut after this many bytes: merging takes time that grows with
/// the square of a piece, and the author of the text chooses the pieces.
const MAX_PIECE: usize = 512;

/// How a family of models splits text into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tokenizer {
    /// OpenAI's vocabulary since GPT-4o, also of its open models.
    O200k,
    /// OpenAI's vocabulary of GPT-4, GPT-3.5 and the embeddings.
    Cl100k,
    /// The vocabulary is not available: this many hundredths of a byte make a token, at least 100.
    Ratio(u16),
}

/// Families whose vocabulary is not in the program: a part of the model's name, and hundredths of a
/// byte for each token. Measured in November 2026 with their public vocabularies on 256 KB: this
/// project's manual, 2,000 English questions and Rust source (o200k and cl100k there: 401). For
/// Claude there are only reconstructions by others (343; 263 for the models since Opus 4.7).
const RATIOS: &[(&str, u16)] = &[
    ("claude-opus-4-7", 263),
    ("claude-opus-4-8", 263),
    ("claude-opus-5", 263),
    ("claude-sonnet-5", 263),
    ("claude-haiku-5", 263),
    ("claude-fable", 263),
    ("claude", 343),
    ("gemini", 350),
    ("gemma", 349),
    ("llama", 401),
    ("qwen3.5", 361),
    ("qwen3.6", 361),
    ("qwen", 385),
    ("deepseek", 389),
    ("mistral", 377),
    ("mixtral", 327),
    ("command", 355),
];
/// The ratio for all other families: about the lowest of these.
const OTHERS: u16 = 350;

impl Tokenizer {
    /// The tokenizer of a model, by its canonical name or a provider's name for it.
    pub fn of(model: &str) -> Self {
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        match tiktoken_rs::tokenizer::get_tokenizer(&name) {
            Some(tiktoken_rs::tokenizer::Tokenizer::O200kBase | tiktoken_rs::tokenizer::Tokenizer::O200kHarmony) => Self::O200k,
            Some(tiktoken_rs::tokenizer::Tokenizer::Cl100kBase) => Self::Cl100k,
            // The library does not know the model, so it is newer and will hardly have an older
            // vocabulary.
            _ if name.starts_with("gpt-") => Self::O200k,
            _ => Self::Ratio(RATIOS.iter().find(|(family, _)| name.contains(family)).map_or(OTHERS, |(_, ratio)| *ratio)),
        }
    }

    fn vocabulary(self) -> Option<&'static CoreBPE> {
        match self {
            Self::O200k => Some(tiktoken_rs::o200k_base_singleton()),
            Self::Cl100k => Some(tiktoken_rs::cl100k_base_singleton()),
            Self::Ratio(_) => None,
        }
    }
}

impl fmt::Display for Tokenizer {
    /// The name of the vocabulary, or the ratio.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::O200k => f.write_str("o200k_base"),
            Self::Cl100k => f.write_str("cl100k_base"),
            Self::Ratio(hundredths) => write!(f, "{}.{:02} bytes a token", hundredths / 100, hundredths % 100),
        }
    }
}

/// Counts the tokens of the texts of one input, with one tokenizer.
#[derive(Debug)]
pub struct Counter {
    tokenizer: Tokenizer,
    /// Bytes that were counted, and the tokens that they make.
    counted: (u64, u64),
    /// Bytes that were not counted.
    guessed: u64,
}

impl Counter {
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, counted: (0, 0), guessed: 0 }
    }

    /// Approximate tokens of a text. Blocks for as long as counting takes.
    pub fn count(&mut self, text: &str) -> u64 {
        let bytes = text.len() as u64;
        match self.tokenizer {
            Tokenizer::Ratio(hundredths) => bytes.saturating_mul(100).div_ceil(u64::from(hundredths.max(100))),
            Tokenizer::O200k | Tokenizer::Cl100k => match self.tokenizer.vocabulary() {
                Some(vocabulary) => pieces(text).map(|piece| self.piece(vocabulary, piece)).fold(0, u64::saturating_add),
                None => bytes,
            },
        }
    }

    fn piece(&mut self, vocabulary: &CoreBPE, piece: &str) -> u64 {
        let bytes = piece.len() as u64;
        if self.counted.0 < SAMPLE {
            let tokens = vocabulary.count_ordinary(piece) as u64;
            self.counted = (self.counted.0 + bytes, self.counted.1 + tokens);
            return tokens;
        }
        self.guessed += bytes;
        let (counted, tokens) = self.counted;
        u64::try_from((u128::from(bytes) * u128::from(tokens)).div_ceil(u128::from(counted))).unwrap_or(u64::MAX)
    }

    /// How the numbers came about.
    pub fn basis(&self) -> Basis {
        match self.tokenizer {
            Tokenizer::Ratio(_) => Basis::Ratio,
            Tokenizer::O200k | Tokenizer::Cl100k if self.guessed > 0 => Basis::Sampled,
            Tokenizer::O200k | Tokenizer::Cl100k => Basis::Counted,
        }
    }
}

/// How a number of tokens was found, from the most to the least certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Counted with the model's own vocabulary.
    Counted,
    /// A part was counted; the rest was estimated from that part.
    Sampled,
    /// Estimated from bytes.
    Ratio,
    /// The item contains more than text, and the size of the rest is unknown.
    Media,
}

impl Basis {
    /// The word for the basis on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "tokenizer",
            Self::Sampled => "tokenizer_sample",
            Self::Ratio => "bytes_per_token",
            Self::Media => "assumed_media",
        }
    }
}

/// The text in pieces of bounded size, cut before spaces where there are any.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len();
        if end > MAX_PIECE {
            let most = rest.floor_char_boundary(MAX_PIECE);
            end = rest[..most].rfind(' ').filter(|place| *place > 0).unwrap_or(most);
        }
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_has_the_vocabulary_of_its_family() {
        for (model, expected) in [
            ("gpt-4o-mini", Tokenizer::O200k),
            ("openai/gpt-4.1", Tokenizer::O200k),
            ("openai/gpt-oss-120b", Tokenizer::O200k),
            ("text-embedding-3-small", Tokenizer::Cl100k),
            ("gpt-3.5-turbo", Tokenizer::Cl100k),
            ("gpt-99-nano", Tokenizer::O200k),
            ("anthropic/claude-sonnet-4-5", Tokenizer::Ratio(343)),
            ("qwen3-8b", Tokenizer::Ratio(385)),
            ("", Tokenizer::Ratio(350)),
        ] {
            assert_eq!(Tokenizer::of(model), expected, "{model}");
        }
    }

    #[test]
    fn openais_own_examples_count_as_openai_says() {
        // From OpenAI's cookbook, "How to count tokens with tiktoken".
        for (text, cl100k, o200k) in [("antidisestablishmentarianism", 6, 6), ("2 + 2 = 4", 7, 7), ("お誕生日おめでとう", 9, 8)] {
            assert_eq!(Counter::new(Tokenizer::Cl100k).count(text), cl100k, "{text}");
            assert_eq!(Counter::new(Tokenizer::O200k).count(text), o200k, "{text}");
        }
    }

    #[test]
    fn behind_the_sample_the_rest_is_like_it() {
        let mut counter = Counter::new(Tokenizer::O200k);
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(20);
        let first = counter.count(&text);
        assert_eq!(counter.basis(), Basis::Counted);
        // Counting also stops within a single text.
        let times = SAMPLE / text.len() as u64 * 3;
        let many = counter.count(&text.repeat(usize::try_from(times).unwrap()));
        assert_eq!((counter.basis(), counter.counted.0 / (SAMPLE + 1_000)), (Basis::Sampled, 0));
        assert!(many.abs_diff(first * times) < first * times / 50, "{many} of {}", first * times);
    }

    proptest! {
        #[test]
        fn pieces_are_the_text_and_are_bounded(text in "[ a-zé語]{0,3000}") {
            prop_assert_eq!(pieces(&text).collect::<String>(), &text[..]);
            prop_assert!(pieces(&text).all(|piece| !piece.is_empty() && piece.len() <= MAX_PIECE));
        }

        #[test]
        fn no_text_panics(text in ".{0,2000}", repeat in 1_usize..50) {
            let text = text.repeat(repeat);
            for tokenizer in [Tokenizer::O200k, Tokenizer::Cl100k, Tokenizer::Ratio(0)] {
                let tokens = Counter::new(tokenizer).count(&text);
                prop_assert!(tokens <= text.len() as u64 && (tokens > 0) != text.is_empty());
            }
        }
    }
}
