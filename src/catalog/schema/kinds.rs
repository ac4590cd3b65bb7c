//! The form of written values, for the JSON Schema alone: the check knows more.

use crate::domain::endpoint::Endpoint;

/// A type's place in the JSON Schema, written out wherever it is used.
macro_rules! inline_schema {
    ($name:ident, { $($schema:tt)+ }) => {
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ $($schema)+ })
            }
        }
    };
}

pub(in crate::catalog) use inline_schema;

macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident = { $($schema:tt)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name;

        inline_schema!($name, { $($schema)+ });
    )+};
}

kinds! {
    /// US dollars.
    Usd = { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$", "examples": ["0.15"] }
    /// A TOML date; JSON has no such type, and editors check it as text.
    Day = { "type": "string", "format": "date" }
    /// An absolute URL.
    Url = { "type": "string", "pattern": "^https?://" }
    /// A length of time.
    Length = { "type": "string", "examples": ["120ms", "10s", "5m"] }
    /// A word of an open vocabulary.
    Slug = { "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$" }
    /// A model's name.
    Name = { "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}$" }
    /// The name of an environment variable.
    Variable = { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }
    /// A MIME type; `image/*` is one, too.
    Mime = { "type": "string", "pattern": "^[a-z]+/[a-z0-9.*+-]+$" }
    /// A whole number of at least 1.
    Positive = { "type": "integer", "minimum": 1 }
    /// A share of calls.
    Share = { "type": "number", "minimum": 0, "maximum": 1 }
    /// The version of the format.
    Version = { "type": "integer", "const": 1 }
    /// The name of a header.
    Header = { "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$" }
    /// What becomes of the priority of a row.
    RowPriority = { "type": "string", "pattern": "^(strip|allow|-?[0-9]+)$" }
    /// A path that is passed through.
    PassedThrough = { "type": "string", "pattern": "^(/[A-Za-z0-9_.-]+)+$" }
    /// A path that a batch can run.
    Path = { "type": "string", "enum": Endpoint::ALL.map(Endpoint::path) }
}
