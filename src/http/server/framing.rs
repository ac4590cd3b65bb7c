//! Follows the requests of an HTTP/1.1 connection through its bytes: where each head begins and
//! ends, and where its body does.
//!
//! It looks at every byte of a head and at the framing of a chunked body; the bytes of a body are
//! counted and not touched. Its grammar is a part of hyper's, so whatever passes is read by hyper in
//! the same way, and the next head is where both expect it.

use super::head::{self, BodyLength};
use crate::http::layers::head_fault::HeadFault;

/// Where in the requests of its connection the next byte stands.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// The largest head, in bytes.
    max_head: usize,
    /// Whether the latest head asks for an upgrade.
    asks_upgrade: bool,
    /// The number of heads that have passed.
    heads: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a head. Its first `seen` bytes were looked at; they are `lines` whole lines, and the
    /// beginning of one that starts at `line_start`.
    Head {
        seen: usize,
        lines: usize,
        line_start: usize,
    },
    Bytes(u64),
    Chunked(Chunk),
    /// Behind a request that asks for an upgrade and is not answered yet.
    Undecided,
    /// Behind a head or a body that cannot be followed any further.
    Lost,
}

/// A place in a chunked body.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    SizeStart,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    LineStart,
    TrailerName,
    Trailer,
    TrailerLf,
    EndLf,
}

/// How far bytes can be passed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes that belong to whole heads and to bodies. What follows is a head that has not ended,
    /// or what `stop` says.
    pub clear: usize,
    pub stop: Option<Stop>,
}

/// Why no further byte can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The next head is at fault.
    Fault(HeadFault),
    /// The next head has not ended within its limit.
    TooLong,
    /// A chunked body is not well-formed.
    BadChunk,
    /// The next bytes may not be HTTP.
    Undecided,
}

const HEAD: State = State::Head { seen: 0, lines: 0, line_start: 0 };

impl Framing {
    /// The beginning of a connection whose heads have at most this many bytes.
    pub fn new(max_head: usize) -> Self {
        Self { state: HEAD, max_head, asks_upgrade: false, heads: 0 }
    }

    /// The number of heads that have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next bytes may not be HTTP, because an upgrade was asked for.
    pub fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// The request that asked for an upgrade was answered without one: a head follows.
    pub fn stays_http(&mut self) {
        self.state = HEAD;
    }

    /// Looks at the bytes that follow those passed so far. The bytes behind `clear` must be shown
    /// again, together with what follows them.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let step = match self.state {
                State::Undecided => Err(Stop::Undecided),
                _ if rest.is_empty() => return Scanned { clear: at, stop: None },
                State::Head { .. } => self.head(rest),
                State::Bytes(left) => Ok(Some(self.body_bytes(rest, left))),
                State::Chunked(chunk) => self.chunked(rest, chunk).map(Some),
                State::Lost => Err(Stop::BadChunk),
            };
            match step {
                Ok(Some(passed)) => at += passed,
                Ok(None) => return Scanned { clear: at, stop: None },
                Err(stop) => {
                    if !matches!(stop, Stop::Undecided) {
                        self.state = State::Lost;
                    }
                    return Scanned { clear: at, stop: Some(stop) };
                }
            }
        }
    }

    /// Goes through a head; returns its length once it has ended.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Stop> {
        let State::Head { mut seen, mut lines, mut line_start } = self.state else { return Ok(None) };
        while let Some(found) = memchr::memchr(b'\n', &bytes[seen..]) {
            let line_feed = seen + found;
            if line_feed == 0 || bytes[line_feed - 1] != b'\r' {
                return Err(Stop::Fault(HeadFault::BareLineFeed { line: lines + 1 }));
            }
            seen = line_feed + 1;
            match (seen - line_start, lines) {
                // Clients may send an empty line behind a body (RFC 9112, section 2.2).
                (2, 0) => {
                    self.state = HEAD;
                    return Ok(Some(seen));
                }
                (2, _) if seen > self.max_head => return Err(Stop::TooLong),
                (2, _) => return self.ended(&bytes[..seen]).map(Some).map_err(Stop::Fault),
                (_, _) => (lines, line_start) = (lines + 1, seen),
            }
        }
        self.state = State::Head { seen: bytes.len(), lines, line_start };
        if bytes.len() >= self.max_head { Err(Stop::TooLong) } else { Ok(None) }
    }

    fn ended(&mut self, bytes: &[u8]) -> Result<usize, HeadFault> {
        let head = head::check(bytes)?;
        self.heads += 1;
        self.asks_upgrade = head.asks_upgrade;
        match head.body {
            BodyLength::Bytes(0) => self.request_ends(),
            BodyLength::Bytes(length) => self.state = State::Bytes(length),
            BodyLength::Chunked => self.state = State::Chunked(Chunk::SizeStart),
        }
        Ok(bytes.len())
    }

    fn request_ends(&mut self) {
        self.state = if self.asks_upgrade { State::Undecided } else { HEAD };
    }

    fn body_bytes(&mut self, bytes: &[u8], left: u64) -> usize {
        let (passed, left) = skip(bytes, left);
        match left {
            0 => self.request_ends(),
            left => self.state = State::Bytes(left),
        }
        passed
    }

    fn chunked(&mut self, bytes: &[u8], mut chunk: Chunk) -> Result<usize, Stop> {
        let mut at = 0;
        while at < bytes.len() {
            if let Chunk::Data(left) = chunk {
                let (passed, left) = skip(&bytes[at..], left);
                at += passed;
                chunk = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
                continue;
            }
            let byte = bytes[at];
            at += 1;
            chunk = match (chunk, byte) {
                (Chunk::EndLf, b'\n') => {
                    self.request_ends();
                    return Ok(at);
                }
                (chunk, byte) => next(chunk, byte).ok_or(Stop::BadChunk)?,
            };
        }
        self.state = State::Chunked(chunk);
        Ok(at)
    }
}

/// The place behind a byte of the framing of a chunked body; `None` if the byte may not stand there.
fn next(chunk: Chunk, byte: u8) -> Option<Chunk> {
    let digit = char::from(byte).to_digit(16).map(u64::from);
    let more = |size: u64| Some(Chunk::Size(size.checked_mul(16)?.checked_add(digit?)?));
    match (chunk, byte) {
        (Chunk::SizeStart, _) => more(0),
        (Chunk::Size(size) | Chunk::SizeSpace(size) | Chunk::Extension(size), b'\r') => Some(Chunk::SizeLf(size)),
        (Chunk::Size(size) | Chunk::SizeSpace(size), b';') => Some(Chunk::Extension(size)),
        (Chunk::Size(size) | Chunk::SizeSpace(size), b' ' | b'\t') => Some(Chunk::SizeSpace(size)),
        (Chunk::Size(size), _) => more(size),
        (Chunk::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => Some(Chunk::Extension(size)),
        (Chunk::SizeLf(0), b'\n') | (Chunk::TrailerLf, b'\n') => Some(Chunk::LineStart),
        (Chunk::SizeLf(size), b'\n') => Some(Chunk::Data(size)),
        (Chunk::DataCr, b'\r') => Some(Chunk::DataLf),
        (Chunk::DataLf, b'\n') => Some(Chunk::SizeStart),
        (Chunk::LineStart, b'\r') => Some(Chunk::EndLf),
        (Chunk::TrailerName, b':') => Some(Chunk::Trailer),
        (Chunk::LineStart | Chunk::TrailerName, _) => head::is_token(&[byte]).then_some(Chunk::TrailerName),
        (Chunk::Trailer, b'\r') => Some(Chunk::TrailerLf),
        (Chunk::Trailer, b'\t' | b' '..=b'~' | 0x80..) => Some(Chunk::Trailer),
        (Chunk::Data(_) | Chunk::SizeSpace(_) | Chunk::Extension(_) | Chunk::SizeLf(_) | Chunk::DataCr | Chunk::DataLf, _)
        | (Chunk::Trailer | Chunk::TrailerLf | Chunk::EndLf, _) => None,
    }
}

/// How many of the bytes are among the next `left`, and how many are left after them.
fn skip(bytes: &[u8], left: u64) -> (usize, u64) {
    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (passed, left - passed as u64)
}
