//! Reads a usage as providers write it: as a rule whole numbers, but fractions, texts, negative and
//! absurd numbers are met too, and the same member twice.
//!
//! What can be used counts, and a note says what was made of the rest. Nothing here guesses: what a
//! provider does not state is a gap ([`UsageGaps`]).

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Usage;

/// No answer takes more tokens; a higher number is a mistake.
const MOST_TOKENS: u64 = 1_000_000_000;
/// Characters of a value that a note repeats.
const SHOWN: usize = 24;

/// The sides of a usage that the provider does not state in a usable way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageGaps {
    pub input: bool,
    pub output: bool,
}

impl UsageGaps {
    /// Nothing is stated.
    pub const ALL: Self = Self { input: true, output: true };
}

/// What a provider reports about its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// What can be used of it; `images` is not a part of it.
    pub usage: Usage,
    pub gaps: UsageGaps,
    /// What was made of parts that are no plain numbers; `None` if all are.
    pub note: Option<String>,
}

impl Reported {
    /// Reads the member `usage` of an answer; `None` stands for a missing one.
    pub fn read(usage: Option<&RawValue>) -> Self {
        let missing = Self { gaps: UsageGaps::ALL, ..Self::default() };
        let Some(usage) = usage.filter(|usage| usage.get() != "null") else { return missing };
        match USAGE.read(usage.get()) {
            Some(stated) => sum(stated),
            None => Self { note: Some("`usage` is not an object".to_owned()), ..missing },
        }
    }
}

/// What is said of odd numbers.
#[derive(Default)]
struct Notes(String);

impl Notes {
    fn add(&mut self, name: &str, text: &str, counts: Option<u64>) {
        let gap = if self.0.is_empty() { "" } else { "; " };
        let shown: String = text.chars().take(SHOWN).collect();
        // Writing to a string cannot fail.
        let _ = match counts {
            Some(tokens) => write!(self.0, "{gap}`{name}` is {shown} and counts as {tokens}"),
            None => write!(self.0, "{gap}`{name}` is {shown} and does not count"),
        };
    }

    fn append(&mut self, other: Self) {
        let gap = if self.0.is_empty() || other.0.is_empty() { "" } else { "; " };
        self.0.push_str(gap);
        self.0.push_str(&other.0);
    }
}

/// The members of an object that are of interest: numbers of tokens, and objects.
#[derive(Clone, Copy)]
struct Wanted<const N: usize, const M: usize> {
    tokens: [&'static str; N],
    objects: [&'static str; M],
}

/// A usage, in the spellings of OpenAI's two APIs and of Anthropic's.
const USAGE: Wanted<7, 4> = Wanted {
    tokens: [
        "input_tokens",
        "prompt_tokens",
        "output_tokens",
        "completion_tokens",
        "total_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ],
    objects: ["input_tokens_details", "prompt_tokens_details", "output_tokens_details", "completion_tokens_details"],
};

/// What an object states of these members; a member that is `null` counts as missing.
struct Stated<'a, const N: usize, const M: usize> {
    /// The last usable number of each name.
    tokens: [Option<u64>; N],
    /// The last value of each name.
    objects: [Option<&'a RawValue>; M],
    notes: Notes,
}

impl<const N: usize, const M: usize> Wanted<N, M> {
    /// Reads an object; `None` if the text is none.
    fn read(self, text: &str) -> Option<Stated<'_, N, M>> {
        self.deserialize(&mut serde_json::Deserializer::from_str(text)).ok()
    }
}

impl<'de, const N: usize, const M: usize> DeserializeSeed<'de> for Wanted<N, M> {
    type Value = Stated<'de, N, M>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize, const M: usize> Visitor<'de> for Wanted<N, M> {
    type Value = Stated<'de, N, M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        let mut stated = Stated { tokens: [None; N], objects: [None; M], notes: Notes::default() };
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let value = map.next_value::<&RawValue>()?;
            if value.get() == "null" {
                continue;
            }
            if let Some((name, found)) = self.tokens.iter().zip(&mut stated.tokens).find(|(wanted, _)| **wanted == name) {
                take(found, name, value.get(), &mut stated.notes);
            } else if let Some((_, found)) = self.objects.iter().zip(&mut stated.objects).find(|(wanted, _)| **wanted == name) {
                *found = Some(value);
            }
        }
        Ok(stated)
    }
}

/// Takes one more statement of a number of tokens.
fn take(found: &mut Option<u64>, name: &str, text: &str, notes: &mut Notes) {
    match tokens(text) {
        Some((tokens, is_plain)) => {
            let before = found.replace(tokens);
            if !is_plain {
                notes.add(name, text, Some(tokens));
            } else if before.is_some_and(|before| before != tokens) {
                notes.add(name, "there more than once", Some(tokens));
            }
        }
        None => notes.add(name, text, None),
    }
}

fn sum(stated: Stated<'_, 7, 4>) -> Reported {
    let Stated { tokens, objects, mut notes } = stated;
    let [mut input, prompt, output, completion, total, read, written] = tokens;
    let [of_input, of_prompt, of_output, of_completion] = objects;
    let mut detail = |details: Option<&RawValue>, name| {
        let stated = Wanted { tokens: [name], objects: [] }.read(details?.get())?;
        let [tokens] = stated.tokens;
        notes.append(stated.notes);
        tokens
    };
    // Both spellings, because some servers send both.
    let mut output = output.or(completion);
    // Gateways to Anthropic report cache tokens beside a usage in OpenAI's form, which already
    // includes them.
    let cached = match input {
        Some(plain) if prompt.is_none() && of_input.is_none() => {
            input = Some(plain.saturating_add(read.unwrap_or(0)).saturating_add(written.unwrap_or(0)));
            read
        }
        _ => detail(of_input.or(of_prompt), "cached_tokens"),
    };
    let reasoning = detail(of_output.or(of_completion), "reasoning_tokens");
    input = input.or(prompt);
    // The total tells what one side lacks.
    match (input, output, total) {
        (Some(input), None, Some(total)) => output = Some(total.saturating_sub(input)),
        (None, Some(output), Some(total)) => input = Some(total.saturating_sub(output)),
        // Servers that only order or score texts report nothing else.
        (None, None, Some(total)) => (input, output) = (Some(total), Some(0)),
        _ => {}
    }
    let usage = Usage {
        input_tokens: input.unwrap_or(0),
        cached_tokens: cached.unwrap_or(0),
        output_tokens: output.unwrap_or(0),
        reasoning_tokens: reasoning.unwrap_or(0),
        images: 0,
    };
    let gaps = UsageGaps { input: input.is_none(), output: output.is_none() };
    Reported { usage, gaps, note: Some(notes.0).filter(|note| !note.is_empty()) }
}

/// The tokens that a JSON value states, and whether it is a plain number.
fn tokens(text: &str) -> Option<(u64, bool)> {
    if let Ok(tokens) = text.parse::<u64>() {
        return (tokens <= MOST_TOKENS).then_some((tokens, true));
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(str::trim);
    let number: f64 = inner.unwrap_or(text).parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "the range is checked")]
    (0.0..=MOST_TOKENS as f64).contains(&number).then(|| (number.ceil() as u64, inner.is_none() && number.fract() == 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Reported {
        Reported::read(Some(serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn odd_numbers_count_as_far_as_they_can_be_used_and_the_note_tells_the_rest() {
        let told = [
            r#"{"prompt_tokens":3,"completion_tokens":4.5,"total_tokens":7.5}"#,
            r#"{"prompt_tokens":"12","completion_tokens":7.0}"#,
            r#"{"prompt_tokens":-3,"completion_tokens":7,"total_tokens":10}"#,
            r#"{"prompt_tokens":1e30,"completion_tokens":18446744073709551615}"#,
            r#"{"prompt_tokens":1e999,"completion_tokens":[1],"total_tokens":"many"}"#,
            r#"{"prompt_tokens":3,"prompt_tokens":5,"completion_tokens":2,"completion_tokens":2}"#,
            r#"{"prompt_tokens":5,"prompt_tokens":-1,"completion_tokens":2}"#,
            r#"{"prompt_tokens":9,"total_tokens":9}"#,
            r#"{"input_tokens":3,"output_tokens":2,"input_tokens_details":{"cached_tokens":"2"},"output_tokens_details":3}"#,
            "{}",
            "3",
            "null",
        ]
        .map(|json| {
            let Reported { usage, gaps, note } = read(json);
            let gaps = [(gaps.input, "input"), (gaps.output, "output")].into_iter().filter(|(is, _)| *is).map(|(_, side)| side);
            let gaps: Vec<_> = gaps.collect();
            format!(
                "{json}\n  {} in, {} cached, {} out, gaps {gaps:?}: {}",
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                note.as_deref().unwrap_or("-")
            )
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_reported_is_beyond_bounds(a in "-?[0-9]{1,25}(\\.[0-9]{1,3})?(e-?[0-9]{1,4})?", b in "[\\PC&&[^\"\\\\]]{0,9}") {
            if let Ok(raw) = serde_json::from_str::<&RawValue>(&format!(r#"{{"prompt_tokens":{a},"completion_tokens":"{b}","{b}":{a}}}"#)) {
                let usage = Reported::read(Some(raw)).usage;
                prop_assert!(usage.total_tokens() <= 2 * MOST_TOKENS);
            }
        }
    }
}
