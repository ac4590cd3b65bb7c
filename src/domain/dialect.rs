//! The dialects of batch APIs that the daemon speaks.
//!
//! A batch has the dialect of the create that made it, for as long as it exists: later requests for
//! it are answered in that dialect, whichever client sends them.

use super::vocabulary::wire_enum;

wire_enum! {
    /// Whose batch API is spoken.
    Dialect {
        /// OpenAI's Files and Batch API.
        OpenAi = "openai",
        BatchRouter = "batchrouter",
        Phaseo = "phaseo",
    }
}

impl Dialect {
    /// The number that stands for it on disk. Never changes.
    pub const fn code(self) -> u8 {
        match self {
            Self::OpenAi => 1,
            Self::BatchRouter => 2,
            Self::Phaseo => 3,
        }
    }

    /// The dialect with that number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|dialect| dialect.code() == code)
    }
}
