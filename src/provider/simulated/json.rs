//! Writes JSON directly into bytes: the answers are many and their shapes are fixed.
//!
//! Whether a comma is due follows from the last byte alone, so values can be written anywhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A JSON text that is being written.
#[derive(Default)]
pub(super) struct Json(Vec<u8>);

impl Json {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn comma(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(b',');
        }
    }

    /// Writes the name of the next value; plain ASCII without quotes.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    /// Writes the name of the next value, whatever characters it has.
    pub fn name(&mut self, name: &str) -> &mut Self {
        self.text(name);
        self.0.push(b':');
        self
    }

    /// Writes a string.
    pub fn text(&mut self, text: &str) {
        self.comma();
        // Serialising a string into a vector cannot fail.
        if serde_json::to_writer(&mut self.0, text).is_err() {
            self.0.extend_from_slice(b"\"\"");
        }
    }

    /// Writes bytes as a base-64 string.
    pub fn base64(&mut self, bytes: &[u8]) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        self.0.push(b'"');
    }

    pub fn number(&mut self, number: u64) {
        self.raw(&number.to_string());
    }

    pub fn float(&mut self, number: f32) {
        self.comma();
        if serde_json::to_writer(&mut self.0, &number).is_err() {
            self.0.push(b'0');
        }
    }

    pub fn flag(&mut self, flag: bool) {
        self.raw(if flag { "true" } else { "false" });
    }

    pub fn null(&mut self) {
        self.raw("null");
    }

    /// Writes a value that is JSON already.
    pub fn raw(&mut self, json: &str) {
        self.comma();
        self.0.extend_from_slice(json.as_bytes());
    }

    pub fn object(&mut self, fill: impl FnOnce(&mut Self)) {
        self.comma();
        self.0.push(b'{');
        fill(self);
        self.0.push(b'}');
    }

    pub fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.comma();
        self.0.push(b'[');
        fill(self);
        self.0.push(b']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_stand_where_they_belong() {
        let mut json = Json::default();
        json.object(|json| {
            json.key("a").array(|json| {
                json.number(1);
                json.text("[");
                json.object(|_| {});
                json.null();
            });
            json.key("b").text("\"{\n");
            json.key("c").flag(true);
            json.name("\"d").number(2);
        });
        assert_eq!(String::from_utf8(json.into_bytes()).unwrap(), r#"{"a":[1,"[",{},null],"b":"\"{\n","c":true,"\"d":2}"#);
    }
}
