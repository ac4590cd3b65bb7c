//! Log probabilities of the tokens of a text, in the forms of the three APIs.
//!
//! Tokens are pieces of at most four bytes that end between characters. The probabilities follow
//! from the row, and are drawn apart from everything else: a row that asks for them gets the same
//! text as one that does not.

use super::lexicon::word;
use crate::provider::simulated::json::Json;
use crate::provider::simulated::profile::Dice;
use crate::provider::simulated::request::SimulatedRefusal;

/// The most probabilities in an answer: alternatives multiply the size of a text.
const MOST: u64 = 100_000;
/// Makes these draws differ from those of the text.
const SALT: u64 = 0x6c6f_6770_726f_6273;

/// Refuses what would be larger than any answer of a model.
pub(super) fn check(tokens: u64, alternatives: Option<u64>) -> Result<(), SimulatedRefusal> {
    let Some(alternatives) = alternatives else { return Ok(()) };
    if tokens.saturating_mul(alternatives.saturating_add(1)) <= MOST {
        return Ok(());
    }
    let message = format!("Cannot simulate the log probabilities of {tokens} tokens with {alternatives} alternatives to each.");
    Err(SimulatedRefusal::new(message, Some("logprobs")))
}

/// `logprobs` of a choice of a chat.
pub(super) fn of_chat(text: &str, alternatives: u64, seed: u64, json: &mut Json) {
    json.object(|json| {
        json.key("content");
        of_text(text, alternatives, seed, json);
        json.key("refusal").null();
    });
}

/// `logprobs` of a text of a response; also the `content` of those of a chat.
pub(super) fn of_text(text: &str, alternatives: u64, seed: u64, json: &mut Json) {
    json.array(|json| {
        for Token { text, chances, .. } in tokens(text, alternatives, seed) {
            json.object(|json| {
                let mut likely = chances.iter();
                likely.next().into_iter().for_each(|(_, chance)| token(text, *chance, json));
                json.key("top_logprobs").array(|json| {
                    // The token itself is among the likely ones.
                    for (text, chance) in chances.iter().take(usize::try_from(alternatives).unwrap_or(0)) {
                        json.object(|json| token(text, *chance, json));
                    }
                });
            });
        }
    });
}

fn token(text: &str, chance: f32, json: &mut Json) {
    json.key("token").text(text);
    json.key("logprob").float(chance);
    json.key("bytes").array(|json| text.bytes().for_each(|byte| json.number(byte.into())));
}

/// `logprobs` of a choice of a text completion.
pub(super) fn of_completion(text: &str, alternatives: u64, seed: u64, json: &mut Json) {
    let all: Vec<Token<'_>> = tokens(text, alternatives, seed).collect();
    json.object(|json| {
        json.key("tokens").array(|json| all.iter().for_each(|token| json.text(token.text)));
        json.key("token_logprobs").array(|json| {
            all.iter().filter_map(|token| token.chances.first()).for_each(|(_, chance)| json.float(*chance));
        });
        json.key("top_logprobs").array(|json| {
            for token in &all {
                json.object(|json| {
                    for (text, chance) in token.chances.iter().take(usize::try_from(alternatives).unwrap_or(0)) {
                        json.name(text).float(*chance);
                    }
                });
            }
        });
        json.key("text_offset").array(|json| all.iter().for_each(|token| json.number(token.offset)));
    });
}

/// A piece of a text.
struct Token<'a> {
    text: &'a str,
    /// Characters before it.
    offset: u64,
    /// The token itself, then the alternatives, the likelier first.
    chances: Vec<(&'a str, f32)>,
}

fn tokens(mut text: &str, alternatives: u64, seed: u64) -> impl Iterator<Item = Token<'_>> {
    let (mut dice, mut offset) = (Dice::new(seed ^ SALT), 0);
    std::iter::from_fn(move || {
        let end = text.floor_char_boundary(4);
        if end == 0 {
            return None;
        }
        let (token, rest) = text.split_at(end);
        text = rest;
        let mut chance = -0.5 * dice.unit() as f32;
        let mut chances = vec![(token, chance)];
        let first = dice.next();
        for other in (0..).map(|n| word(first.wrapping_add(n))).filter(|other| *other != token) {
            if chances.len() as u64 >= alternatives {
                break;
            }
            chance -= 0.1 + 2.0 * dice.unit() as f32;
            chances.push((other, chance));
        }
        let token = Token { text: token, offset, chances };
        offset += token.text.chars().count() as u64;
        Some(token)
    })
}
