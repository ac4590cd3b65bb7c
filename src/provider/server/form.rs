//! The body of a call that sends a file: `multipart/form-data` (RFC 7578), made of the JSON members
//! of a row and the file.
//!
//! Lists and objects are written as OpenAI's own clients write them: `include[]` once for each
//! element, `chunking_strategy[type]` for a member. A member that is null is left out.

use std::iter::once;

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value};

use crate::domain::row::audio::Recording;
use crate::provider::CallFile;

/// The field of the file.
const FILE: &str = "file";
/// Bytes of the lines around a field, at most, besides its name and its value.
const FRAME: usize = 160;

/// A body, and the `Content-Type` that says how it is to be read.
pub(super) struct Form {
    pub content_type: HeaderValue,
    pub body: Bytes,
}

/// Writes the form; `None` if the members are no JSON object.
pub(super) fn form(members: &[u8], file: &CallFile) -> Option<Form> {
    let members: Map<String, Value> = serde_json::from_slice(members).ok()?;
    let mut fields = Vec::new();
    for (name, value) in &members {
        if !Recording::MEMBERS.contains(&name.as_str()) {
            flatten(name.clone(), value, &mut fields);
        }
    }
    // Nobody can guess it, so nobody can write a field of their own into a value; that no part
    // happens to contain it is looked at all the same.
    let texts = || fields.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]).chain(once(&file.content[..]));
    let boundary = loop {
        let boundary = format!("batchd-{:032x}", fastrand::u128(..));
        if texts().all(|text| memchr::memmem::find(text, boundary.as_bytes()).is_none()) {
            break boundary;
        }
    };
    let mut body = Vec::with_capacity(texts().map(|text| text.len() + FRAME).sum::<usize>() + FRAME);
    for (name, value) in &fields {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n", escaped(name));
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    // Last, so that a server that reads as it goes knows what to do with it.
    let (name, mime) = (escaped(&file.name), &file.mime);
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{FILE}\"; filename=\"{name}\"\r\nContent-Type: {}\r\n\r\n",
        escaped(mime)
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&file.content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::try_from(format!("multipart/form-data; boundary={boundary}")).ok()?;
    Some(Form { content_type, body: body.into() })
}

/// Adds the fields of a member.
fn flatten(name: String, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => fields.push((name, flag.to_string())),
        Value::Number(number) => fields.push((name, number.to_string())),
        Value::String(text) => fields.push((name, text.clone())),
        Value::Array(values) => {
            // Some write the form's own name in JSON.
            let name = if name.ends_with("[]") { name } else { format!("{name}[]") };
            values.iter().for_each(|value| flatten(name.clone(), value, fields));
        }
        Value::Object(members) => members.iter().for_each(|(member, value)| flatten(format!("{name}[{member}]"), value, fields)),
    }
}

/// A name as browsers write it in a form.
fn escaped(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn file(content: &[u8]) -> CallFile {
        CallFile { name: "a.mp3".into(), mime: "audio/mpeg".into(), content: Bytes::copy_from_slice(content) }
    }

    /// The parts of a form as a server reads them: head, and content.
    fn parts(form: &Form) -> Vec<(String, Vec<u8>)> {
        let boundary = form.content_type.to_str().unwrap().split_once("boundary=").unwrap().1;
        let line = format!("\r\n--{boundary}");
        let whole = [b"\r\n", &form.body[..]].concat();
        let ends: Vec<usize> = memchr::memmem::find_iter(&whole, &line).collect();
        assert_eq!(&whole[*ends.last().unwrap()..], format!("{line}--\r\n").as_bytes());
        let part = |pair: &[usize]| {
            let part = &whole[pair[0] + line.len() + 2..pair[1]];
            let head = memchr::memmem::find(part, b"\r\n\r\n").unwrap();
            (String::from_utf8(part[..head].to_vec()).unwrap(), part[head + 4..].to_vec())
        };
        ends.windows(2).map(part).collect()
    }

    #[test]
    fn members_become_fields_and_the_recording_comes_last() {
        let members = json!({
            "model": "whisper-1", "file_url": "https://a.test/a.mp3", "file": "x", "file_id": "y", "language": null, "temperature": 0.5,
            "stream": false, "prompt": "two\nlines", "timestamp_granularities": ["word", "segment"], "include[]": ["logprobs"],
            "chunking_strategy": {"type": "server_vad", "threshold": 0.25}, "odd\"\r\nname": "z",
        });
        let form = form(members.to_string().as_bytes(), &file(b"\r\n--\x00\xff")).unwrap();
        let told =
            parts(&form).into_iter().map(|(head, content)| format!("{head}\r\n{content:?}", content = content.escape_ascii().to_string()));
        insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n").replace('\r', ""));
        assert!(super::form(b"[]", &file(b"")).is_none());
    }

    proptest! {
        #[test]
        fn every_value_arrives_whole(name in "[a-z]{1,8}", value: String, content: Vec<u8>) {
            prop_assume!(!Recording::MEMBERS.contains(&name.as_str()));
            let form = form(json!({ name.clone(): value }).to_string().as_bytes(), &file(&content)).unwrap();
            let parts = parts(&form);
            prop_assert_eq!(parts.len(), 2);
            prop_assert_eq!(&parts[0], &(format!("Content-Disposition: form-data; name=\"{name}\""), value.into_bytes()));
            prop_assert_eq!(&parts[1].1, &content);
        }
    }
}
