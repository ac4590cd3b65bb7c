//! OpenAI's form of an upload and its query of a list of files, for every dialect that takes them.

use super::multipart::{Cap, MultipartForm, Part, seal};
use super::{Params, expires_after, quoted, unknown_choice};
use crate::domain::error::Code;
use crate::domain::file::{ExpiresAfter, File, Purpose};
use crate::domain::id::OrgId;
use crate::domain::time::{Timestamp, later};
use crate::http::layers::caller::Caller;
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::ServiceError;
use crate::store::{FileQuery, NewFile, Packing, Sealed, SortOrder, Spool, UnpackError, UnpackLimits};

const MAX_LIST: usize = 10_000;
const ANCHOR: &str = "expires_after[anchor]";
const SECONDS: &str = "expires_after[seconds]";

/// Reads which files a list asks for.
///
/// # Errors
/// When a parameter has an illegal value.
pub fn file_query(params: &Params, org: OrgId, now: Timestamp) -> Result<FileQuery, ApiError> {
    let order = params.choice("order", &[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)])?;
    Ok(FileQuery {
        purpose: params.choice("purpose", &Purpose::ALL.map(|purpose| (purpose.as_str(), purpose)))?,
        org,
        after: params.id("after")?,
        limit: params.limit(MAX_LIST, MAX_LIST)?,
        order: order.unwrap_or_default(),
        now,
    })
}

/// Stores the file of a form.
///
/// # Errors
/// When a field is missing or has an illegal value, or the file cannot be stored.
pub async fn receive(api: &Api, caller: &Caller, form: MultipartForm) -> Result<File, ApiError> {
    api.check_open()?;
    let cap = Cap { bytes: api.limits.max_file_bytes, what: "a file uploaded in one request" };
    form.check(api, cap)?;
    let fields = Fields::read(form, api, cap).await?;
    let (filename, mime, spool) = fields.file.ok_or_else(|| ApiError::missing("file", "it holds the file to upload"))?;
    let purpose = fields.purpose.ok_or_else(|| ApiError::missing("purpose", &format!("it must be one of {}", purposes())))?;
    let wish = wish(fields.anchor.as_deref(), fields.seconds.as_deref())?;
    let received = ReceivedFile { filename, mime, purpose, content: seal(spool).await?, expires_after: wish };
    keep(api, caller, received.unpacked(api).await?).await
}

/// A file that was received as a whole.
pub struct ReceivedFile {
    pub filename: String,
    pub mime: String,
    pub purpose: Purpose,
    pub content: Sealed,
    /// `None` if the upload does not say.
    pub expires_after: Option<ExpiresAfter>,
}

impl ReceivedFile {
    /// Unpacks the input of a batch if it is packed with gzip or zstd; a file for another purpose
    /// stays as it is.
    ///
    /// # Errors
    /// When the content cannot be unpacked or is too large then, or the disk is full.
    pub async fn unpacked(mut self, api: &Api) -> Result<Self, ApiError> {
        if self.purpose == Purpose::Batch {
            let limits = unpack_limits(api, api.limits.max_file_bytes);
            let (content, packing) = api.service.store.unpack_input(self.content, limits).await.map_err(not_unpacked)?;
            self.content = content;
            if packing.is_some() {
                self.filename = Packing::unpacked_name(&self.filename).to_owned();
                Packing::UNPACKED_MIME.clone_into(&mut self.mime);
            }
        }
        Ok(self)
    }
}

/// The limits on unpacking a file that may have so many bytes.
pub fn unpack_limits(api: &Api, max_bytes: u64) -> UnpackLimits {
    UnpackLimits { max_bytes, min_free_bytes: api.service.limits.min_free_bytes }
}

/// Words a failure to unpack a file.
pub fn not_unpacked(error: UnpackError) -> ApiError {
    match error {
        UnpackError::Corrupt(..) => ApiError::invalid("file", error.to_string()),
        UnpackError::TooLarge(..) => ApiError::new(Code::TooLarge, error.to_string()).param("file"),
        UnpackError::NoRoom => ServiceError::NoRoom.into(),
        UnpackError::Store(error) => error.into(),
    }
}

/// Stores a file as the caller's, in whichever form it was received.
///
/// # Errors
/// When the store cannot keep the file.
pub async fn keep(api: &Api, caller: &Caller, received: ReceivedFile) -> Result<File, ApiError> {
    let ReceivedFile { filename, mime, purpose, content, expires_after } = received;
    let now = api.service.clock.now();
    let expires_at = match expires_after {
        Some(after) => Some(after.from(now)),
        None => api.limits.retention(purpose).map(|kept| later(now, kept)),
    };
    let new = NewFile { filename, purpose, mime: Some(mime), org: caller.org, created_at: now, expires_at };
    let store = api.service.store.clone();
    let file = api.to_the_end(async move { store.add_file(new, content).await }).await??;
    tracing::info!(file = %file.id, bytes = file.bytes, purpose = purpose.as_str(), "file uploaded");
    Ok(file)
}

/// The fields of the form, which arrive in the client's order: the purpose may follow the file.
#[derive(Default)]
struct Fields {
    /// The file's name, its media type, its content.
    file: Option<(String, String, Spool)>,
    purpose: Option<Purpose>,
    anchor: Option<String>,
    seconds: Option<String>,
}

impl Fields {
    async fn read(mut form: MultipartForm, api: &Api, cap: Cap) -> Result<Self, ApiError> {
        let mut fields = Self::default();
        while let Some(part) = form.next().await? {
            let name = part.name.clone();
            let again = match name.as_str() {
                "file" => {
                    // Checked first, so that a repeated file is not written for nothing.
                    once(&name, fields.file.is_some())?;
                    fields.file.replace((part.filename(), part.mime(), part.spool(api, cap).await?)).is_some()
                }
                "purpose" => fields.purpose.replace(purpose(part).await?).is_some(),
                ANCHOR => fields.anchor.replace(part.text().await?).is_some(),
                SECONDS => fields.seconds.replace(part.text().await?).is_some(),
                // Read to its end within the limit of a text field, then ignored like unknown
                // fields elsewhere.
                _ => part.text().await.map(|_| false)?,
            };
            once(&name, again)?;
        }
        Ok(fields)
    }
}

fn once(name: &str, again: bool) -> Result<(), ApiError> {
    if again { Err(ApiError::invalid(name, format!("the form has the field `{name}` twice"))) } else { Ok(()) }
}

async fn purpose(part: Part<'_>) -> Result<Purpose, ApiError> {
    uploadable(&part.text().await?)
}

/// Parses a purpose that a client may upload with.
pub fn uploadable(text: &str) -> Result<Purpose, ApiError> {
    let found = Purpose::UPLOADABLE.into_iter().find(|purpose| purpose.as_str() == text);
    found.ok_or_else(|| unknown_choice("purpose", text, &purposes()))
}

/// The purposes that a client may upload with, for messages.
pub fn purposes() -> String {
    quoted(Purpose::UPLOADABLE.iter().map(|purpose| purpose.as_str()))
}

fn wish(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<ExpiresAfter>, ApiError> {
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(ApiError::missing(SECONDS, "it says after how many seconds the file goes away")),
        (None, Some(_)) => Err(ApiError::missing(ANCHOR, "it must be `created_at`")),
        (Some(anchor), Some(seconds)) => {
            let number = seconds.trim().parse().map_err(|_| ApiError::invalid(SECONDS, format!("`{SECONDS}` must be a whole number")))?;
            expires_after(anchor, ANCHOR, number, SECONDS).map(Some)
        }
    }
}
