//! A row that asks for the words of a recording: which recording it names, and in which form it wants
//! the answer.
//!
//! vLLM's `run-batch` names a recording as `file_url`: a `data:` URL, or one of `http` or `https`.
//! OpenAI's `file` and `file_id` name an uploaded file here, because a line of JSON has no other way
//! to hold one.
//!
//! Not here: whether a URL may be called, and calling it.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::Uri;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::openai::{RowFault, kind, string};
use crate::domain::authority;
use crate::domain::batch::problem::ProblemCode;
use crate::domain::file::ANY_TYPE;
use crate::domain::id::FileId;

/// The longest URL of a recording that is not its content, in bytes.
const MAX_URL: usize = 8 << 10;
/// The longest name of a recording, in bytes.
const MAX_NAME: usize = 100;
/// The name of a recording that has none.
const NO_NAME: &str = "audio";

/// Media types and the endings by which OpenAI and other servers tell recordings apart. The first
/// ending of a type is the one that is added to a name.
const KINDS: [(&str, &str); 17] = [
    ("audio/mpeg", "mp3"),
    ("audio/mpeg", "mpga"),
    ("audio/mpeg", "mpeg"),
    ("audio/mp3", "mp3"),
    ("audio/wav", "wav"),
    ("audio/x-wav", "wav"),
    ("audio/wave", "wav"),
    ("audio/vnd.wave", "wav"),
    ("audio/flac", "flac"),
    ("audio/x-flac", "flac"),
    ("audio/mp4", "m4a"),
    ("audio/x-m4a", "m4a"),
    ("video/mp4", "mp4"),
    ("audio/ogg", "ogg"),
    ("audio/ogg", "oga"),
    ("audio/webm", "webm"),
    ("video/webm", "webm"),
];

/// The recording that a row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recording<'a> {
    /// An uploaded file.
    Uploaded(FileId),
    /// Content in the row itself.
    Inline(DataUrl<'a>),
    /// An absolute URL of `http` or `https`.
    At(Uri),
}

/// A URL that is content, in base 64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataUrl<'a> {
    /// The media type; empty if there is none.
    pub mime: String,
    url: Cow<'a, str>,
    /// Where the content begins.
    start: usize,
}

impl DataUrl<'_> {
    fn content(&self) -> &str {
        self.url.get(self.start..).unwrap_or_default()
    }

    /// Bytes of the content, at most.
    pub fn max_bytes(&self) -> u64 {
        (self.content().len() as u64).div_ceil(4) * 3
    }

    /// The content; `None` if it is not base 64 after all.
    pub fn decoded(&self) -> Option<Vec<u8>> {
        let lenient =
            GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent);
        GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(self.content()).ok()
    }
}

/// The members of a body that name a recording.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    file_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_id: Option<&'a RawValue>,
}

impl<'a> Recording<'a> {
    /// The members that name a recording, and are no part of what the server is sent.
    pub const MEMBERS: [&'static str; 3] = ["file_url", "file", "file_id"];

    /// Reads which recording the body of a row names.
    ///
    /// # Errors
    /// When it names none, several, or one in a form that cannot be right.
    pub fn of(body: &'a str) -> Result<Self, RowFault> {
        let fault = |code, param, message: String| Err(RowFault::new(code, Some(param), message));
        let named: Named<'a> = serde_json::from_str(body)
            .map_err(|_| RowFault::new(ProblemCode::InvalidJsonLine, Some("body"), "`body` is not usable: a member is there twice"))?;
        let members = [("body.file_url", named.file_url), ("body.file", named.file), ("body.file_id", named.file_id)];
        let mut present = members.into_iter().filter_map(|(param, value)| Some((param, value.filter(|value| value.get() != "null")?)));
        let Some((param, value)) = present.next() else {
            let message = "`body.file_url` is missing; it must be the URL of the recording, or `body.file` the id of an uploaded file";
            return fault(ProblemCode::MissingField, "body.file_url", message.to_owned());
        };
        if let Some((other, _)) = present.next() {
            return fault(
                ProblemCode::InvalidInput,
                other,
                format!("`{param}` and `{other}` both name a recording; leave one of them out"),
            );
        }
        let Some(text) = string(value) else {
            return fault(ProblemCode::InvalidInput, param, format!("`{param}` must be a string, found {}", kind(value)));
        };
        if param == "body.file_url" {
            return url(text).map_err(|why| RowFault::new(ProblemCode::InvalidInput, Some(param), format!("`{param}` {why}")));
        }
        match text.parse() {
            Ok(id) => Ok(Self::Uploaded(id)),
            Err(_) => {
                let message = format!("`{param}` must be the id of an uploaded file; write a URL or a recording in base 64 as `file_url`");
                fault(ProblemCode::InvalidInput, param, message)
            }
        }
    }
}

fn url(text: Cow<'_, str>) -> Result<Recording<'_>, String> {
    if has_scheme(&text, "data:") {
        return data_url(text).map(Recording::Inline);
    }
    let rule = "must be an absolute URL of `http` or `https`, or `data:audio/…;base64,` and the recording";
    if text.len() > MAX_URL {
        return Err(format!("{rule}; this one has more than {MAX_URL} bytes"));
    }
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
    let uri = uri.ok_or(rule)?;
    uri.authority().map_or(Ok(()), authority::check).map_err(|fault| fault.to_string())?;
    Ok(Recording::At(uri))
}

fn data_url(url: Cow<'_, str>) -> Result<DataUrl<'_>, String> {
    let (head, content) = url.split_once(',').ok_or("has no comma between its type and its content")?;
    let mut parts = head["data:".len()..].split(';');
    let mime = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    if !parts.any(|part| part.trim().eq_ignore_ascii_case("base64")) {
        return Err("must be in base 64: `data:audio/…;base64,` and the recording".to_owned());
    }
    let digits = content.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let is_padded = content.len() == digits.len() || content.len().is_multiple_of(4) && content.len() - digits.len() <= 2;
    if digits.is_empty() || digits.len() % 4 == 1 || !is_padded || !digits.bytes().all(is_digit) {
        return Err("must have content in base 64 after its comma, without line breaks".to_owned());
    }
    Ok(DataUrl { mime, start: head.len() + 1, url })
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Whether the ending of a name says what kind of recording it is.
pub fn has_ending(name: &str) -> bool {
    kind_of(name).is_some()
}

/// The media type that the ending of a name stands for.
fn kind_of(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    KINDS.iter().find(|(_, known)| known.eq_ignore_ascii_case(ending)).map(|(kind, _)| *kind)
}

/// Name and media type under which a recording is sent: servers go by the ending of the name, so it
/// gets one if the type tells which. `name` may be a path.
pub fn labelled(name: &str, mime: &str) -> (String, String) {
    let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let last = name.rsplit('/').next().unwrap_or_default();
    let mut name: String = last.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    name.drain(..name.len().saturating_sub(MAX_NAME));
    if name.trim_matches(['.', '_']).is_empty() {
        NO_NAME.clone_into(&mut name);
    }
    if let Some(known) = kind_of(&name) {
        let is_stated = mime.starts_with("audio/") || mime.starts_with("video/");
        return (name, if is_stated { mime } else { known.to_owned() });
    }
    match KINDS.iter().find(|(known, _)| *known == mime) {
        Some((_, ending)) => (format!("{name}.{ending}"), mime),
        None if mime.is_empty() => (name, ANY_TYPE.to_owned()),
        None => (name, mime),
    }
}

/// A form of the answer that is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainForm {
    Text,
    /// SubRip.
    Srt,
    /// WebVTT.
    Vtt,
}

impl PlainForm {
    /// The form that the body of a row asks for; `None` if it asks for JSON.
    pub fn of(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Asked<'a> {
            #[serde(borrow, default)]
            response_format: Option<&'a RawValue>,
        }
        match &*string(serde_json::from_slice::<Asked<'_>>(body).ok()?.response_format?)? {
            "text" => Some(Self::Text),
            "srt" => Some(Self::Srt),
            "vtt" => Some(Self::Vtt),
            _ => None,
        }
    }

    /// What a text is instead of an answer in this form; `None` if it is one. A recording in which
    /// nobody speaks has an empty answer.
    pub fn fault(self, text: &str) -> Option<&'static str> {
        let text = text.trim_ascii();
        if has_scheme(text, "<!doctype") || has_scheme(text, "<html") {
            return Some("a page of HTML");
        }
        match self {
            Self::Srt if !text.is_empty() && !text.contains("-->") => Some("a text that has no subtitles in SubRip's form"),
            Self::Vtt if !text.starts_with("WEBVTT") => Some("a text that does not begin with `WEBVTT`"),
            Self::Text | Self::Srt | Self::Vtt => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(body: &str) -> String {
        match Recording::of(body) {
            Ok(Recording::Inline(url)) => {
                format!("{} {:?} of at most {}", url.mime, String::from_utf8(url.decoded().unwrap()), url.max_bytes())
            }
            Ok(other) => format!("{other:?}"),
            Err(RowFault { code, param, message }) => format!("{} {param:?}: {message}", code.as_str()),
        }
    }

    #[test]
    fn recordings_as_rows_name_them_and_what_is_wrong_with_others() {
        let id = FileId::from_u128(7);
        let bodies = [
            format!(r#"{{"file":"{id}"}}"#),
            format!(r#"{{"file_id":"{id}","file_url":null}}"#),
            r#"{"file_url":"https://a.test:8/b.mp3?x=1"}"#.into(),
            r#"{"file_url":"HTTP://a.test"}"#.into(),
            r#"{"file_url":"data:audio/wav;base64,aGVsbG8="}"#.into(),
            r#"{"file_url":"DATA:Audio/MPEG;codecs=x;base64,aGVsbG8"}"#.into(),
            r#"{"file_url":"data:;base64,\u0061GVs"}"#.into(),
            "{}".into(),
            r#"{"file_url":null}"#.into(),
            format!(r#"{{"file_url":"https://a.test","file":"{id}"}}"#),
            r#"{"file_url":7}"#.into(),
            r#"{"file":"https://a.test/b.mp3"}"#.into(),
            r#"{"file_url":"ftp://a.test/b.mp3"}"#.into(),
            r#"{"file_url":"/b.mp3"}"#.into(),
            r#"{"file_url":"https:/b.mp3"}"#.into(),
            r#"{"file_url":"https://a.test:65536/b.mp3"}"#.into(),
            format!(r#"{{"file_url":"https://a.test/{}"}}"#, "x".repeat(MAX_URL)),
            r#"{"file_url":"data:audio/wav;base64"}"#.into(),
            r#"{"file_url":"data:audio/wav,hello"}"#.into(),
            r#"{"file_url":"data:audio/wav;base64,"}"#.into(),
            r#"{"file_url":"data:audio/wav;base64,aGVs bG8="}"#.into(),
            r#"{"file_url":"data:audio/wav;base64,aGVsbG8g="}"#.into(),
            r#"{"file_url":"data:audio/wav;base64,aGVsb==="}"#.into(),
            r#"{"file_url":"a","file_url":"b"}"#.into(),
        ];
        let lines = bodies.iter().map(|body| format!("{}\n  {}", body.chars().take(70).collect::<String>(), told(body)));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_recording_has_an_ending_that_says_what_it_is() {
        let table = [
            ("/a/b.mp3", "", "b.mp3", "audio/mpeg"),
            ("b.MP3", "application/octet-stream", "b.MP3", "audio/mpeg"),
            ("b.mp4", "audio/mp4; codecs=x", "b.mp4", "audio/mp4"),
            ("/get", "audio/x-wav", "get.wav", "audio/x-wav"),
            ("/", "Audio/FLAC", "audio.flac", "audio/flac"),
            ("..", "", "audio", ANY_TYPE),
            ("a\"\r\nb\u{e9}.ogg", "text/html", "a___b_.ogg", "audio/ogg"),
            ("a.bin", "audio/odd", "a.bin", "audio/odd"),
        ];
        for (name, mime, sent, sent_mime) in table {
            assert_eq!(labelled(name, mime), (sent.to_owned(), sent_mime.to_owned()), "{name} {mime}");
        }
        assert_eq!(labelled(&format!("{}.wav", "x".repeat(500)), "").0.len(), MAX_NAME);
    }

    #[test]
    fn a_plain_answer_has_its_form() {
        let form = |name: &str| PlainForm::of(format!(r#"{{"response_format":"{name}"}}"#).as_bytes());
        assert_eq!([form("text"), form("srt"), form("vtt")], [Some(PlainForm::Text), Some(PlainForm::Srt), Some(PlainForm::Vtt)]);
        assert_eq!([form("json"), form("verbose_json"), PlainForm::of(b"{}"), PlainForm::of(b"")], [None; 4]);
        for (form, good, bad) in [
            (PlainForm::Text, "Hello.", "<!DOCTYPE html><p>Bad gateway"),
            (PlainForm::Text, "", "\n<HTML>"),
            (PlainForm::Srt, "1\n00:00:00,000 --> 00:00:01,000\nHello.\n", "Hello."),
            (PlainForm::Srt, "", "<html>"),
            (PlainForm::Vtt, "WEBVTT\n\n", ""),
        ] {
            assert_eq!(form.fault(good), None, "{good}");
            assert!(form.fault(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_a_recording_or_refused(text: String, data in "data:[a-z/]{0,9}(;base64)?,[A-Za-z0-9+/=]{0,9}") {
            for text in [text, data] {
                let body = serde_json::json!({ "file_url": text }).to_string();
                if let Ok(Recording::Inline(url)) = Recording::of(&body) {
                    let content = url.decoded();
                    prop_assert!(content.is_some_and(|content| content.len() as u64 <= url.max_bytes()), "{text}");
                }
                labelled(&text, &text);
            }
        }
    }
}
