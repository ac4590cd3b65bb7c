//! The parts of an item that routing and pricing depend on: its texts, its images, and its output
//! limit. They are read from the item's `input`, which has the form of OpenAI's or Anthropic's
//! requests.
//!
//! A fault that concerns only a provider is left for the provider to report. This module refuses
//! only items that no provider could answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Attachment, InputTokens, Item, Output, media};
use crate::domain::endpoint::Endpoint;
use crate::domain::format::wire::WireFormat;
use crate::domain::format::{Form, forms};
use crate::domain::row::output_limits::OutputLimits;
use crate::domain::vocabulary::Modality;
use crate::quote::file_estimate::ASSUMED_OUTPUT_TOKENS;
use crate::quote::media::IMAGE_HIGH;
use crate::quote::tokens::{Counter, Tokenizer};

/// Tokens around each message, and before the answer, as counted in OpenAI's cookbook.
const PER_MESSAGE: u64 = 3;
/// Tokens of an image of low detail, and of an image of 1024 by 1024 pixels of high detail, by
/// OpenAI's rule for GPT-4o. The size of an image is unknown until it is fetched.
const IMAGE_LOW: u64 = 85;

/// Why no provider could answer an item: the place below its input, and what would be correct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// The member of the input; empty for the input itself.
    pub member: &'static str,
    pub message: &'static str,
}

/// How the output of an item was estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputBasis {
    /// The item writes no text.
    Nothing,
    /// The limit that the item states.
    Limit,
    /// An assumed length.
    Assumed,
}

/// The word on the wire for an estimate from a lane's observed answers.
pub const OBSERVED: &str = "observed";

impl OutputBasis {
    /// The word for the basis on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Limit => "stated_limit",
            Self::Assumed => "assumed",
        }
    }
}

/// The parts of an item after it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<'a> {
    formats: &'static [WireFormat],
    texts: Vec<&'a str>,
    /// Whether each text is read on its own.
    apart: bool,
    /// Tokens other than those of the texts.
    frame: u64,
    /// Approximate tokens of encoded files.
    media: u64,
    /// Of the frame's tokens, those of images.
    images: u64,
    modalities: Vec<Modality>,
    output: Output,
    pub basis: OutputBasis,
    /// Ids of the files that the item names.
    pub file_ids: Vec<&'a str>,
}

impl<'a> Content<'a> {
    /// Reads the input of an item that asks in this form and states these limits.
    ///
    /// # Errors
    /// When no provider could answer the item.
    pub fn read(asked: Endpoint, input: &'a Map<String, Value>, limits: OutputLimits) -> Result<Self, Misread> {
        let mut content = Self {
            formats: forms(asked, input),
            texts: Vec::new(),
            apart: false,
            frame: 0,
            media: 0,
            images: 0,
            modalities: Vec::new(),
            output: Output::NOTHING,
            basis: OutputBasis::Nothing,
            file_ids: Vec::new(),
        };
        match asked {
            Endpoint::Embeddings => content.embeddings(input)?,
            _ => content.conversation(asked, input, limits)?,
        }
        Ok(content)
    }

    fn embeddings(&mut self, input: &'a Map<String, Value>) -> Result<(), Misread> {
        let wrong = Misread { member: "input", message: "must be the text to embed, or an array of texts" };
        self.apart = true;
        match input.get("input") {
            Some(Value::String(text)) if !text.is_empty() => self.texts.push(text),
            Some(Value::Array(texts)) if !texts.is_empty() => {
                for text in texts {
                    match text {
                        Value::String(text) => self.texts.push(text),
                        // A text that the client has already split into tokens.
                        Value::Array(tokens) => self.frame += tokens.len() as u64,
                        Value::Number(_) => self.frame += 1,
                        _ => return Err(wrong),
                    }
                }
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    fn conversation(&mut self, asked: Endpoint, input: &'a Map<String, Value>, limits: OutputLimits) -> Result<(), Misread> {
        let wrong = Misread { member: "", message: "must have `messages`, an array of messages, or `input`, a text or such an array" };
        self.frame = PER_MESSAGE;
        match input.get(if asked == Endpoint::Responses { "input" } else { "messages" }) {
            Some(Value::Array(messages)) if !messages.is_empty() => {
                messages.iter().try_for_each(|message| self.message(message))?;
            }
            Some(Value::String(text)) if !text.is_empty() && asked == Endpoint::Responses => {
                self.frame += PER_MESSAGE;
                self.texts.push(text);
            }
            _ => return Err(wrong),
        }
        for member in ["instructions", "system", "tools", "response_format", "text", "output_config"] {
            if let Some(value) = input.get(member) {
                self.strings(value);
            }
        }
        self.limit_output(limits);
        Ok(())
    }

    fn message(&mut self, message: &'a Value) -> Result<(), Misread> {
        let Value::Object(message) = message else {
            return Err(Misread { member: "messages", message: "must have objects with a `role` and a `content`" });
        };
        self.frame += PER_MESSAGE;
        for (name, value) in message {
            match (name.as_str(), value) {
                ("content", Value::Array(parts)) => parts.iter().for_each(|part| self.part(part)),
                // One token each, which the frame already counts.
                ("role" | "type", _) => {}
                (_, value) => self.strings(value),
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &'a Value) {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        let holder = match kind {
            "file" => part.get("file"),
            "image" | "document" => part.get("source").or(Some(part)),
            _ => Some(part),
        };
        self.file_ids.extend(holder.and_then(|holder| holder.get("file_id")?.as_str()));
        match kind {
            "image_url" | "input_image" | "image" => {
                let detail = part.get("detail").or_else(|| part.get("image_url")?.get("detail")).and_then(Value::as_str);
                let tokens = if detail == Some("low") { IMAGE_LOW } else { IMAGE_HIGH };
                (self.frame, self.images) = (self.frame + tokens, self.images + tokens);
                self.has(Modality::Image);
            }
            "input_audio" | "audio" => {
                let data = part.get("input_audio").or(Some(part)).and_then(|audio| audio.get("data"));
                self.encoded(data, "audio/wav");
                self.has(Modality::Audio);
            }
            "document" if part.get("source").is_some() => self.document(part, holder),
            "file" | "input_file" | "document" => {
                self.encoded(holder.and_then(|file| file.get("file_data")), "application/pdf");
                self.has(Modality::Document);
            }
            "tool_result" => {
                self.frame += 1;
                match part.get("content") {
                    Some(Value::Array(parts)) => parts.iter().for_each(|part| self.part(part)),
                    Some(content) => self.strings(content),
                    None => {}
                }
            }
            "video" | "video_url" | "input_video" => {
                let url = part.get("video_url").map(|video| video.get("url").unwrap_or(video));
                self.encoded(url.filter(|url| url.as_str().is_some_and(|url| url.starts_with("data:"))), "video/mp4");
                self.has(Modality::Video);
            }
            _ => self.strings(part),
        }
    }

    /// Reads a document of Messages: plain text, or a file.
    fn document(&mut self, part: &'a Value, source: Option<&'a Value>) {
        self.strings(part.get("title").unwrap_or(&Value::Null));
        self.strings(part.get("context").unwrap_or(&Value::Null));
        let of_source = |name: &str| source.and_then(|source| source.get(name));
        match of_source("type").and_then(Value::as_str) {
            Some("text") => self.strings(of_source("data").unwrap_or(&Value::Null)),
            Some("content") => match of_source("content") {
                Some(Value::Array(parts)) => parts.iter().for_each(|part| self.part(part)),
                content => self.strings(content.unwrap_or(&Value::Null)),
            },
            _ => {
                self.encoded(of_source("data"), "application/pdf");
                self.has(Modality::Document);
            }
        }
    }

    fn encoded(&mut self, data: Option<&'a Value>, expected: &'static str) {
        if let Some(text) = data.and_then(Value::as_str) {
            let (mime, bytes) = media::encoded(text, expected);
            self.media = self.media.saturating_add(media::tokens(mime, bytes));
        }
    }

    fn has(&mut self, modality: Modality) {
        if !self.modalities.contains(&modality) {
            self.modalities.push(modality);
        }
    }

    /// Collects every text in a value. Everything around the texts counts for one token each.
    fn strings(&mut self, value: &'a Value) {
        match value {
            Value::String(text) => self.texts.push(text),
            Value::Array(values) => values.iter().for_each(|value| self.strings(value)),
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                if name != "type" {
                    self.frame += 1;
                    self.strings(value);
                }
            }),
            Value::Number(_) | Value::Bool(_) => self.frame += 1,
            Value::Null => {}
        }
    }

    fn limit_output(&mut self, OutputLimits { tokens: limit, answers }: OutputLimits) {
        self.output = Output { tokens: limit.unwrap_or(ASSUMED_OUTPUT_TOKENS).saturating_mul(answers), answers, limit };
        self.basis = if limit.is_some() { OutputBasis::Limit } else { OutputBasis::Assumed };
    }

    /// Whether the item contains more than text.
    pub fn has_media(&self) -> bool {
        !self.modalities.is_empty()
    }

    /// Approximate tokens to be read. Texts are measured instead of counted: `bytes_per_token`
    /// bytes make one token.
    pub fn measured(&self, files: &[Attachment], bytes_per_token: u64) -> u64 {
        let texts = self.texts.iter().map(|text| text.len() as u64 / bytes_per_token);
        texts.fold(self.frame.saturating_add(self.media).saturating_add(of_files(files)), u64::saturating_add)
    }

    /// Approximate tokens of images, encoded files, and these files that the item names.
    pub fn media(&self, files: &[Attachment]) -> u64 {
        self.images.saturating_add(self.media).saturating_add(of_files(files))
    }

    /// Keeps only the forms whose answers the client reads in the form in which it asked.
    pub fn keep_its_form(&mut self) {
        let Some(asked) = self.formats.first().map(|own| own.endpoint()) else { return };
        let kept = self.formats.iter().take_while(|sent| Form { asked, sent: **sent }.is_kept()).count();
        self.formats = &self.formats[..kept];
    }

    /// The output that the item asks for.
    pub fn output(&self) -> Output {
        self.output
    }

    /// The item with the files that it names, its tokens counted for each of these tokenizers.
    /// Takes time; see [`Counter`].
    pub fn into_item(self, files: Vec<Attachment>, tokenizers: &[Tokenizer], counters: &mut BTreeMap<Tokenizer, Counter>) -> Item {
        let media = self.media.saturating_add(of_files(&files));
        let mut count = |tokenizer: &Tokenizer| {
            let counter = counters.entry(*tokenizer).or_insert_with(|| Counter::new(*tokenizer));
            let (mut all, mut longest) = (self.frame, self.frame);
            for text in &self.texts {
                let tokens = counter.count(text);
                all = all.saturating_add(tokens);
                longest = longest.max(tokens);
            }
            // A guessed number of tokens does not exclude an item from a window.
            let longest = if self.apart { longest } else { all };
            InputTokens { tokenizer: *tokenizer, all: all.saturating_add(media), longest }
        };
        Item {
            formats: self.formats,
            input_tokens: tokenizers.iter().map(&mut count).collect(),
            output: self.output,
            modalities: self.modalities,
            files,
        }
    }
}

/// Tokens of files that travel with an item. Images are already counted in the item's frame.
fn of_files(files: &[Attachment]) -> u64 {
    let others = files.iter().filter(|file| !file.mime.starts_with("image/"));
    others.map(|file| media::tokens(&file.mime, file.bytes)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::output_limits::Holder;
    use proptest::prelude::*;
    use serde_json::json;

    fn item(asked: Endpoint, input: Value) -> Result<(Item, OutputBasis), Misread> {
        let Value::Object(input) = input else { panic!("an object") };
        let limits = OutputLimits::of(&input, Holder::Body).unwrap_or_default();
        let content = Content::read(asked, &input, limits)?;
        let basis = content.basis;
        Ok((content.into_item(Vec::new(), &[Tokenizer::O200k], &mut BTreeMap::new()), basis))
    }

    #[test]
    fn forms_of_input_as_they_are_read() {
        let told = [
            (Endpoint::ChatCompletions, json!({"messages": [{"role": "user", "content": "Hello, world!"}], "max_tokens": 5, "n": 2})),
            (Endpoint::Responses, json!({"input": "Hello, world!", "max_output_tokens": 7})),
            (Endpoint::Responses, json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello, world!"}]}]})),
            (
                Endpoint::ChatCompletions,
                json!({"messages": [{"role": "user", "content": [
                    {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "low"}}
                ]}]}),
            ),
            (
                Endpoint::Messages,
                json!({"system": "Be brief.", "max_tokens": 9, "messages": [{"role": "user", "content": [
                    {"type": "text", "text": "What is it?"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hello, world!"}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "file", "file_id": "file-1"}}]}
                ]}]}),
            ),
            (Endpoint::Messages, json!({"max_tokens": 9, "top_k": 3, "messages": [{"role": "user", "content": "Hello, world!"}]})),
            (Endpoint::Embeddings, json!({"input": "Hello, world!"})),
            (Endpoint::Embeddings, json!({"input": ["Hello", "world"]})),
            (Endpoint::Embeddings, json!({"input": [[1, 2, 3]]})),
            (Endpoint::ChatCompletions, json!({"messages": []})),
            (Endpoint::ChatCompletions, json!({"messages": ["text"]})),
            (Endpoint::Responses, json!({"prompt": "a"})),
            (Endpoint::Embeddings, json!({"input": [true]})),
            (Endpoint::Embeddings, json!({"messages": []})),
        ]
        .map(|(asked, input)| format!("{asked} {input}\n  {:?}", item(asked, input.clone())));
        insta::assert_snapshot!(told.join("\n"));
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[a-z ]{0,20}", n: u64, depth in 0_usize..50) {
            let mut value = json!(text);
            for _ in 0..depth {
                value = json!([{ "content": value, "text": n }]);
            }
            for asked in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Messages, Endpoint::Embeddings] {
                for input in [json!({"messages": value, "n": n, "max_tokens": n}), json!({"input": value}), json!({"input": value, "tools": value})] {
                    let _ = item(asked, input);
                }
            }
        }
    }
}
