//! The parts of sled's log: headers of segments, messages, numbers of variable length.
//!
//! Source: sled 0.34.7, `pagecache/logger.rs` and `serialization.rs`; its format is final, and the
//! version is pinned. Invariant: any bytes are read or refused, and never cause a panic.

/// Bytes of a segment; sled's default, which no build of batchd has changed.
pub(super) const SEGMENT: usize = 512 << 10;
/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 20;
/// No message begins closer to the end of its segment.
pub(super) const MAX_HEADER: usize = 32;

/// How many of the first bytes of a damaged message are searched for one wrong bit: its header, and
/// the range of a page.
const MENDED: usize = 64;

/// The kind of a message, which sled writes as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogKind {
    /// Space that was reserved and not used.
    Canceled,
    /// The rest of the segment is empty.
    Cap,
    /// How far the log must reach for the batch that follows to count.
    BatchManifest,
    /// The page is free.
    Free,
    /// The page of sled's id counter.
    Counter,
    /// The page that names the trees.
    Meta,
    /// A whole page.
    Node,
    /// A change of a page.
    Link,
}

impl LogKind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Canceled),
            2 => Some(Self::Cap),
            3 => Some(Self::BatchManifest),
            4 => Some(Self::Free),
            5 => Some(Self::Counter),
            6 => Some(Self::Meta),
            8 => Some(Self::Node),
            10 => Some(Self::Link),
            // Kinds 7, 9 and 11 lie in side files, which sled never makes for values of at most
            // 4,000 bytes.
            _ => None,
        }
    }
}

/// One message, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogMessage<'a> {
    pub kind: LogKind,
    pub pid: u64,
    /// The number of the segment that the message was written for.
    pub segment: u64,
    pub body: &'a [u8],
    /// Bytes of the message with its header.
    pub bytes: usize,
}

/// The header of a message, whether or not the message is whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub kind: LogKind,
    pub pid: u64,
    /// See [`LogMessage::segment`].
    pub segment: u64,
    /// Bytes of the header.
    bytes: usize,
    /// Bytes of the body behind the header.
    length: usize,
}

impl Header {
    /// Reads the header at the start of `rest`; `None` if there is none.
    pub fn read(rest: &[u8]) -> Option<Self> {
        let kind = LogKind::of(*rest.get(4)?)?;
        let mut cursor = rest.get(5..)?;
        let length = usize::try_from(number(&mut cursor)?).ok()?;
        let segment = number(&mut cursor)?;
        let pid = number(&mut cursor)?;
        let bytes = rest.len() - cursor.len();
        (length <= cursor.len()).then_some(Self { kind, pid, segment, bytes, length })
    }

    /// Bytes of the message with its header.
    pub fn message_bytes(&self) -> usize {
        self.bytes + self.length
    }

    /// Bytes that a cap with this header leaves unused, from its start to the end of the segment.
    pub fn cap_bytes(&self) -> u64 {
        (self.length + MAX_HEADER) as u64
    }

    /// The body of the message that begins `rest`, with this header.
    pub fn body<'a>(&self, rest: &'a [u8]) -> &'a [u8] {
        rest.get(self.bytes..self.message_bytes()).unwrap_or_default()
    }

    /// The header of a damaged message at the start of `rest`, if one wrong bit of its first bytes
    /// is all that is wrong with it.
    pub fn mended(rest: &[u8]) -> Option<Self> {
        let mut message = rest.to_vec();
        (0..MENDED * 8).find_map(|bit| {
            let flip = 1 << (bit % 8);
            *message.get_mut(bit / 8)? ^= flip;
            let header = read(&message).and_then(|_| Self::read(&message));
            message[bit / 8] ^= flip;
            header
        })
    }
}

/// Reads the message at the start of `rest`, which ends with its segment. `None` if there is no
/// message, or a damaged one.
pub(super) fn read(rest: &[u8]) -> Option<LogMessage<'_>> {
    let expected = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
    let Header { kind, pid, segment, bytes, length } = Header::read(rest)?;
    let body = &rest[bytes..bytes + length];
    let mut crc = crc32fast::Hasher::new();
    crc.update(body);
    crc.update(&rest[4..bytes]);
    (crc.finalize() ^ u32::MAX == expected).then_some(LogMessage { kind, pid, segment, body, bytes: bytes + length })
}

/// Makes the message that ends a segment of that number early, with `unused` bytes left, at least
/// [`MAX_HEADER`].
pub(super) fn cap(segment: u64, unused: usize) -> Vec<u8> {
    let length = unused.saturating_sub(MAX_HEADER);
    let mut cap = vec![0, 0, 0, 0, 2];
    put_number(length as u64, &mut cap);
    put_number(segment, &mut cap);
    put_number(u64::MAX, &mut cap);
    let header = cap.len();
    cap.resize(unused, 0);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&cap[header..header + length]);
    crc.update(&cap[4..header]);
    let crc = crc.finalize() ^ u32::MAX;
    cap[..4].copy_from_slice(&crc.to_le_bytes());
    cap
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The log sequence number of its first byte.
    pub lsn: u64,
    /// How far the log was on disk when the segment was begun; -1 at first.
    pub max_stable: i64,
}

impl SegmentHeader {
    /// Reads a segment header; `None` if the bytes are no header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?) ^ i64::MAX);
        let expected = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let lsn = u64::try_from(number(4)?).ok()?;
        // The cheaper check comes first: a search tries every byte of a gap.
        let checked = bytes.get(4..SEGMENT_HEADER).filter(|_| lsn % SEGMENT as u64 == 0)?;
        let found = crc32fast::hash(checked) ^ u32::MAX;
        (found == expected).then_some(Self { lsn, max_stable: number(12)? })
    }
}

/// Takes a number of variable length off the front of `bytes`.
pub(super) fn number(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let at = |index: usize| bytes.get(index).map(|byte| u64::from(*byte));
    let (value, length) = match first {
        0..=240 => (u64::from(first), 1),
        241..=248 => (240 + 256 * (u64::from(first) - 241) + at(1)?, 2),
        249 => (2288 + 256 * at(1)? + at(2)?, 3),
        other => {
            let length = usize::from(other) - 247;
            let mut little = [0; 8];
            little[..length].copy_from_slice(bytes.get(1..=length)?);
            (u64::from_le_bytes(little), length + 1)
        }
    };
    *bytes = bytes.get(length..)?;
    Some(value)
}

/// Appends a number as sled writes it.
pub(super) fn put_number(value: u64, out: &mut Vec<u8>) {
    match value {
        0..=240 => out.push(value.to_le_bytes()[0]),
        241..=2287 => {
            let over = value - 240;
            out.extend([241 + (over / 256).to_le_bytes()[0], over.to_le_bytes()[0]]);
        }
        2288..=67823 => {
            let over = value - 2288;
            out.extend([249, (over / 256).to_le_bytes()[0], over.to_le_bytes()[0]]);
        }
        _ => {
            let used = (8 - value.leading_zeros() as usize / 8).max(3);
            out.push(247 + used.to_le_bytes()[0]);
            out.extend(&value.to_le_bytes()[..used]);
        }
    }
}

/// Takes a length and that many bytes off the front of `from`.
pub(super) fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(from)?).ok()?;
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_number(value, &mut out);
            let mut rest = &out[..];
            prop_assert_eq!(number(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
            for cut in 0..out.len() {
                prop_assert_eq!(number(&mut &out[..cut]), None);
            }
        }

        #[test]
        fn a_cap_is_read_as_one(segment: u32, unused in MAX_HEADER..SEGMENT) {
            let cap = cap(segment.into(), unused);
            let message = read(&cap).unwrap();
            prop_assert_eq!((message.kind, message.segment, cap.len()), (LogKind::Cap, segment.into(), unused));
        }

        #[test]
        fn any_bytes_are_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&noise);
            let _ = SegmentHeader::read(&noise);
        }
    }
}
