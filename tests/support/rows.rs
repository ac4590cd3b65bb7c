//! Input rows.

use serde_json::{Value, json};

/// A known model of the built-in provider that answers at once.
pub const INSTANT: &str = "simulated-instant";

/// One chat row; `extra` is merged into its body.
pub fn chat(custom_id: &str, model: &str, extra: &Value) -> String {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Say hello."}], "user": custom_id});
    if let (Some(body), Some(extra)) = (body.as_object_mut(), extra.as_object()) {
        body.extend(extra.clone());
    }
    row(custom_id, "/v1/chat/completions", &body)
}

/// One row with this body.
pub fn row(custom_id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).to_string()
}

/// A row whose body is written exactly as given.
pub fn chat_verbatim(custom_id: &str, body: &str) -> String {
    format!(r#"{{"custom_id":{},"method":"POST","url":"/v1/chat/completions","body":{body}}}"#, Value::from(custom_id))
}

/// A chat row that makes the built-in provider misbehave.
pub fn faulty(custom_id: &str, model: &str, simulate: &str) -> String {
    chat(custom_id, model, &json!({"metadata": {"simulate": simulate}}))
}

/// Joins lines, with a line break after each.
pub fn file<S: AsRef<str>>(lines: &[S]) -> String {
    lines.iter().map(|line| format!("{}\n", line.as_ref())).collect()
}

/// The name of row `n` of [`many`].
pub fn name(n: usize) -> String {
    format!("row-{n}")
}

/// `n` small chat rows for `model`, named by [`name`] and marked with `"user"`.
pub fn many(n: usize, model: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(n * 180);
    for n in 0..n {
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            r#"{{"custom_id":"row-{n}","method":"POST","url":"/v1/chat/completions","body":{{"model":"{model}","messages":[{{"role":"user","content":"Say {n}."}}],"user":"row-{n}"}}}}"#
        );
    }
    text
}
