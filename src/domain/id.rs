//! Typed ids: one 128-bit time-ordered value, printed with a prefix per kind. The value is laid out
//! like a UUID of version 7, but all of its second half is random.
//!
//! Every form that any supported API prints parses back: the prefix with 26 Crockford base-32
//! characters (ours), with 32 hexadecimal digits, or with a hyphenated UUID. An id of another kind
//! is refused by name, so a file id in a batch URL says so instead of "not found".

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest, Sha256};

use super::text::shown;
use super::time::Timestamp;

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Bits of an id that count within a millisecond.
const COUNT_BITS: u32 = 12;
/// Characters in the printed 128-bit value: ceil(128 / 5).
const ENCODED_LEN: usize = 26;

/// Why a text is not the id that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The prefix belongs to another kind of object.
    #[error("`{text}` is the id of {}, not of {}", one(found), one(expected))]
    WrongKind { text: String, found: &'static str, expected: &'static str },
    /// Neither the prefix nor the body has a form that we know.
    #[error("`{text}` is not the id of {}; such an id looks like `{prefix}` and {length} characters", one(expected))]
    Malformed { text: String, expected: &'static str, prefix: &'static str, length: usize },
}

/// The name of a kind, with its article.
fn one(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u', 'A']) { "an" } else { "a" };
    format!("{article} {kind}")
}

struct Kind {
    name: &'static str,
    /// The first prefix is the printed prefix; the others are accepted on input only.
    prefixes: &'static [&'static str],
    /// Whether the digits are printed in hexadecimal, as in the one API that shows such ids. So the
    /// log has the same text.
    is_hex: bool,
}

const BATCH: Kind = Kind { name: "batch", prefixes: &["batch_", "bat_"], is_hex: false };
const FILE: Kind = Kind { name: "file", prefixes: &["file-", "file_"], is_hex: false };
const UPLOAD: Kind = Kind { name: "upload", prefixes: &["upload_"], is_hex: false };
const PART: Kind = Kind { name: "part of an upload", prefixes: &["part_"], is_hex: false };
const QUOTE: Kind = Kind { name: "quote", prefixes: &["qlock_"], is_hex: true };
const ORG: Kind = Kind { name: "organisation", prefixes: &["org_"], is_hex: true };
const KEY: Kind = Kind { name: "API key", prefixes: &["key_"], is_hex: true };
const EVENT: Kind = Kind { name: "event", prefixes: &["evt_"], is_hex: false };
const REQUEST: Kind = Kind { name: "request", prefixes: &["G-"], is_hex: false };
const RECEIVER: Kind = Kind { name: "webhook endpoint", prefixes: &["we_"], is_hex: false };
const KINDS: [&Kind; 10] = [&BATCH, &FILE, &UPLOAD, &PART, &QUOTE, &ORG, &KEY, &EVENT, &REQUEST, &RECEIVER];

/// A new value: 48 bits of milliseconds, the version of a UUID, 12 bits that count within a
/// millisecond, and 64 random bits, so that nobody finds an id by trying.
fn next_value(now: Timestamp) -> u128 {
    // The count keeps ids in the order in which they were made, which is what makes "newest first"
    // lists stable. When it is used up, or when the clock goes back, it runs ahead of the clock.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let earliest = u64::try_from(now.as_millisecond()).unwrap_or(0) << COUNT_BITS;
    let next = |last: u64| earliest.max(last + 1);
    // The closure never declines.
    let order = LAST.fetch_update(Relaxed, Relaxed, |last| Some(next(last))).map_or(earliest, next);
    let (millis, count) = (order >> COUNT_BITS, order & ((1 << COUNT_BITS) - 1));
    let random = uuid::Uuid::new_v4().as_u128();
    // All but the marks of a random UUID, which has 48 random bits at its beginning.
    let random = (random >> 80) << 16 | random & 0xffff;
    u128::from(millis) << 80 | 7 << 76 | u128::from(count) << 64 | random
}

fn encode(mut value: u128, out: &mut [u8]) {
    for place in out.iter_mut().rev() {
        // Masked to five bits, so the cast and the look-up cannot fail.
        *place = CROCKFORD[(value & 31) as usize];
        value >>= 5;
    }
}

/// Writes all characters in one call, because an id is printed for every row.
fn write_ascii(text: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != ENCODED_LEN {
        return text.parse::<uuid::Uuid>().ok().map(|id| id.as_u128());
    }
    let mut value: u128 = 0;
    for (place, byte) in text.bytes().enumerate() {
        let digit = CROCKFORD.iter().position(|c| *c == byte.to_ascii_lowercase())? as u128;
        // 26 characters carry 130 bits: the first character may only use its low three.
        if place == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | digit;
    }
    Some(value)
}

fn parse(kind: &'static Kind, text: &str) -> Result<u128, IdError> {
    for prefix in kind.prefixes {
        if let Some(value) = text.strip_prefix(prefix).and_then(decode) {
            return Ok(value);
        }
    }
    let shown = shown(text);
    for other in KINDS {
        if other.prefixes.iter().any(|p| text.strip_prefix(p).and_then(decode).is_some()) {
            return Err(IdError::WrongKind { text: shown, found: other.name, expected: kind.name });
        }
    }
    let length = if kind.is_hex { 32 } else { ENCODED_LEN };
    Err(IdError::Malformed { text: shown, expected: kind.name, prefix: kind.prefixes[0], length })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// A new id; ids made later sort later.
            pub fn generate(now: Timestamp) -> Self {
                Self(next_value(now))
            }

            /// The id that has exactly these bits.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// In BatchRouter's form: the last of its prefixes and 32 hexadecimal digits.
            pub fn in_hex(self) -> String {
                format!("{}{:032x}", $kind.prefixes.last().unwrap_or(&""), self.0)
            }

            /// In Phaseo's form: the first of its prefixes and 26 upper-case characters, as in a
            /// ULID.
            pub fn in_upper(self) -> String {
                let prefix = $kind.prefixes[0];
                format!("{prefix}{}", self.to_string()[prefix.len()..].to_ascii_uppercase())
            }

            /// The bits, for keys on disk.
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if $kind.is_hex {
                    return write!(f, "{}{:032x}", $kind.prefixes[0], self.0);
                }
                let mut text = [0; ENCODED_LEN];
                encode(self.0, &mut text);
                f.write_str($kind.prefixes[0])?;
                write_ascii(&text, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(&$kind, text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A batch: `batch_` and 26 characters.
    BatchId = BATCH;
    /// A file, uploaded or a view over results: `file-` and 26 characters.
    FileId = FILE;
    /// A multi-part upload in progress: `upload_` and 26 characters.
    UploadId = UPLOAD;
    /// One part of a multi-part upload: `part_` and 26 characters.
    PartId = PART;
    /// A quote: `qlock_` and 32 hexadecimal digits.
    QuoteId = QUOTE;
    /// An organisation, which owns its keys and everything made with them: `org_` and 32
    /// hexadecimal digits.
    OrgId = ORG;
    /// An API key, not its secret: `key_` and 32 hexadecimal digits.
    KeyId = KEY;
    /// An event that receivers get messages about: `evt_` and 26 characters.
    EventId = EVENT;
    /// A request by a Phaseo client: `G-` and 26 characters.
    RequestId = REQUEST;
    /// A managed receiver of messages: `we_` and 26 characters.
    ReceiverId = RECEIVER;
}

/// A number for a digest: its first half. Derived ids are made from it.
pub fn half(digest: [u8; 32]) -> u128 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest;
    u128::from_be_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

impl BatchId {
    /// The smallest id of a batch that is made at this moment or later.
    pub fn first_at(at: Timestamp) -> Self {
        // A UUID of version 7 begins with 48 bits of milliseconds.
        Self(u128::try_from(at.as_millisecond()).unwrap_or(0) << 80)
    }
}

impl OrgId {
    /// The operator's own organisation. It owns the keys in the settings, and every request where
    /// no key is required.
    pub const OPERATOR: Self = Self(0);
}

/// The position of a row in its batch, counted from 0; line `n` of the input is row `n - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowIndex(pub u32);

impl RowIndex {
    /// The line of the input file, counted from 1 as editors do, without blank lines.
    pub fn line(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// The stable name of one row of one batch: 26 characters of the batch and 8 hexadecimal digits of
/// the row. It is the `id` of the output line (`batch_req_…`) and the upstream `Idempotency-Key`,
/// so a call repeated after a crash carries the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowKey {
    pub batch: BatchId,
    pub row: RowIndex,
}

impl RowKey {
    /// Characters in the printed key.
    pub const LEN: usize = ENCODED_LEN + 8;

    /// A number for the row that never changes. Ids of other forms are made from it.
    pub fn number(self) -> u128 {
        let digest = Sha256::new().chain_update(self.batch.as_u128().to_be_bytes()).chain_update(self.row.0.to_be_bytes());
        half(digest.finalize().into())
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::LEN];
        let (batch, row) = text.split_at_mut(ENCODED_LEN);
        encode(self.batch.as_u128(), batch);
        for (place, digit) in row.iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(self.row.0 >> (4 * place) & 15) as usize];
        }
        write_ascii(&text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_printed_form_parses_back(value: u128) {
            let id = BatchId::from_u128(value);
            prop_assert_eq!(id.to_string().parse::<BatchId>(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().replace("BATCH_", "batch_").parse::<BatchId>(), Ok(id));
            prop_assert_eq!(format!("bat_{value:032x}").parse::<BatchId>(), Ok(id));
            prop_assert_eq!(id.in_hex(), format!("bat_{value:032x}"));
            prop_assert_eq!(id.in_upper().parse::<BatchId>(), Ok(id));
            prop_assert_eq!(QuoteId::from_u128(value).in_hex().parse::<QuoteId>(), Ok(QuoteId::from_u128(value)));
            prop_assert_eq!(format!("file_{value:032x}").parse::<FileId>(), Ok(FileId::from_u128(value)));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(text in ".{0,60}") {
            let _ = text.parse::<BatchId>();
            let _ = format!("batch_{text}").parse::<BatchId>();
        }

        #[test]
        fn printing_keeps_the_order(a: u128, b: u128) {
            prop_assert_eq!(a.cmp(&b), BatchId::from_u128(a).to_string().cmp(&BatchId::from_u128(b).to_string()));
        }
    }

    #[test]
    fn ids_of_one_millisecond_sort_in_order_of_creation() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let ids: Vec<_> = (0..1000).map(|_| BatchId::generate(now)).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn half_of_an_id_is_random() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let ids: Vec<_> = (0..1000).map(|_| BatchId::generate(now).as_u128()).collect();
        for bit in 0..64 {
            let set = ids.iter().filter(|id| **id >> bit & 1 == 1).count();
            // Ten standard deviations: by chance once in 10^23 times.
            assert!((340..=660).contains(&set), "bit {bit} is set in {set} of 1,000");
        }
    }

    #[test]
    fn ids_that_one_api_shows_are_printed_as_it_shows_them() {
        assert_eq!(OrgId::from_u128(31).to_string(), "org_0000000000000000000000000000001f");
        assert_eq!(
            (KeyId::from_u128(1).to_string(), QuoteId::from_u128(1).to_string()),
            (KeyId::from_u128(1).in_hex(), QuoteId::from_u128(1).in_hex())
        );
        assert_eq!(OrgId::from_u128(31).to_string().parse(), Ok(OrgId::from_u128(31)));
    }

    #[test]
    fn another_kind_of_id_is_named() {
        let error = FileId::from_u128(7).to_string().parse::<BatchId>().unwrap_err();
        assert_eq!(error.to_string(), "`file-00000000000000000000000007` is the id of a file, not of a batch");
    }
}
