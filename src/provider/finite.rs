//! Makes JSON of what servers write that know more numbers: `NaN`, `Infinity` and `-Infinity`, as
//! Python does. They become `null`, as in JavaScript, and a good answer is not lost for them.

use bytes::Bytes;

/// The words, the longest first.
const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// The body with `null` in place of each such number that stands outside of texts; `None` if there
/// is none.
pub fn repaired(body: &[u8]) -> Option<Bytes> {
    let mut out = Vec::new();
    let (mut at, mut kept, mut in_text) = (0, 0, false);
    while let Some(&byte) = body.get(at) {
        match byte {
            // An escaped character of a text.
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'-' | b'I' | b'N' if !in_text => {
                if let Some(word) = WORDS.iter().find(|word| body[at..].starts_with(word)) {
                    out.extend_from_slice(&body[kept..at]);
                    out.extend_from_slice(b"null");
                    at += word.len();
                    kept = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (kept > 0).then(|| {
        out.extend_from_slice(&body[kept..]);
        out.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_an_end_become_null_and_texts_stay() {
        let table = [
            (r#"{"a":NaN,"b":[-Infinity,Infinity,-1]}"#, Some(r#"{"a":null,"b":[null,null,-1]}"#)),
            (r#"{"a":"NaN \" Infinity","NaN":-Infinity}"#, Some(r#"{"a":"NaN \" Infinity","NaN":null}"#)),
            (r#"{"a":"-Infinity\\","b":Infinity}"#, Some(r#"{"a":"-Infinity\\","b":null}"#)),
            (r#"{"a":"NaN"}"#, None),
            (r#"{"a":-1,"b":Nan}"#, None),
            ("\"\\", None),
            ("", None),
        ];
        for (body, expected) in table {
            assert_eq!(repaired(body.as_bytes()).as_deref(), expected.map(str::as_bytes), "{body}");
        }
    }
}
