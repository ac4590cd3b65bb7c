//! How many tokens and images a response reports as used.
//!
//! The usage is read from the provider's body. It may have the chat form (`prompt_tokens`,
//! `completion_tokens`) or the Responses form (`input_tokens`, `output_tokens`) of OpenAI's
//! document, or the form of Anthropic's Messages, which counts cache reads and writes beside
//! `input_tokens`. A body that states no usage counts as zero; nothing is guessed.

use std::ops::AddAssign;

use serde::Deserialize;
use serde::de::IgnoredAny;

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

/// The members that are read of a successful body. Reading walks the whole body, so a body that
/// parses into a probe is complete, valid JSON.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(default)]
    data: Option<Images>,
}

/// Both spellings in one struct, because some servers send both.
#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    input_tokens_details: Option<Details>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
    #[serde(default)]
    output_tokens_details: Option<Details>,
    #[serde(default)]
    completion_tokens_details: Option<Details>,
}

#[derive(Deserialize, Default)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

/// Counts the elements of `data` that are generated images, without keeping them.
struct Images(u64);

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counter;
        impl<'de> serde::de::Visitor<'de> for Counter {
            type Value = Images;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("anything")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Images, A::Error> {
                let mut count = 0;
                while let Some(image) = seq.next_element::<MaybeImage>()? {
                    count += u64::from(image.0);
                }
                Ok(Images(count))
            }
        }
        deserializer.deserialize_seq(Counter)
    }
}

struct MaybeImage(bool);

impl<'de> Deserialize<'de> for MaybeImage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Element {
            #[serde(default)]
            b64_json: Option<IgnoredAny>,
            #[serde(default)]
            url: Option<IgnoredAny>,
        }
        let element = Element::deserialize(deserializer)?;
        Ok(Self(element.b64_json.is_some() || element.url.is_some()))
    }
}

/// Reads the usage of a successful body.
///
/// # Errors
/// When the body is not one complete JSON object. A `usage` of an unknown shape is not an error;
/// it counts as zero, because the answer itself is good.
pub fn read(body: &[u8]) -> Result<Usage, serde_json::Error> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        // serde would also read the struct from an array.
        return Err(serde::de::Error::custom("not a JSON object"));
    }
    match serde_json::from_slice::<Probe>(body) {
        Ok(probe) => Ok(probe.into()),
        Err(error) if error.is_data() => {
            // The syntax is valid but the shape unknown: only the syntax decides whether the row
            // succeeded.
            serde_json::from_slice::<IgnoredAny>(body).map(|_| Usage::default())
        }
        Err(error) => Err(error),
    }
}

impl From<Probe> for Usage {
    fn from(probe: Probe) -> Self {
        let images = probe.data.map_or(0, |d| d.0);
        let Some(mut raw) = probe.usage else { return Self { images, ..Self::default() } };
        // Servers that only order or score texts report nothing but a total.
        if [raw.input_tokens, raw.prompt_tokens, raw.output_tokens, raw.completion_tokens].iter().all(Option::is_none) {
            raw.prompt_tokens = raw.total_tokens;
        }
        // Gateways to Anthropic report cache tokens beside a usage in OpenAI's form, which already
        // includes them.
        let beside = raw.prompt_tokens.is_none() && raw.input_tokens_details.is_none();
        if let (true, Some(input)) = (beside, raw.input_tokens) {
            let cached = raw.cache_read_input_tokens.unwrap_or(0);
            return Self {
                input_tokens: input.saturating_add(cached).saturating_add(raw.cache_creation_input_tokens.unwrap_or(0)),
                output_tokens: raw.output_tokens.or(raw.completion_tokens).unwrap_or(0),
                cached_tokens: cached,
                reasoning_tokens: raw.output_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or(0),
                images,
            };
        }
        Self {
            input_tokens: raw.input_tokens.or(raw.prompt_tokens).unwrap_or(0),
            output_tokens: raw.output_tokens.or(raw.completion_tokens).unwrap_or(0),
            cached_tokens: raw.input_tokens_details.or(raw.prompt_tokens_details).and_then(|d| d.cached_tokens).unwrap_or(0),
            reasoning_tokens: raw.output_tokens_details.or(raw.completion_tokens_details).and_then(|d| d.reasoning_tokens).unwrap_or(0),
            images,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_usage() {
        let chat = br#"{"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
        let expected = Usage { input_tokens: 9, cached_tokens: 4, output_tokens: 12, reasoning_tokens: 5, images: 0 };
        assert_eq!(read(chat).unwrap(), expected);
        let responses = br#"{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},
            "output_tokens":12,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":21}}"#;
        assert_eq!(read(responses).unwrap(), expected);
        let messages = br#"{"usage":{"input_tokens":3,"cache_creation_input_tokens":2,"cache_read_input_tokens":4,"output_tokens":12}}"#;
        assert_eq!(read(messages).unwrap(), Usage { reasoning_tokens: 0, ..expected });
        let gateway = br#"{"usage":{"prompt_tokens":9,"input_tokens":9,"cache_read_input_tokens":4,"completion_tokens":12}}"#;
        assert_eq!(read(gateway).unwrap().input_tokens, 9);
        let rerank = br#"{"usage":{"total_tokens":56},"results":[{"index":0,"relevance_score":0.9}]}"#;
        assert_eq!(read(rerank).unwrap(), Usage { input_tokens: 56, ..Usage::default() });
        let both = br#"{"usage":{"prompt_tokens":9,"input_tokens":9,"completion_tokens":12,"output_tokens":12}}"#;
        assert_eq!(read(both).unwrap(), Usage { input_tokens: 9, output_tokens: 12, ..Usage::default() });
    }

    #[test]
    fn images_are_counted_and_embeddings_are_not() {
        assert_eq!(read(br#"{"data":[{"b64_json":"x"},{"url":"y"}]}"#).unwrap().images, 2);
        assert_eq!(read(br#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3}}"#).unwrap().images, 0);
    }

    #[test]
    fn only_a_complete_object_is_a_success() {
        assert_eq!(read(br#"{"usage":"none","data":3}"#).unwrap(), Usage::default());
        for bad in [&b"{\"usage\":{}"[..], b"<html>", b"", b"[1]", b"[]", b"3", b"{} x", b"null"] {
            assert!(read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
