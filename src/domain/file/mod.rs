//! Files: uploaded content on disk, and views over the results of a batch.

pub mod upload;

use super::id::{BatchId, FileId, OrgId};
use super::time::Timestamp;

/// What a client says a file is for. The first eight are OpenAI's `OpenAIFile.purpose`; `evals`
/// comes from its `CreateFileRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    Assistants,
    AssistantsOutput,
    Batch,
    BatchOutput,
    FineTune,
    FineTuneResults,
    Vision,
    UserData,
    Evals,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 9] = [
        Self::Assistants,
        Self::AssistantsOutput,
        Self::Batch,
        Self::BatchOutput,
        Self::FineTune,
        Self::FineTuneResults,
        Self::Vision,
        Self::UserData,
        Self::Evals,
    ];

    /// The purposes that a client may upload with.
    pub const UPLOADABLE: [Self; 6] = [Self::Assistants, Self::Batch, Self::FineTune, Self::Vision, Self::UserData, Self::Evals];

    /// The word on the wire and on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assistants => "assistants",
            Self::AssistantsOutput => "assistants_output",
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
            Self::FineTune => "fine-tune",
            Self::FineTuneResults => "fine-tune-results",
            Self::Vision => "vision",
            Self::UserData => "user_data",
            Self::Evals => "evals",
        }
    }

    /// The purpose that has this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// Content on disk, stored under the file's id, with the SHA-256 of its bytes.
    Uploaded { sha256: [u8; 32] },
    /// A view over a batch: its succeeded rows, its other rows, or all of them.
    View { batch: BatchId, part: ResultPart },
}

/// Media type of content whose type the client has not stated.
pub const ANY_TYPE: &str = "application/octet-stream";

/// Which results a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultPart {
    /// Rows that succeeded: the output file.
    Output,
    /// Rows that did not succeed: the error file.
    Errors,
    /// Every row.
    All,
}

impl ResultPart {
    /// Picks this part's number from the numbers of the output file and of the error file.
    pub fn of(self, output: u64, errors: u64) -> u64 {
        match self {
            Self::Output => output,
            Self::Errors => errors,
            Self::All => output + errors,
        }
    }

    /// Whether a row with this success flag belongs to the part.
    pub fn includes(self, success: bool) -> bool {
        match self {
            Self::Output => success,
            Self::Errors => !success,
            Self::All => true,
        }
    }
}

/// A file as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub id: FileId,
    /// Exact size of the content in bytes.
    pub bytes: u64,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub filename: String,
    pub purpose: Purpose,
    /// The media type, if the client stated one.
    pub mime: Option<String>,
    /// The organisation that owns the file. No other organisation can see it.
    pub org: OrgId,
    pub source: FileSource,
}

impl File {
    /// The media type, or `ANY_TYPE` if the client stated none.
    pub fn media_type(&self) -> &str {
        self.mime.as_deref().unwrap_or(ANY_TYPE)
    }
}

/// A client's request that a file expires by itself: OpenAI's `FileExpirationAfter` and
/// `BatchFileExpirationAfter`, both anchored at the creation of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiresAfter {
    seconds: u32,
}

impl ExpiresAfter {
    /// Legal range in seconds: one hour to thirty days.
    pub const RANGE: std::ops::RangeInclusive<i64> = 3_600..=2_592_000;

    /// Returns `None` outside [`Self::RANGE`].
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        if !Self::RANGE.contains(&seconds) {
            return None;
        }
        u32::try_from(seconds).ok().map(|seconds| Self { seconds })
    }

    /// Seconds after creation.
    pub fn seconds(self) -> u32 {
        self.seconds
    }

    /// The instant at which a file created at `created` expires.
    pub fn from(self, created: Timestamp) -> Timestamp {
        super::time::later(created, std::time::Duration::from_secs(u64::from(self.seconds)))
    }
}
