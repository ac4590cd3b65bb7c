//! Closed vocabularies of the wire that several layers use: what a model is asked to do, what goes
//! into it, what its provider can do and may do.
//!
//! One table per vocabulary gives its type, its parser and its message about legal words, so that
//! they cannot disagree.

/// An enum, its words on the wire, its parser and its message about legal words, in one table.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every word, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// The variant whose word matches exactly, including case.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.word() == text)
            }

            /// The legal words as a sentence fragment for error messages.
            pub fn choices() -> String {
                Self::ALL.iter().map(|each| format!("`{each}`")).collect::<Vec<_>>().join(", ")
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}

pub(crate) use wire_enum;

wire_enum! {
    /// What a model can be asked to do, in BatchRouter's words.
    Operation {
        Responses = "responses",
        Embeddings = "embeddings",
        Vision = "vision",
    }
}

wire_enum! {
    /// What goes into a model or comes out of it.
    Modality {
        Text = "text",
        Image = "image",
        Document = "document",
        Audio = "audio",
        Video = "video",
        /// Only comes out of a model.
        Embedding = "embedding",
    }
}

wire_enum! {
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

wire_enum! {
    /// Whether a provider may collect inputs for purposes of its own.
    DataCollection {
        Allow = "allow",
        Deny = "deny",
    }
}
