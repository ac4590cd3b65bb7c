//! The stable error codes that a client of the HTTP API may see, as one list.
//!
//! No HTTP here: `http` maps each code to a status and to each dialect's envelope. A code exists
//! only where a client has a reason to tell it apart; the message carries the rest.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// A field or query parameter has an illegal value.
    InvalidValue = "invalid_value",
    /// A required field is absent.
    MissingParameter = "missing_required_parameter",
    /// A field that this call does not know.
    UnknownParameter = "unknown_parameter",
    /// The body is not JSON.
    InvalidJson = "invalid_json",
    /// The body is not well-formed multipart.
    InvalidMultipart = "invalid_multipart",
    /// The `content-type` or `content-encoding` is not one that this call reads.
    UnsupportedMediaType = "unsupported_media_type",
    /// The body ended before its announced end.
    IncompleteBody = "incomplete_body",
    /// The body, file or part exceeds a limit.
    TooLarge = "request_too_large",
    /// No such route.
    UnknownRoute = "unknown_url",
    /// The route exists, but not for this method.
    MethodNotAllowed = "method_not_allowed",
    /// The caller may not do this.
    Forbidden = "forbidden",
    /// No such batch, file, upload or part.
    NotFound = "not_found",
    /// No such model in the catalog.
    ModelNotFound = "model_not_found",
    /// The catalog's seeds have faults, so it was not reloaded.
    CatalogInvalid = "catalog_invalid",
    /// The stored results behind a file have passed their expiry.
    ResultsExpired = "results_expired",
    /// A `Range` that lies outside the file.
    RangeNotSatisfiable = "range_not_satisfiable",
    /// The object is in a state that forbids the call.
    Conflict = "conflict",
    /// An `Idempotency-Key` was reused with another body.
    IdempotencyMismatch = "idempotency_key_reused",
    /// A create that needs an `Idempotency-Key` came without one.
    MissingIdempotencyKey = "missing_idempotency_key",
    /// No such quote.
    QuoteNotFound = "quote_not_found",
    /// The prices of the quote are no longer valid.
    QuoteExpired = "quote_expired",
    /// A batch has already been made from the quote.
    QuoteUsed = "quote_already_used",
    /// A batch demands more than its quote was made for.
    QuoteMismatch = "quote_mismatch",
    /// The balance does not cover what a batch may cost.
    InsufficientCredits = "insufficient_credits",
    /// A quota of the organisation or of the key has no room for the request.
    QuotaExceeded = "quota_exceeded",
    /// The organisation has spent what its quota of a day or a month allows.
    SpendingQuotaExceeded = "spending_quota_exceeded",
    /// The call would change a batch that has ended.
    BatchTerminal = "batch_terminal",
    /// A batch that has not completed has no pages of results yet.
    ResultsNotReady = "results_not_ready",
    /// The uploaded bytes do not have the announced size or checksum.
    ChecksumMismatch = "checksum_mismatch",
    /// No API key where one is required.
    MissingApiKey = "missing_api_key",
    /// An unknown API key.
    InvalidApiKey = "invalid_api_key",
    /// An API key that has expired.
    ApiKeyExpired = "api_key_expired",
    /// An API key that was revoked.
    ApiKeyRevoked = "api_key_revoked",
    /// A management key where a key for batches is required, or the other way round.
    ApiKeyKind = "api_key_wrong_kind",
    /// An API key that lacks the scope for the call.
    InsufficientScope = "insufficient_scope",
    /// A browser page or host that the settings do not allow.
    OriginNotAllowed = "origin_not_allowed",
    /// The content of a file on disk differs from what was uploaded.
    FileDamaged = "file_damaged",
    /// The disk of the data directory is too full to accept data safely.
    StorageFull = "insufficient_storage",
    /// The daemon is stopping or its store has failed.
    Unavailable = "service_unavailable",
    /// An internal fault; the log has the details under the request id.
    Internal = "internal_error",
}
