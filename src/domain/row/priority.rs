//! The member `priority` of a body: which requests a server such as vLLM runs first.
//!
//! It is the operator's to say, not a row's: with it, one client's batch would overtake everybody
//! else who uses the server, and a server that was not started for it refuses it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

const MEMBER: &str = "priority";
/// What a body with such a member has: its name, or escapes, which may write it. Each row is searched, so
/// the searches are prepared once.
static MARKS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| [Finder::new(MEMBER), Finder::new("\\u")]);

/// What becomes of the `priority` that a row asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowPriority {
    /// It is taken out.
    #[default]
    Strip,
    /// It is sent as it is.
    Allow,
    /// Every row has this one; for vLLM, a lower number comes first.
    Pin(i32),
}

impl fmt::Display for RowPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strip => f.write_str("strip"),
            Self::Allow => f.write_str("allow"),
            Self::Pin(priority) => fmt::Display::fmt(priority, f),
        }
    }
}

impl FromStr for RowPriority {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "strip" => Ok(Self::Strip),
            "allow" => Ok(Self::Allow),
            _ => text.parse().map(Self::Pin).map_err(|_| "must be `strip`, `allow`, or a whole number that every row gets, such as `10`"),
        }
    }
}

impl RowPriority {
    /// The body as it is sent. Nothing else in it changes.
    pub fn apply(self, body: Vec<u8>) -> Vec<u8> {
        let may = || MARKS.iter().any(|mark| mark.find(&body).is_some());
        let found = || if may() { find(&body) } else { Found::Nothing };
        match self {
            Self::Allow => body,
            Self::Strip => match found() {
                Found::Nothing => body,
                Found::Once { member, .. } => without(&body, member),
                Found::Often => rewritten(body, None),
            },
            Self::Pin(priority) => match found() {
                Found::Nothing => with(&body, priority),
                Found::Once { value, .. } => [&body[..value.start], priority.to_string().as_bytes(), &body[value.end..]].concat(),
                Found::Often => rewritten(body, Some(priority)),
            },
        }
    }
}

enum Found {
    Nothing,
    /// The bytes of the member with its name, and of its value.
    Once {
        member: Range<usize>,
        value: Range<usize>,
    },
    Often,
}

fn find(body: &[u8]) -> Found {
    #[derive(Deserialize)]
    struct Members<'a> {
        // Distinguishes null from nothing.
        #[serde(borrow, default, deserialize_with = "some")]
        priority: Option<&'a RawValue>,
    }
    fn some<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Some)
    }
    let raw = match serde_json::from_slice::<Members<'_>>(body) {
        Ok(Members { priority: Some(raw) }) => raw.get(),
        Ok(Members { priority: None }) => return Found::Nothing,
        Err(_) => return Found::Often,
    };
    // The value borrows from the body, so its address gives its place there.
    let start = raw.as_ptr() as usize - body.as_ptr() as usize;
    let value = start..start + raw.len();
    // Before it are a colon and the name, which holds no quotation mark, however it is written.
    let before = &body[..start];
    let name = memchr::memrchr(b'"', before).and_then(|end| memchr::memrchr(b'"', &before[..end]));
    name.map_or(Found::Often, |name| Found::Once { member: name..value.end, value })
}

fn without(body: &[u8], member: Range<usize>) -> Vec<u8> {
    let (before, after) = (&body[..member.start], &body[member.end..]);
    let rest = after.trim_ascii_start();
    match rest.strip_prefix(b",") {
        Some(rest) => [before, rest.trim_ascii_start()].concat(),
        None => {
            let head = before.trim_ascii_end();
            [head.strip_suffix(b",").unwrap_or(head), after].concat()
        }
    }
}

fn with(body: &[u8], priority: i32) -> Vec<u8> {
    let Some(brace) = memchr::memchr(b'{', body) else { return body.to_vec() };
    let (before, after) = body.split_at(brace + 1);
    let comma = if after.trim_ascii_start().starts_with(b"}") { "" } else { "," };
    [before, format!("\"{MEMBER}\":{priority}{comma}").as_bytes(), after].concat()
}

/// For a body that names the member more than once, which no two servers read alike.
fn rewritten(body: Vec<u8>, priority: Option<i32>) -> Vec<u8> {
    let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&body) else { return body };
    members.remove(MEMBER);
    if let Some(priority) = priority {
        members.insert(MEMBER.to_owned(), priority.into());
    }
    serde_json::to_vec(&members).unwrap_or(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(priority: RowPriority, body: &str) -> String {
        String::from_utf8(priority.apply(body.into())).unwrap()
    }

    #[test]
    fn only_the_member_itself_is_touched() {
        let table = [
            (r#"{ "a":1.0e0, "x":"priority" }"#, r#"{ "a":1.0e0, "x":"priority" }"#, r#"{"priority":7, "a":1.0e0, "x":"priority" }"#),
            (r#"{"priority" : -3 , "a":1.0}"#, r#"{"a":1.0}"#, r#"{"priority" : 7 , "a":1.0}"#),
            (r#"{"a":{"priority":1}, "priority":null}"#, r#"{"a":{"priority":1}}"#, r#"{"a":{"priority":1}, "priority":7}"#),
            (r#"{"a":1,"prior\u0069ty":[1,"}"] ,"b":2}"#, r#"{"a":1,"b":2}"#, r#"{"a":1,"prior\u0069ty":7 ,"b":2}"#),
            (r#"{"priority":1}"#, "{}", r#"{"priority":7}"#),
            ("{ }", "{ }", r#"{"priority":7 }"#),
            (r#"{"priority":1,"a":2,"priority":3}"#, r#"{"a":2}"#, r#"{"a":2,"priority":7}"#),
        ];
        for (body, stripped, pinned) in table {
            assert_eq!(applied(RowPriority::Strip, body), stripped);
            assert_eq!(applied(RowPriority::Pin(7), body), pinned);
            assert_eq!(applied(RowPriority::Allow, body), body);
        }
    }

    #[test]
    fn the_words_are_read_as_they_are_shown() {
        for (text, priority) in [("strip", RowPriority::Strip), ("allow", RowPriority::Allow), ("-5", RowPriority::Pin(-5))] {
            assert_eq!((text.parse(), priority.to_string().as_str()), (Ok(priority), text));
        }
        for bad in ["", "none", "1.5", "99999999999"] {
            assert!(bad.parse::<RowPriority>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_object_stays_an_object(
            members in proptest::collection::vec(("priority|a|b|pri\\\\u006frity", "1|\"x,}\"|\\[1, 2\\]|\\{\"priority\":2\\}|null"), 0..5),
            space in " {0,2}",
        ) {
            let body = members.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{value}{space}")).collect::<Vec<_>>().join(",");
            let body = format!("{{{body}}}");
            let mut expected: Map<String, Value> = serde_json::from_str(&body).unwrap();
            expected.remove(MEMBER);
            let stripped: Map<String, Value> = serde_json::from_str(&applied(RowPriority::Strip, &body)).unwrap();
            prop_assert_eq!(&stripped, &expected);
            expected.insert(MEMBER.into(), 7.into());
            let pinned: Map<String, Value> = serde_json::from_str(&applied(RowPriority::Pin(7), &body)).unwrap();
            prop_assert_eq!(pinned, expected);
        }
    }
}
