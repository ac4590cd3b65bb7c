//! The closed vocabularies of the catalog: words that a seed may write and a view shows.
//!
//! One table per vocabulary gives its type, its parser, its message about what is legal and its
//! place in the JSON Schema, so that they cannot disagree. Open vocabularies (regions, capabilities,
//! privacy tiers) are plain [`slug`]s.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// Longest word of an open vocabulary, in bytes.
const MAX_SLUG: usize = 64;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every word, in the order of their documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// The word that is written like that, in exactly these letters.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.word() == text)
            }

            /// The legal words as a sentence fragment for error messages.
            pub fn choices() -> String {
                Self::ALL.iter().map(|each| format!("`{each}`")).collect::<Vec<_>>().join(", ")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": Self::ALL })
            }
        }
    };
}

words! {
    /// What a model can be asked to do, in BatchRouter's words.
    Operation {
        Responses = "responses",
        Embeddings = "embeddings",
        Vision = "vision",
    }
}

words! {
    /// What goes into a model or comes out of it.
    Modality {
        Text = "text",
        Image = "image",
        Document = "document",
        Audio = "audio",
        Video = "video",
        /// Only comes out.
        Embedding = "embedding",
    }
}

words! {
    /// A tool that the provider runs itself, in BatchRouter's words.
    HostedTool {
        WebSearch = "web_search",
        PythonExecution = "python_execution",
        Calculator = "calculator",
        Time = "time",
        FileSearch = "file_search",
        Retrieval = "retrieval",
    }
}

words! {
    /// The life of an offering, in BatchRouter's words.
    Status {
        /// Routed to.
        Active = "active",
        /// Not routed to for now; rows that wait for it go on waiting.
        Paused = "paused",
        /// Still routed to; it will end.
        Deprecated = "deprecated",
        /// Not routed to.
        Disabled = "disabled",
    }
}

words! {
    /// Whether somebody has compared an offering's facts with its provider's own words.
    Verification {
        Verified = "verified",
        Unverified = "unverified",
        Undeclared = "undeclared",
    }
}

words! {
    /// Whether a provider may collect inputs for purposes of its own.
    DataCollection {
        Allow = "allow",
        Deny = "deny",
    }
}

words! {
    /// A price list of a provider.
    Plan {
        /// Ordinary calls. This is what a row costs that is dispatched by itself.
        Standard = "standard",
        /// The provider's own batch API.
        Batch = "batch",
    }
}

words! {
    /// What speaks to a provider.
    Kind {
        /// Any server with OpenAI's API.
        OpenAi = "openai",
        /// Built in; needs nothing.
        Simulated = "simulated",
    }
}

/// A word of an open vocabulary.
///
/// # Errors
/// What it must be, to be read after "it".
pub(super) fn slug(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let rest = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
    if first && rest && text.len() <= MAX_SLUG {
        return Ok(text.to_owned());
    }
    Err(format!("must be at most {MAX_SLUG} of a-z, 0-9, `.`, `_` and `-`, and start with a letter or digit"))
}
