//! Bodies of the operations that turn a recording into text.
//!
//! Nothing is listened to: a recording is as long as an MP3 file of its size would be, and its words
//! follow from its bytes.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::Draft;
use super::lexicon::word;
use crate::domain::format::wire::WireFormat;
use crate::provider::CallFile;
use crate::provider::simulated::json::Json;
use crate::provider::simulated::request::{SimulatedRefusal, raw_tokens, string, tokens};
use crate::provider::simulated::sampling;

/// Bytes of a second of a recording: 128 kbit/s.
const BYTES_PER_SECOND: u64 = 16_000;
/// Seconds in which one sentence is spoken, its words, and the most sentences of an answer.
const SENTENCE_SECONDS: u64 = 4;
const SENTENCE_WORDS: usize = 8;
const MAX_SENTENCES: u64 = 4_096;
/// The tokens of a second, as OpenAI counts audio.
const TOKENS_PER_SECOND: u64 = 10;
const FORMATS: [&str; 5] = ["json", "text", "srt", "verbose_json", "vtt"];

/// A part of a recording, in seconds from its beginning.
struct Segment {
    start: u64,
    end: u64,
    text: String,
}

/// The words of a recording, in the form that the row asks for. Some forms are no JSON.
pub(super) fn transcript(draft: &mut Draft<'_>, format: WireFormat, file: Option<&CallFile>) -> Result<Vec<u8>, SimulatedRefusal> {
    let refuse = |message: String, param| Err(SimulatedRefusal::new(message, Some(param)));
    let body = draft.body;
    let Some(file) = file.filter(|file| !file.content.is_empty()) else {
        return refuse("The audio file could not be decoded or its format is not supported.".to_owned(), "file");
    };
    sampling::of_transcript(body)?;
    let form = body.response_format.map_or(Some(Cow::Borrowed("json")), string);
    let Some(form) = form.filter(|form| FORMATS.contains(&&**form)) else {
        return refuse(format!("Invalid 'response_format': expected one of {}.", FORMATS.join(", ")), "response_format");
    };
    if body.timestamp_granularities.is_some() && form != "verbose_json" {
        let message = "'timestamp_granularities' is only allowed with 'response_format' set to 'verbose_json'.";
        return refuse(message.to_owned(), "timestamp_granularities");
    }
    let seconds = (file.content.len() as u64).div_ceil(BYTES_PER_SECOND);
    let segments = segments(draft, seconds);
    let text = segments.iter().map(|segment| segment.text.as_str()).collect::<Vec<_>>().join(" ");
    Ok(match &*form {
        "text" => format!("{text}\n").into_bytes(),
        "srt" => subtitles(&segments, ',', "").into_bytes(),
        "vtt" => subtitles(&segments, '.', "WEBVTT\n\n").into_bytes(),
        "verbose_json" => verbose(draft, format, seconds, &segments, &text),
        _ => plain_json(body.prompt, seconds, &text),
    })
}

fn segments(draft: &mut Draft<'_>, seconds: u64) -> Vec<Segment> {
    let count = seconds.div_ceil(SENTENCE_SECONDS).clamp(1, MAX_SENTENCES);
    let sentence = |number: u64| {
        let mut bits = draft.dice.next();
        let mut text = String::from("Simulated");
        for _ in 1..SENTENCE_WORDS {
            text.push(' ');
            text.push_str(word(bits));
            bits >>= 5;
        }
        text.push('.');
        Segment { start: number * SENTENCE_SECONDS, end: ((number + 1) * SENTENCE_SECONDS).min(seconds), text }
    };
    (0..count).map(sentence).collect()
}

fn plain_json(prompt: Option<&RawValue>, seconds: u64, text: &str) -> Vec<u8> {
    let (heard, read, written) = (seconds * TOKENS_PER_SECOND, raw_tokens(prompt), tokens(text.len()));
    let mut json = Json::default();
    json.object(|json| {
        json.key("text").text(text);
        json.key("usage").object(|json| {
            json.key("type").text("tokens");
            json.key("input_tokens").number(heard + read);
            json.key("input_token_details").object(|json| {
                json.key("text_tokens").number(read);
                json.key("audio_tokens").number(heard);
            });
            json.key("output_tokens").number(written);
            json.key("total_tokens").number(heard + read + written);
        });
    });
    json.into_bytes()
}

fn verbose(draft: &Draft<'_>, format: WireFormat, seconds: u64, segments: &[Segment], text: &str) -> Vec<u8> {
    let body = draft.body;
    let granularities = body.timestamp_granularities.and_then(|raw| serde_json::from_str::<Vec<Cow<'_, str>>>(raw.get()).ok());
    let wants = |what: &str| granularities.as_ref().is_some_and(|wanted| wanted.iter().any(|wanted| wanted == what));
    let mut json = Json::default();
    json.object(|json| {
        json.key("task").text(if format == WireFormat::AudioTranslations { "translate" } else { "transcribe" });
        json.key("language").text(&body.language.and_then(string).unwrap_or(Cow::Borrowed("english")));
        json.key("duration").number(seconds);
        json.key("text").text(text);
        if wants("word") {
            json.key("words").array(|json| segments.iter().for_each(|segment| words(segment, json)));
        }
        if granularities.is_none() || wants("segment") {
            json.key("segments").array(|json| {
                for (id, segment) in (0..).zip(segments) {
                    json.object(|json| {
                        json.key("id").number(id);
                        json.key("seek").number(0);
                        json.key("start").number(segment.start);
                        json.key("end").number(segment.end);
                        json.key("text").text(&segment.text);
                        json.key("tokens").array(|_| {});
                        json.key("temperature").number(0);
                        json.key("avg_logprob").raw("-0.25");
                        json.key("compression_ratio").number(1);
                        json.key("no_speech_prob").number(0);
                    });
                }
            });
        }
        json.key("usage").object(|json| {
            json.key("type").text("duration");
            json.key("seconds").number(seconds);
        });
    });
    json.into_bytes()
}

/// The words of a segment, all of the same length.
fn words(segment: &Segment, json: &mut Json) {
    let spoken: Vec<&str> = segment.text.split(' ').collect();
    let milliseconds = |nth: usize| (segment.start * 1_000) + (segment.end - segment.start) * 1_000 * nth as u64 / spoken.len() as u64;
    let seconds = |nth| format!("{}.{:03}", milliseconds(nth) / 1_000, milliseconds(nth) % 1_000);
    for (nth, word) in spoken.iter().enumerate() {
        json.object(|json| {
            json.key("word").text(word.trim_end_matches('.'));
            json.key("start").raw(&seconds(nth));
            json.key("end").raw(&seconds(nth + 1));
        });
    }
}

/// SubRip or WebVTT, which differ in little else than what stands before milliseconds.
fn subtitles(segments: &[Segment], point: char, head: &str) -> String {
    let mut out = head.to_owned();
    let time = |seconds: u64| format!("{:02}:{:02}:{:02}{point}000", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    for (number, segment) in (1..).zip(segments) {
        if head.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{number}");
        }
        let _ = writeln!(out, "{} --> {}\n{}\n", time(segment.start), time(segment.end), segment.text);
    }
    out
}
