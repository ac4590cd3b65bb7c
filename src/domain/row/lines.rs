//! The lines of a JSONL file that hold something, each with its place. No line takes more memory
//! than allowed.
//!
//! Blank lines are skipped, and so is a byte order mark at the beginning of a line, where files
//! that were joined have one. This module does not know what a line means. It is the only reader of
//! input files: validation, dispatch and cost estimates must agree on where lines begin and which
//! lines are rows.

use std::io::{self, BufRead};

/// The mark that some editors put at the beginning of a file in UTF-8.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line without its line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    Text(&'a [u8]),
    /// A line longer than allowed. The reader skipped it.
    TooLong,
}

/// The position of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinePlace {
    /// Counted from 1, blank lines included.
    pub number: u64,
    /// Bytes from the start of reading to the line's first byte.
    pub offset: u64,
}

/// Reads lines one after the other; only the latest line is in memory.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    max: usize,
    number: u64,
    /// Where the next line begins.
    end: u64,
    buffer: Vec<u8>,
    too_long: bool,
}

impl<R: BufRead> Lines<R> {
    /// Reads lines of at most `max` bytes without their line break.
    pub fn new(reader: R, max: usize) -> Self {
        Self { reader, max, number: 0, end: 0, buffer: Vec::new(), too_long: false }
    }

    /// Changes the limit for the lines that follow.
    pub fn limit(&mut self, max: usize) {
        self.max = max;
    }

    /// Reads on to the next line that is not blank; `None` at the end.
    ///
    /// # Errors
    /// Errors of the reader.
    pub fn advance(&mut self) -> io::Result<Option<LinePlace>> {
        loop {
            let place = self.read_line()?;
            if place.is_none() || !self.is_blank() {
                return Ok(place);
            }
        }
    }

    fn read_line(&mut self) -> io::Result<Option<LinePlace>> {
        self.buffer.clear();
        self.too_long = false;
        let place = LinePlace { number: self.number + 1, offset: self.end };
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = memchr::memchr(b'\n', available);
            let part = &available[..end.unwrap_or(available.len())];
            // More than the limit by the `\r` of a line break and by a byte order mark.
            self.too_long |= self.buffer.len() + part.len() > self.max.saturating_add(1 + BYTE_ORDER_MARK.len());
            if !self.too_long {
                self.buffer.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.end += used as u64;
            if end.is_some() || used == 0 {
                break;
            }
        }
        if self.end == place.offset {
            return Ok(None);
        }
        self.number = place.number;
        Ok(Some(place))
    }

    fn is_blank(&self) -> bool {
        !self.too_long && self.text().iter().all(u8::is_ascii_whitespace)
    }

    /// The line that was read last, as far as it is in memory.
    fn text(&self) -> &[u8] {
        let text = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
        text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
    }

    /// The line that was read last.
    pub fn latest(&self) -> Line<'_> {
        let text = self.text();
        if self.too_long || text.len() > self.max { Line::TooLong } else { Line::Text(text) }
    }

    /// Where the line after the latest one begins.
    pub fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_are_cut_at_breaks_whatever_the_size_of_the_reads() {
        let text = b"\xef\xbb\xbfabcde\r\n\nabcdefghi\n \n\xef\xbb\xbf\n\xef\xbb\xbfab\n\n";
        for capacity in 1..20 {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_slice()), 5);
            let mut seen = Vec::new();
            while let Some(LinePlace { number, offset }) = lines.advance().unwrap() {
                let what = match lines.latest() {
                    Line::Text(text) => std::str::from_utf8(text).unwrap(),
                    Line::TooLong => "too long",
                };
                seen.push(format!("{number} {offset} {what}"));
            }
            assert_eq!(seen, ["1 0 abcde", "3 11 too long", "6 27 ab"]);
            assert_eq!(lines.end(), text.len() as u64);
        }
    }
}
