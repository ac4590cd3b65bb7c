//! Takes the provider's key out of what the provider answers: some servers and gateways repeat it in
//! an error, and the answer goes to the client.

use std::fmt;

use bytes::Bytes;
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};

/// What stands in place of the key.
const REDACTED: &[u8] = b"[redacted]";
/// A shorter key is no secret, and could be a part of any word.
const LEAST: usize = 8;

/// Finds a key. Its debug output does not show it.
pub(super) struct Redaction {
    /// The key as it is, and as JSON may escape it.
    forms: Vec<SecretString>,
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redaction")
    }
}

impl Redaction {
    /// Finds this key; `None` if it is no secret: for a server without keys people write a word.
    pub fn of(key: &SecretString) -> Option<Self> {
        let key = key.expose_secret();
        if key.len() < LEAST || key.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return None;
        }
        let json = serde_json::to_string(key).unwrap_or_default();
        let json = json.trim_matches('"');
        let mut forms = vec![key.to_owned(), json.to_owned(), json.replace('/', "\\/")];
        forms.dedup();
        Some(Self { forms: forms.into_iter().map(SecretString::from).collect() })
    }

    /// The bytes without the key.
    pub fn apply(&self, bytes: Bytes) -> Bytes {
        self.forms.iter().fold(bytes, |bytes, form| without(form.expose_secret().as_bytes(), bytes))
    }

    /// The text without the key.
    pub fn apply_to_text(&self, text: String) -> String {
        self.forms.iter().fold(text, |text, form| match text.contains(form.expose_secret()) {
            true => text.replace(form.expose_secret(), "[redacted]"),
            false => text,
        })
    }
}

fn without(key: &[u8], bytes: Bytes) -> Bytes {
    let finder = memmem::Finder::new(key);
    let Some(mut at) = finder.find(&bytes) else { return bytes };
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), &bytes[..]);
    loop {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(REDACTED);
        rest = &rest[at + key.len()..];
        match finder.find(rest) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_wherever_it_stands_and_words_stay() {
        let redacted = |key: &str, text: &str| {
            let text = Bytes::from(text.to_owned());
            let kept = Redaction::of(&SecretString::from(key)).map_or(text.clone(), |redaction| redaction.apply(text));
            String::from_utf8(kept.to_vec()).unwrap()
        };
        assert_eq!(
            redacted("sk-1234567", r#"{"error":"sk-1234567 and Bearer sk-1234567"}"#),
            r#"{"error":"[redacted] and Bearer [redacted]"}"#
        );
        assert_eq!(redacted("ab/cd\"efg", r#"["ab/cd\"efg","ab\/cd\"efg"]"#), r#"["[redacted]","[redacted]"]"#);
        assert_eq!(redacted("none", "none of it"), "none of it");
        assert_eq!(redacted("whatever", "whatever it is"), "whatever it is");
        let redaction = Redaction::of(&SecretString::from("sk-1234567")).unwrap();
        assert_eq!(redaction.apply_to_text("req-sk-1234567".into()), "req-[redacted]");
        assert!(!format!("{redaction:?}").contains("sk-"));
    }
}
