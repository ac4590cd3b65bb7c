//! The lines of a file, none of them longer in memory than allowed.

use std::io::{self, BufRead};

/// One line without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Text(&'a [u8]),
    /// Nothing but white space.
    Blank,
    /// Longer than allowed; it was skipped.
    TooLong,
}

/// Reads lines, counted from 1.
pub(super) struct Lines<R> {
    reader: R,
    max: usize,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `max` bytes.
    pub fn new(reader: R, max: usize) -> Self {
        Self { reader, max, number: 0, buffer: Vec::new() }
    }

    /// The next line and its number; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.buffer.clear();
        let (mut any, mut too_long) = (false, false);
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            too_long |= self.buffer.len() + part.len() > self.max;
            if !too_long {
                self.buffer.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        let text = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
        let line = match () {
            () if too_long => Line::TooLong,
            () if text.iter().all(u8::is_ascii_whitespace) => Line::Blank,
            () => Line::Text(text),
        };
        Ok(Some((self.number, line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_are_cut_at_breaks_whatever_the_size_of_the_reads() {
        let text = b"abc\r\n\nabcdef\n \nab";
        for capacity in 1..20 {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_slice()), 5);
            let mut seen = Vec::new();
            while let Some((number, line)) = lines.next().unwrap() {
                seen.push(format!(
                    "{number} {}",
                    match line {
                        Line::Text(text) => std::str::from_utf8(text).unwrap(),
                        Line::Blank => "blank",
                        Line::TooLong => "too long",
                    }
                ));
            }
            assert_eq!(seen, ["1 abc", "2 blank", "3 too long", "4 blank", "5 ab"]);
        }
    }
}
