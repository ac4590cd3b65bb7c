//! The characters at which many readers end a line, although only a line feed ends a line of JSONL:
//! U+0085, U+2028 and U+2029. Python's `str.splitlines` ends lines there, and so does what is built
//! on it, such as `iter_lines` of httpx.
//!
//! JSON holds these characters only within strings, where the escaped form is the same value. So
//! whatever is written as a line has them escaped.

use std::borrow::Cow;

/// Where such a character is, its length in bytes, and its escaped form.
type Found = (usize, usize, &'static [u8; 6]);

fn find(json: &[u8]) -> Option<Found> {
    // In UTF-8 no other character contains these two bytes. Both are rare in most languages.
    memchr::memchr2_iter(0xc2, 0xe2, json).find_map(|at| match json[at..] {
        [0xc2, 0x85, ..] => Some((at, 2, b"\\u0085")),
        [0xe2, 0x80, 0xa8, ..] => Some((at, 3, b"\\u2028")),
        [0xe2, 0x80, 0xa9, ..] => Some((at, 3, b"\\u2029")),
        _ => None,
    })
}

/// Escapes them in `json`, which is valid JSON.
pub fn escaped(json: &[u8]) -> Cow<'_, [u8]> {
    let Some(mut found) = find(json) else { return Cow::Borrowed(json) };
    let (mut out, mut rest) = (Vec::with_capacity(json.len() + 64), json);
    loop {
        let (at, length, escape) = found;
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(escape);
        rest = &rest[at + length..];
        match find(rest) {
            Some(next) => found = next,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Escapes them in what follows the first `start` bytes of `out`, which is valid JSON.
pub fn escape_from(start: usize, out: &mut Vec<u8>) {
    if let Cow::Owned(escaped) = escaped(&out[start..]) {
        out.truncate(start);
        out.extend_from_slice(&escaped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Python's `str.splitlines` sees it; the other characters at which it ends a line cannot
    /// occur in JSON.
    const ENDS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

    proptest! {
        #[test]
        fn the_value_stays_and_no_line_ends(text in "[a\\\\\"\u{80}\u{84}-\u{86}\u{2027}-\u{202a}é€\u{e2}\u{c2}😀]{0,40}", key in "\\PC{0,5}|\u{2028}") {
            let json = serde_json::json!({ key: [text] });
            let line = escaped(json.to_string().as_bytes()).into_owned();
            prop_assert_eq!(&serde_json::from_slice::<serde_json::Value>(&line).unwrap(), &json);
            prop_assert!(!std::str::from_utf8(&line).unwrap().contains(ENDS));
            let mut whole = "\u{2028}".as_bytes().to_vec();
            whole.extend_from_slice(json.to_string().as_bytes());
            escape_from(3, &mut whole);
            prop_assert_eq!(&whole[3..], &line[..]);
        }
    }
}
