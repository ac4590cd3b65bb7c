//! Content codings of answers: gzip, deflate, br and zstd, also several on top of each other.
//!
//! No coding is asked for, but some servers and gateways use one all the same. Of a small coded
//! body a large one can come, so what comes out is bounded like a body without a coding.

use std::io::{BufRead, BufReader, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::room::HeldRoom;

/// Codings on top of each other; more are a mistake.
const MOST_CODINGS: usize = 4;
/// Bytes that come out of a decoder at once.
const PIECE: usize = 64 << 10;
/// The largest window of zstd, as a power of two: what RFC 9659 allows for this use.
const ZSTD_WINDOW: u32 = 23;

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodingFault {
    #[error("the coding `{0}` is not known")]
    Unknown(String),
    #[error("it has more than {MOST_CODINGS} codings")]
    TooMany,
    #[error("it is not of the coding `{coding}` that it states: {reason}")]
    Damaged { coding: String, reason: std::io::Error },
    #[error("it is larger than allowed")]
    TooLarge,
}

/// The codings of a body in the order in which they were applied; empty for a plain body.
fn codings(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(CONTENT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty() && name != "identity").collect()
}

/// Decodes a body as its headers say. `room` grows by what comes out, which is at most `limit`
/// bytes.
///
/// # Errors
/// When a coding is not known, the body is damaged, or too large when decoded.
pub async fn decoded(headers: &HeaderMap, body: Bytes, limit: u64, room: &mut HeldRoom) -> Result<Bytes, CodingFault> {
    let codings = codings(headers);
    if codings.is_empty() || body.is_empty() {
        return Ok(body);
    }
    if codings.len() > MOST_CODINGS {
        return Err(CodingFault::TooMany);
    }
    let (coded, mut out) = (body.len() as u64, Vec::new());
    let mut reader: Box<dyn BufRead + Send> = Box::new(body.reader());
    for coding in codings.iter().rev() {
        reader = decoder(coding, reader)?;
    }
    loop {
        room.grow(coded + out.len() as u64 + PIECE as u64).await;
        match reader.by_ref().take(PIECE as u64).read_to_end(&mut out) {
            Ok(0) => return Ok(out.into()),
            Ok(_) if out.len() as u64 > limit => return Err(CodingFault::TooLarge),
            // A large body must not keep a thread from other calls.
            Ok(_) => tokio::task::yield_now().await,
            Err(reason) => return Err(CodingFault::Damaged { coding: codings.join(", "), reason }),
        }
    }
}

fn decoder(coding: &str, mut coded: Box<dyn BufRead + Send>) -> Result<Box<dyn BufRead + Send>, CodingFault> {
    let damaged = |reason| CodingFault::Damaged { coding: coding.to_owned(), reason };
    Ok(match coding {
        "gzip" | "x-gzip" => Box::new(BufReader::new(MultiGzDecoder::new(coded))),
        // The name stands for zlib's form; some servers send the bare one. The first byte of zlib's
        // form names its method, 8.
        "deflate" => match coded.fill_buf().map_err(damaged)?.first() {
            Some(first) if first & 0x0f == 8 => Box::new(BufReader::new(ZlibDecoder::new(coded))),
            _ => Box::new(BufReader::new(DeflateDecoder::new(coded))),
        },
        "br" => Box::new(BufReader::new(brotli_decompressor::Decompressor::new(coded, 4 << 10))),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(coded).map_err(damaged)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(damaged)?;
            Box::new(BufReader::new(decoder))
        }
        other => return Err(CodingFault::Unknown(other.chars().take(40).collect())),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::room::AnswerRoom;
    use super::*;
    use proptest::prelude::*;

    async fn decode(coding: &str, body: &[u8], limit: u64) -> Result<Bytes, String> {
        let headers = [(CONTENT_ENCODING, coding.parse().unwrap())].into_iter().collect();
        let mut room = AnswerRoom::new(64 << 20).hold();
        decoded(&headers, Bytes::copy_from_slice(body), limit, &mut room).await.map_err(|fault| fault.to_string())
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn coded(plain: &[u8]) -> [(&'static str, Vec<u8>); 7] {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(plain).unwrap();
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        bare.write_all(plain).unwrap();
        let zstd = zstd::bulk::compress(plain, 3).unwrap();
        [
            ("gzip", gzip(plain)),
            ("X-GZIP", gzip(plain)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
            ("identity, zstd", zstd.clone()),
            ("zstd, gzip", gzip(&zstd)),
            ("identity", plain.to_vec()),
        ]
    }

    #[tokio::test]
    async fn every_coding_gives_the_body_back_and_no_more_than_allowed() {
        let plain = br#"{"choices":[{"message":{"content":"fine"}}]}"#.repeat(5_000);
        let length = plain.len() as u64;
        for (coding, body) in coded(&plain) {
            assert!(decode(coding, &body, length).await.unwrap() == plain, "{coding}");
            if coding != "identity" {
                assert_eq!(decode(coding, &body, length - 1).await.unwrap_err(), "it is larger than allowed", "{coding}");
                assert!(decode(coding, &body[..body.len() - 9], length).await.unwrap_err().contains("not of the coding"), "{coding}");
            }
        }
        // `{"ok":true}`, by Google's own encoder.
        let br = [0x0b, 0x05, 0x80, 0x7b, 0x22, 0x6f, 0x6b, 0x22, 0x3a, 0x74, 0x72, 0x75, 0x65, 0x7d, 0x03];
        assert_eq!(decode("br", &br, 11).await.unwrap(), &b"{\"ok\":true}"[..]);
        assert_eq!(decode("br", &br, 10).await.unwrap_err(), "it is larger than allowed");
        assert_eq!(decode("snappy", b"x", 9).await.unwrap_err(), "the coding `snappy` is not known");
        assert!(decode("gzip,gzip,gzip,gzip,gzip", b"x", 9).await.unwrap_err().contains("more than 4 codings"));
        assert_eq!(decode("gzip", b"", 9).await.unwrap(), Bytes::new());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(coding in "gzip|deflate|br|zstd|zstd, br", body in proptest::collection::vec(any::<u8>(), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok(plain) = runtime.block_on(decode(&coding, &body, 10_000)) {
                prop_assert!(plain.len() <= 10_000);
            }
        }
    }
}
