//! Approximate tokens of a file that is not read as text. The exact number is unknown before the
//! provider has read the file, and counting nothing would price it as free.
//!
//! The ratios follow from common encodings and the published rates of hosted models: OpenAI reads a
//! page of a PDF as its text and an image, and audio at ten tokens a second; Gemini reads audio at
//! 32 and video at 263 tokens a second. They are for prices alone: no item is refused because of
//! them.

/// Bytes of a text that make a token.
const TEXT: u64 = 4;
/// Bytes of a document with pages that make a token: about a thousand tokens for a page of 64 KiB.
const PAGES: u64 = 64;
/// Bytes of audio or video that make a token: 128 kbit/s at 32 tokens a second, 1 Mbit/s at 263.
const STREAM: u64 = 512;

/// Whether a file of this kind is read as plain text.
pub fn is_text(mime: &str) -> bool {
    let named = ["json", "xml", "javascript", "x-ndjson", "yaml", "x-yaml", "csv"];
    mime.starts_with("text/") || mime.strip_prefix("application/").is_some_and(|kind| named.contains(&kind))
}

/// Tokens of a file of this kind and size.
pub fn tokens(mime: &str, bytes: u64) -> u64 {
    match mime.split('/').next() {
        _ if is_text(mime) => bytes.div_ceil(TEXT),
        Some("image") => IMAGE_HIGH,
        Some("audio" | "video") => bytes.div_ceil(STREAM),
        _ => bytes.div_ceil(PAGES),
    }
}

/// The kind and the number of bytes of an encoded content. A text that is no data URL has the
/// expected kind of its position.
pub fn encoded<'a>(text: &'a str, expected: &'a str) -> (&'a str, u64) {
    let (mime, content) = match text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((mime, content)) => (mime, content),
        None => (expected, text),
    };
    (mime, content.len() as u64 / 4 * 3)
}

pub const IMAGE_HIGH: u64 = 765;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_make_tokens_by_their_kind() {
        let told =
            [("text/plain", 4_000), ("application/json", 4_000), ("application/pdf", 64_000), ("image/png", 9), ("audio/wav", 512_000)];
        assert_eq!(told.map(|(mime, bytes)| tokens(mime, bytes)), [1_000, 1_000, 1_000, IMAGE_HIGH, 1_000]);
        assert_eq!(encoded("data:application/pdf;base64,AAAA", "audio/wav"), ("application/pdf", 3));
        assert_eq!(encoded("AAAAAAAA", "audio/wav"), ("audio/wav", 6));
        assert_eq!(encoded("data:nothing", "audio/wav").0, "audio/wav");
    }
}
