//! What a create says of all its rows, and in which syntax it has them.

use serde_json::Value;

/// Which of the ways a create names its rows in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSyntax {
    Requests,
    Prompts,
    Items,
}

/// What is said of all rows.
#[derive(Debug, Clone, Default)]
pub struct Common {
    pub model: Option<String>,
    pub system: Option<String>,
    pub max_tokens: Option<Value>,
    pub temperature: Option<Value>,
}

/// The body that a row has of its own, by either of its names.
pub fn body_of(row: &Value) -> Option<&Value> {
    row.get("body").or_else(|| row.get("request"))
}
