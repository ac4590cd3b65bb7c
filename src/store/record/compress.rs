//! Compression of results and of runs of results: zstd with a dictionary of common parts of
//! answers.
//!
//! An answer of usual size is too short for its own tables: a plain frame spends most of its time,
//! and half of its bytes, on tables for its own letters. The dictionary has the text of common
//! answers, the most common last, and such tables. Its text was written by hand; its tables are
//! zstd's own (`ZDICT_finalizeDictionary`) for sample answers in English, JSON and Markdown.
//!
//! Invariant: the dictionary never changes, because every result that was packed with it needs the
//! very same bytes. A new dictionary would be a new file with a new flag.

use std::cell::RefCell;
use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use crate::store::record::error::RecordError;

const DICTIONARY: &[u8] = include_bytes!("results.dict");
/// Level 1: measured on chat rows, higher levels cost more time than the space they save is worth.
const LEVEL: i32 = 1;
/// A buffer that has grown beyond this is not kept.
const MAX_SCRATCH: usize = 256 << 10;

static ENCODER: LazyLock<Option<EncoderDictionary<'static>>> = LazyLock::new(|| EncoderDictionary::try_copy(DICTIONARY, LEVEL).ok());
static DECODER: LazyLock<Option<DecoderDictionary<'static>>> = LazyLock::new(|| DecoderDictionary::try_copy(DICTIONARY).ok());

/// State that packing reuses. Setting up a context costs more than packing a usual row.
#[derive(Default)]
struct Bench {
    compressor: Option<Compressor<'static>>,
    squeezed: Vec<u8>,
}

/// Appends the compressed form of `plain` to `out`.
///
/// # Errors
/// When memory is short; `out` is then unchanged.
pub(super) fn squeeze(plain: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    thread_local! {
        static BENCH: RefCell<Bench> = RefCell::default();
    }
    BENCH.with_borrow_mut(|bench| {
        out.extend_from_slice(bench.compress(plain)?);
        bench.squeezed.clear();
        bench.squeezed.shrink_to(MAX_SCRATCH);
        Ok(())
    })
}

impl Bench {
    fn compress(&mut self, plain: &[u8]) -> std::io::Result<&[u8]> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            None => {
                let dictionary = ENCODER.as_ref().ok_or(std::io::ErrorKind::OutOfMemory)?;
                self.compressor.insert(Compressor::with_prepared_dictionary(dictionary)?)
            }
        };
        self.squeezed.clear();
        self.squeezed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, &mut self.squeezed)?;
        Ok(&self.squeezed)
    }
}

/// Passes the `size` bytes that `body` was made from to `read`. Callers must have checked that
/// `size` is not too large.
pub(super) fn unsqueeze<T>(
    body: &[u8],
    size: u32,
    with_dictionary: bool,
    damaged: impl FnOnce(String) -> RecordError,
    read: impl FnOnce(&[u8]) -> Result<T, RecordError>,
) -> Result<T, RecordError> {
    thread_local! {
        // Setting up the unpacker costs more than unpacking a row.
        static UNPACKER: RefCell<Unpacker> = RefCell::default();
    }
    UNPACKER.with_borrow_mut(|unpacker| read(unpacker.decompress(body, size, with_dictionary).map_err(damaged)?))
}

#[derive(Default)]
struct Unpacker {
    plain: Option<Decompressor<'static>>,
    with_dictionary: Option<Decompressor<'static>>,
    unpacked: Vec<u8>,
}

impl Unpacker {
    fn decompress(&mut self, body: &[u8], size: u32, with_dictionary: bool) -> Result<&[u8], String> {
        let mut unpacked = std::mem::take(&mut self.unpacked);
        unpacked.clear();
        // The memory of one large result is not kept.
        unpacked.shrink_to(MAX_SCRATCH);
        unpacked.reserve(size as usize);
        let done = self.context(with_dictionary).and_then(|context| context.decompress_to_buffer(body, &mut unpacked));
        self.unpacked = unpacked;
        done.map_err(|error| error.to_string())?;
        if self.unpacked.len() != size as usize {
            return Err("the compressed body has another size than stated".into());
        }
        Ok(&self.unpacked)
    }

    fn context(&mut self, with_dictionary: bool) -> std::io::Result<&mut Decompressor<'static>> {
        let slot = if with_dictionary { &mut self.with_dictionary } else { &mut self.plain };
        match slot {
            Some(context) => Ok(context),
            None if with_dictionary => {
                let dictionary = DECODER.as_ref().ok_or(std::io::ErrorKind::OutOfMemory)?;
                Ok(slot.insert(Decompressor::with_prepared_dictionary(dictionary)?))
            }
            None => Ok(slot.insert(Decompressor::new()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_dictionary_is_the_one_that_results_were_packed_with() {
        let digest = crate::domain::text::hex(&Sha256::digest(DICTIONARY));
        assert_eq!(digest, "7cbcb164e83b1277c5486e1d6a7a6fc2503c6b5a2591cbc4b3ca7568bd2571cc", "stored results become unreadable");
    }

    #[test]
    fn a_usual_answer_becomes_a_third() {
        let answer = br#"{"id":"chatcmpl-CbLq2ZkXvW1","object":"chat.completion","created":1763985600,"model":"a-model","choices":[{"index":0,"message":{"role":"assistant","content":"Forty-two, as everybody knows."},"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":9,"total_tokens":30}}"#;
        let mut squeezed = Vec::new();
        squeeze(answer, &mut squeezed).unwrap();
        assert!(squeezed.len() * 3 < answer.len(), "{} of {} bytes", squeezed.len(), answer.len());
    }
}
