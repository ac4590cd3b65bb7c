//! A digest of the content of a JSON text, independent of its spelling: white space, the order of
//! members and escapes do not matter. Two creates with one idempotency key are the same if their
//! digests are.
//!
//! The text is read once and never held as values: memory grows only with its most deeply nested
//! objects.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// SHA-256 of a value: of a tag, then of the value's content.
struct Canonical([u8; 32]);

/// Computes the digest of a JSON text.
///
/// # Errors
/// When the text is not JSON.
pub fn digest(json: &[u8]) -> Result<[u8; 32], serde_json::Error> {
    serde_json::from_slice::<Canonical>(json).map(|canonical| canonical.0)
}

impl Canonical {
    fn of(tag: u8, content: &[u8]) -> Self {
        Self(Sha256::new().chain_update([tag]).chain_update(content).finalize().into())
    }
}

impl<'de> Deserialize<'de> for Canonical {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Canonical;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Canonical, E> {
        Ok(Canonical::of(b'n', b""))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Canonical, E> {
        Ok(Canonical::of(b'b', &[u8::from(value)]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Canonical, E> {
        Ok(Canonical::of(b'i', value.to_string().as_bytes()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Canonical, E> {
        Ok(Canonical::of(b'i', value.to_string().as_bytes()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Canonical, E> {
        Ok(Canonical::of(b'f', &value.to_be_bytes()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Canonical, E> {
        Ok(Canonical::of(b's', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Canonical, A::Error> {
        let mut all = Sha256::new().chain_update(b"a");
        while let Some(Canonical(element)) = elements.next_element()? {
            all.update(element);
        }
        Ok(Canonical(all.finalize().into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Canonical, A::Error> {
        let mut all: Vec<([u8; 32], [u8; 32])> = Vec::new();
        while let Some((Canonical(name), Canonical(value))) = members.next_entry()? {
            all.push((name, value));
        }
        // The sort is stable: if several members have one name, their order counts, as it does for
        // readers.
        all.sort_by_key(|(name, _)| *name);
        let mut sum = Sha256::new().chain_update(b"o");
        for (name, value) in all {
            sum.update(name);
            sum.update(value);
        }
        Ok(Canonical(sum.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn the_spelling_does_not_matter_and_everything_else_does() {
        let same = [r#"{"a":[1,"\u0041",null],"b":{"c":true,"d":1.50}}"#, r#" {"b" : {"d":1.5, "c":true}, "a":[ 1, "A", null ]} "#];
        assert_eq!(digest(same[0].as_bytes()).unwrap(), digest(same[1].as_bytes()).unwrap());
        let others = [
            "{}",
            "[]",
            "null",
            "\"\"",
            "0",
            "\"0\"",
            "false",
            "[[]]",
            "[1,2]",
            "[2,1]",
            "[12]",
            "{\"a\":1}",
            "{\"a\":[1]}",
            "[\"a\",1]",
            "0.5",
            "-1",
        ];
        let digests: std::collections::HashSet<_> = others.iter().map(|text| digest(text.as_bytes()).unwrap()).collect();
        assert_eq!(digests.len(), others.len());
        assert!(digest(b"{").is_err());
    }

    proptest! {
        #[test]
        fn only_equal_values_have_equal_digests(a in "[a-c]{0,2}", b in "[a-c]{0,2}", n in 0_u8..3, m in 0_u8..3) {
            let of = |text: &str, n: u8| -> Value { json!({text: [n, text], "z": {"n": n}}) };
            let (left, right) = (of(&a, n), of(&b, m));
            let digest = |value: &Value| digest(value.to_string().as_bytes()).unwrap();
            prop_assert_eq!(digest(&left) == digest(&right), left == right);
        }
    }
}
