//! What validation found wrong with an input file: OpenAI's `BatchError`.

/// One fault of an input file or of one of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub code: ProblemCode,
    /// What was found and what would be correct, for a person.
    pub message: String,
    /// The line of the input file, counted from 1; `None` if the fault concerns the whole file.
    pub line: Option<u64>,
    /// The offending field, such as `body.model`.
    pub param: Option<String>,
}

/// The most problems that are collected before a batch fails.
pub const MAX_PROBLEMS: usize = 100;

macro_rules! problem_codes {
    ($($variant:ident = $text:literal,)*) => {
        /// The stable codes of [`Problem`]. The first five are OpenAI's own words. Codes that are no
        /// longer used stay: batches of earlier versions have them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemCode { $($variant,)* }

        impl ProblemCode {
            /// The code as clients see it and as it is stored.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The code that has this text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

problem_codes! {
    InvalidJsonLine = "invalid_json_line",
    DuplicateCustomId = "duplicate_custom_id",
    EmptyFile = "empty_file",
    InvalidMethod = "invalid_method",
    MismatchedUrl = "invalid_url",
    NotAnObject = "row_not_an_object",
    MissingField = "missing_required_parameter",
    InvalidCustomId = "invalid_custom_id",
    BodyNotAnObject = "body_not_an_object",
    InvalidModel = "invalid_model",
    UnknownModel = "model_not_found",
    StreamNotSupported = "stream_not_supported",
    TooManyRows = "too_many_rows",
    TooManyModels = "too_many_models",
    RowTooLong = "row_too_long",
    InvalidUtf8 = "invalid_utf8",
    ByteOrderMark = "byte_order_mark",
    BlankLine = "blank_line",
    UnsupportedEndpoint = "unsupported_endpoint",
    UnsupportedFormat = "unsupported_format",
    InputUnreadable = "input_unreadable",
    InputDamaged = "input_damaged",
    InvalidOperation = "unsupported_operation",
    InvalidInput = "invalid_input",
    InvalidLimit = "invalid_limit",
    NotQuoted = "model_not_quoted",
    InsufficientCredits = "insufficient_credits",
    PriceCeiling = "price_ceiling",
    QuotaExceeded = "quota_exceeded",
    LostInDamage = "lost_in_damage",
}
