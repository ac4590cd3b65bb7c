//! Writes JSON directly into bytes: the answers are many and their shapes are fixed.
//!
//! Whether a comma is due follows from the last byte alone, so values can be written anywhere.

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
        base64(bytes, &mut self.0);
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

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_remainder() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("\u{ff}>?", "w78+Pw==")] {
            let mut out = Vec::new();
            base64(plain.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), coded);
        }
    }

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
        });
        assert_eq!(String::from_utf8(json.into_bytes()).unwrap(), r#"{"a":[1,"[",{},null],"b":"\"{\n","c":true}"#);
    }
}
