//! Members of a request's body that the operator decides for a provider, whatever a row says: a
//! server's priority for batch work, for example, which no row may choose for itself.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// What is changed in each body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyEdits {
    /// Members and their values in JSON.
    set: Vec<(String, String)>,
    drop: Vec<String>,
}

impl BodyEdits {
    /// Sets these members and leaves those out; a member that is both is set.
    pub fn new(set: impl IntoIterator<Item = (String, Value)>, drop: Vec<String>) -> Self {
        Self { set: set.into_iter().map(|(name, value)| (name, value.to_string())).collect(), drop }
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty()
    }

    fn replaces(&self, name: &str) -> bool {
        self.set.iter().any(|(set, _)| set == name) || self.drop.iter().any(|drop| drop == name)
    }

    /// The body with the changes; all other members stay as they are written. `None` if it stays as
    /// it is, or is no object.
    pub fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let Members(members) = serde_json::from_slice(body).ok()?;
        let mut edited = Vec::with_capacity(body.len() + 64);
        let kept = members.iter().filter(|(name, _)| !self.replaces(name)).map(|(name, value)| (name.as_ref(), value.get()));
        for (name, value) in kept.chain(self.set.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
            edited.push(if edited.is_empty() { b'{' } else { b',' });
            serde_json::to_writer(&mut edited, name).ok()?;
            edited.push(b':');
            edited.extend_from_slice(value.as_bytes());
        }
        if edited.is_empty() {
            edited.push(b'{');
        }
        edited.push(b'}');
        Some(edited)
    }
}

/// The members of an object in their order, with their values as written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    members.push((name.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The name of a member, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_set_and_dropped_and_all_else_stays_as_written() {
        let set = [("priority".to_owned(), json!(100)), ("a\"b".to_owned(), json!({"x": null}))];
        let edits = BodyEdits::new(set, vec!["user".into()]);
        let table = [
            (r#"{"model":"m"}"#, r#"{"model":"m","priority":100,"a\"b":{"x":null}}"#),
            (r#"{ "n" : 1.0, "priority":-5, "user":"u", "big":1e400 }"#, r#"{"n":1.0,"big":1e400,"priority":100,"a\"b":{"x":null}}"#),
            (r#"{"pri\u006frity":-5}"#, r#"{"priority":100,"a\"b":{"x":null}}"#),
            ("{}", r#"{"priority":100,"a\"b":{"x":null}}"#),
        ];
        for (body, expected) in table {
            assert_eq!(String::from_utf8(edits.apply(body.as_bytes()).unwrap()).unwrap(), expected);
        }
        assert_eq!(edits.apply(b"[1]"), None);
        assert_eq!(BodyEdits::default().apply(b"{}"), None);
        assert_eq!(BodyEdits::new([], vec!["user".into()]).apply(br#"{"user":1}"#).unwrap(), b"{}");
    }

    proptest! {
        #[test]
        fn an_edited_body_is_the_body_with_the_edits(names in proptest::collection::btree_map("[a-e\"\\\\]{1,2}", any::<i32>(), 0..6)) {
            let body = json!(names);
            let edits = BodyEdits::new([("a".to_owned(), json!("set"))], vec!["b".into()]);
            let edited: Value = serde_json::from_slice(&edits.apply(body.to_string().as_bytes()).unwrap()).unwrap();
            let mut expected = body;
            let members = expected.as_object_mut().unwrap();
            members.remove("b");
            members.insert("a".into(), json!("set"));
            prop_assert_eq!(edited, expected);
        }
    }
}
