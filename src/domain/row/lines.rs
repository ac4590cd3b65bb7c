//! The lines of a JSONL file, each with its place. No line takes more memory than allowed.
//!
//! This module does not know what a line means. It is the only reader of input files: validation,
//! dispatch and cost estimates must agree on where lines begin.

use std::io::{self, BufRead};

/// One line without its line break.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Text(&'a [u8]),
    /// Only white space.
    Blank,
    /// A line longer than allowed. The reader skipped it.
    TooLong,
}

/// The position of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinePlace {
    /// Counted from 1.
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

    /// Reads the next line; `None` at the end.
    ///
    /// # Errors
    /// Errors of the reader.
    pub fn advance(&mut self) -> io::Result<Option<LinePlace>> {
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
            // One byte more than the limit: it may be the `\r` of a line break.
            self.too_long |= self.buffer.len() + part.len() > self.max.saturating_add(1);
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

    /// The line that was read last.
    pub fn latest(&self) -> Line<'_> {
        let text = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
        match () {
            () if self.too_long || text.len() > self.max => Line::TooLong,
            () if text.iter().all(u8::is_ascii_whitespace) => Line::Blank,
            () => Line::Text(text),
        }
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
        let text = b"abcde\r\n\nabcdef\n \nab";
        for capacity in 1..20 {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_slice()), 5);
            let mut seen = Vec::new();
            while let Some(LinePlace { number, offset }) = lines.advance().unwrap() {
                let what = match lines.latest() {
                    Line::Text(text) => std::str::from_utf8(text).unwrap(),
                    Line::Blank => "blank",
                    Line::TooLong => "too long",
                };
                seen.push(format!("{number} {offset} {what}"));
            }
            assert_eq!(seen, ["1 0 abcde", "2 7 blank", "3 8 too long", "4 15 blank", "5 17 ab"]);
            assert_eq!(lines.end(), 19);
        }
    }
}
