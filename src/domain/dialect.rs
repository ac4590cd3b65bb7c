//! The dialects of batch APIs that the daemon speaks.
//!
//! A batch keeps the dialect of the create that made it for its whole life: later requests for the
//! batch are answered in that dialect, whichever client sends them.

use super::vocabulary::wire_enum;

wire_enum! {
    /// The batch API that a client speaks.
    Dialect {
        /// OpenAI's Files and Batch API.
        OpenAi = "openai",
        BatchRouter = "batchrouter",
        Phaseo = "phaseo",
    }
}

impl Dialect {
    /// The number of the dialect on disk. Never changes.
    pub const fn code(self) -> u8 {
        match self {
            Self::OpenAi => 1,
            Self::BatchRouter => 2,
            Self::Phaseo => 3,
        }
    }

    /// The dialect that has this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|dialect| dialect.code() == code)
    }
}
