//! Text for answers and messages.

use std::fmt::Write as _;

/// The most characters of a client's own text that a message repeats.
const MAX_SHOWN: usize = 80;

/// `bytes` in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The beginning of a client's text, which may be long.
pub fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_long_texts_are_shown() {
        assert_eq!((hex(&[0, 0x0f, 0xa0]), hex(&[])), ("000fa0".to_owned(), String::new()));
        assert_eq!((shown("é"), shown(&"é".repeat(99))), ("é".to_owned(), "é".repeat(80)));
    }
}
