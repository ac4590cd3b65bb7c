//! What a create says for all its rows, and the syntax of these rows.

use serde_json::Value;

/// The member in which a create names its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSyntax {
    Requests,
    Prompts,
    Items,
}

/// Values that apply to all rows.
#[derive(Debug, Clone, Default)]
pub struct Common {
    pub model: Option<String>,
    pub system: Option<String>,
    pub max_tokens: Option<Value>,
    pub temperature: Option<Value>,
}

/// A row's own body, under either of its names.
pub fn body_of(row: &Value) -> Option<&Value> {
    row.get("body").or_else(|| row.get("request"))
}
