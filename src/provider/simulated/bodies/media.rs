//! Bodies of the operations that make pictures and videos.

use serde_json::value::RawValue;

use super::Draft;
use crate::provider::simulated::json::Json;
use crate::provider::simulated::profile::Dice;
use crate::provider::simulated::request::{SimulatedRefusal, raw_tokens, required, string, whole};

const MAX_IMAGES: u64 = 10;
/// Output tokens of one picture, as the hosted API counts a square picture of low quality.
const IMAGE_TOKENS: u64 = 272;
/// Input tokens of a picture to edit.
const INPUT_IMAGE_TOKENS: u64 = 194;
const IMAGE_SIZES: [&str; 3] = ["1024x1024", "1024x1536", "1536x1024"];
const QUALITIES: [&str; 3] = ["low", "medium", "high"];
const VIDEO_SIZES: [&str; 4] = ["720x1280", "1280x720", "1024x1792", "1792x1024"];
const SECONDS: [&str; 3] = ["4", "8", "12"];

/// Pictures from a text.
pub(super) fn images(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    write_images(draft, 0, json)
}

/// Pictures from a text and pictures.
pub(super) fn edits(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let source = required(draft.body.images.or(draft.body.image), "images")?;
    let count = serde_json::from_str::<Vec<&RawValue>>(source.get()).map_or(1, |sources| sources.len() as u64);
    write_images(draft, count, json)
}

fn write_images(draft: &mut Draft<'_>, sources: u64, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    required(body.prompt, "prompt")?;
    let n = whole(body.n, "n", 1..=MAX_IMAGES)?.unwrap_or(1);
    json.object(|json| {
        json.key("created").number(draft.created());
        json.key("background").text("opaque");
        json.key("output_format").text("png");
        json.key("size").text(one_of(body.size, &IMAGE_SIZES));
        json.key("quality").text(one_of(body.quality, &QUALITIES));
        json.key("data").array(|json| {
            for _ in 0..n {
                json.object(|json| json.key("b64_json").base64(&pixel(&mut draft.dice)));
            }
        });
        let (words, pictures, output) = (raw_tokens(body.prompt), sources * INPUT_IMAGE_TOKENS, n * IMAGE_TOKENS);
        json.key("usage").object(|json| {
            json.key("input_tokens").number(words + pictures);
            json.key("input_tokens_details").object(|json| {
                json.key("text_tokens").number(words);
                json.key("image_tokens").number(pictures);
            });
            json.key("output_tokens").number(output);
            json.key("total_tokens").number(words + pictures + output);
        });
    });
    Ok(())
}

/// A finished video job.
pub(super) fn video(draft: &mut Draft<'_>, json: &mut Json) -> Result<(), SimulatedRefusal> {
    let body = draft.body;
    let prompt = required(body.prompt, "prompt")?;
    draft.object(json, "video_", "video", "created_at", |draft, json| {
        json.key("status").text("completed");
        json.key("progress").number(100);
        json.key("completed_at").number(draft.created() + 60);
        json.key("expires_at").number(draft.created() + 60 + 3_600);
        json.key("prompt").raw(prompt.get());
        json.key("size").text(one_of(body.size, &VIDEO_SIZES));
        json.key("seconds").text(one_of(body.seconds, &SECONDS));
        json.key("remixed_from_video_id").null();
        json.key("error").null();
    });
    Ok(())
}

/// The value of the field if it is one of the choices, else the first choice. `auto` leaves the
/// choice to the model, as does every value that only other models know.
fn one_of(raw: Option<&RawValue>, choices: &[&'static str]) -> &'static str {
    let asked = raw.and_then(string);
    let found = asked.and_then(|asked| choices.iter().find(|choice| **choice == asked));
    found.or(choices.first()).copied().unwrap_or_default()
}

/// A PNG of one pixel in a colour chosen by the dice.
fn pixel(dice: &mut Dice) -> Vec<u8> {
    let [red, green, blue, ..] = dice.next().to_le_bytes();
    // One row: no filter, then red, green, blue.
    let row = [0, red, green, blue];
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    // Width 1, height 1, 8 bits, true colour.
    chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0], &mut png);
    // A zlib stream of one stored block.
    let mut data = vec![0x78, 0x01, 1, 4, 0, !4, !0];
    data.extend_from_slice(&row);
    data.extend_from_slice(&adler32(&row).to_be_bytes());
    chunk(b"IDAT", &data, &mut png);
    chunk(b"IEND", &[], &mut png);
    png
}

fn chunk(kind: &[u8; 4], data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(kind);
    out.extend_from_slice(data);
    let check = crc32(&out[start..]);
    out.extend_from_slice(&check.to_be_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_the_published_examples() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }
}
