//! Multipart forms with a file in them, spooled to disk as they arrive.
//!
//! Memory does not grow with the file: what is gathered between two writes is bounded, and a write
//! holds a blocking thread only while it writes, however slow the client is. Nor does memory grow
//! with bytes outside the fields: a [`Gate`] keeps back what the parser has no room for. If
//! anything fails, dropping the [`Spool`] removes what was written.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};

use super::multipart_window::{Gate, Gated, WINDOW};
use super::spooling::Spooling;
use super::{announced_bytes, check_encoding, media_type};
use crate::domain::batch::priority::Owner;
use crate::domain::error::Code;
use crate::domain::file::ANY_TYPE;
use crate::domain::id::OrgId;
use crate::http::layers::caller::Caller;
use crate::http::layers::request_body::Fate;
use crate::http::response::error::ApiError;
use crate::http::shares::files::OpenFile;
use crate::http::state::Api;
use crate::store::{Sealed, Spool, blocking};

/// Bytes that are gathered before they are written; every file that is being received may hold them.
const WRITE: usize = 256 << 10;
/// The most bytes of a field that is not a file, and of everything around the fields.
const MAX_TEXT: usize = 64 << 10;
/// The most fields of one form.
const MAX_FIELDS: usize = 64;
/// The most characters of a file's name; the rest is cut off.
const MAX_FILENAME_CHARS: usize = 255;
/// The most characters that an error repeats of a field's name or of the parser's message.
const MAX_ECHO_CHARS: usize = 200;

/// A form whose fields are read one after another.
pub struct MultipartForm {
    inner: Multipart,
    /// Whose file it becomes, if that is known.
    org: Option<OrgId>,
    gate: Gate,
    fate: Fate,
    idle: Duration,
    announced: Option<u64>,
    fields: usize,
    /// The place for the file that the form may contain.
    _place: OpenFile,
}

/// How large a file may be, and what an error calls it.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    pub bytes: u64,
    pub what: &'static str,
}

impl Cap {
    fn exceeded(self) -> ApiError {
        ApiError::new(Code::TooLarge, format!("{} may have at most {} bytes", self.what, self.bytes))
    }
}

/// Whose request it is.
fn org_of(request: &Request) -> Option<OrgId> {
    request.extensions().get::<Caller>().map(|caller| caller.org)
}

/// Refuses, before reading, what the organisation may not store.
fn check_quota(api: &Api, org: Option<OrgId>, bytes: u64) -> Result<(), ApiError> {
    Ok(org.map_or(Ok(()), |org| api.service.check_bytes(org, bytes))?)
}

impl FromRequest<Arc<Api>> for MultipartForm {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let found = media_type(request.headers());
        if found.as_deref() != Some("multipart/form-data") {
            let found = found.map_or_else(|| "none".to_owned(), |found| format!("`{found}`"));
            let message = format!("the body must be sent as `content-type: multipart/form-data`, found {found}");
            return Err(ApiError::new(Code::UnsupportedMediaType, message));
        }
        check_encoding(request.headers())?;
        let fate = request.extensions().get::<Fate>().cloned().unwrap_or_default();
        let owner = owner_of(&request);
        let (announced, org) = (announced_bytes(request.headers()), org_of(&request));
        // Each field has its own limit here; axum's default would end every upload at 2 MB.
        DefaultBodyLimit::disable().apply(&mut request);
        let gate = Gate::default();
        let request = request.map(|body| Body::new(Gated::new(body, gate.clone())));
        let inner = Multipart::from_request(request, api).await.map_err(|_| {
            let message = "the `content-type` names no boundary; let the client library write the header";
            ApiError::new(Code::InvalidMultipart, message)
        })?;
        let place = api.files.take(owner).await;
        Ok(Self { inner, org, gate, fate, idle: api.limits.body_idle, announced, fields: 0, _place: place })
    }
}

impl MultipartForm {
    /// Refuses, before reading, a form that is too large or that there is no room for.
    ///
    /// # Errors
    /// When the announced size already rules the form out.
    pub fn check(&self, api: &Api, cap: Cap) -> Result<(), ApiError> {
        let announced = self.announced.unwrap_or(0);
        if announced > cap.bytes.saturating_add((MAX_TEXT * MAX_FIELDS) as u64) {
            return Err(cap.exceeded());
        }
        api.check_room(announced)?;
        check_quota(api, self.org, announced)
    }

    /// Returns the next field.
    ///
    /// # Errors
    /// When the body is cut or not a form.
    pub async fn next(&mut self) -> Result<Option<Part<'_>>, ApiError> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(ApiError::new(Code::InvalidMultipart, format!("the form has more than {MAX_FIELDS} fields")));
        }
        let (gate, fate, idle) = (&self.gate, &self.fate, self.idle);
        match within(gate, self.inner.next_field()).await? {
            Ok(field) => Ok(field.map(|field| {
                let name = field.name().unwrap_or_default().chars().take(MAX_ECHO_CHARS).collect();
                Part { name, field, gate, fate, idle }
            })),
            Err(error) => Err(unreadable(&error, fate, idle)),
        }
    }
}

/// One field of a form.
pub struct Part<'a> {
    /// The field's name; empty if it has none, and cut off beyond the length of any known name.
    pub name: String,
    field: Field<'a>,
    gate: &'a Gate,
    fate: &'a Fate,
    idle: Duration,
}

impl Part<'_> {
    /// The name of the file, made safe to display: no path, no control characters.
    pub fn filename(&self) -> String {
        let given = self.field.file_name().unwrap_or_default();
        let name = given.rsplit(['/', '\\']).next().unwrap_or_default();
        let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_FILENAME_CHARS).collect();
        if name.is_empty() { "file".to_owned() } else { name }
    }

    /// The file's media type as the client states it.
    pub fn mime(&self) -> String {
        let mime = self.field.content_type().unwrap_or(ANY_TYPE);
        let bare = mime.split(';').next().unwrap_or(mime).trim().to_ascii_lowercase();
        bare.chars().filter(|c| c.is_ascii_graphic()).take(MAX_FILENAME_CHARS).collect()
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, ApiError> {
        let chunk = within(self.gate, self.field.chunk()).await?.map_err(|error| unreadable(&error, self.fate, self.idle))?;
        self.gate.taken(chunk.as_ref().map_or(0, bytes::Bytes::len));
        Ok(chunk)
    }

    /// Reads a short text.
    ///
    /// # Errors
    /// When the text is too long, not UTF-8 or cut.
    pub async fn text(mut self) -> Result<String, ApiError> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if text.len() + chunk.len() > MAX_TEXT {
                let message = format!("the field `{}` may have at most {MAX_TEXT} bytes", self.name);
                return Err(ApiError::new(Code::TooLarge, message).param(&self.name));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|_| ApiError::invalid(&self.name, format!("the field `{}` is not UTF-8", self.name)))
    }

    /// Writes the field to disk.
    ///
    /// # Errors
    /// When the field is larger than the cap or cut, or the disk is full.
    pub async fn spool(mut self, api: &Api, cap: Cap) -> Result<Spool, ApiError> {
        let mut spooling = Spooling::opened(api, cap.bytes, WRITE).await?;
        let too_many = |name: &str| cap.exceeded().param(name);
        while let Some(chunk) = self.chunk().await? {
            spooling.add(&chunk).await.map_err(|fault| fault.or_too_many(|| too_many(&self.name)))?;
        }
        let file = spooling.file().await.map_err(|fault| fault.or_too_many(|| too_many(&self.name)))?;
        Ok(file.spool)
    }
}

fn owner_of(request: &Request) -> Owner {
    request.extensions().get::<Caller>().map(Caller::owner).unwrap_or_default()
}

/// Makes a spooled file durable.
///
/// # Errors
/// When the disk is full or fails.
pub async fn seal(spool: Spool) -> Result<Sealed, ApiError> {
    Ok(blocking(move || spool.seal()).await?)
}

/// Writes a body that is itself a file to disk.
///
/// # Errors
/// When the body is larger than the cap or cut, or the disk is full.
pub async fn spool_body(request: Request, api: &Api, cap: Cap) -> Result<Spool, ApiError> {
    check_encoding(request.headers())?;
    let announced = announced_bytes(request.headers()).unwrap_or(0);
    if announced > cap.bytes {
        return Err(cap.exceeded());
    }
    api.check_room(announced)?;
    check_quota(api, org_of(&request), announced)?;
    let _place = api.files.take(owner_of(&request)).await;
    let spooled = async {
        let mut spooling = Spooling::opened(api, cap.bytes, WRITE).await?;
        spooling.take(request).await?;
        spooling.file().await
    };
    let file = spooled.await.map_err(|fault| fault.or_too_many(|| cap.exceeded()))?;
    Ok(file.spool)
}

/// Waits for the parser, unless the parser waits for more bytes than it may hold.
async fn within<T>(gate: &Gate, parsing: impl Future<Output = T>) -> Result<T, ApiError> {
    let mut parsing = pin!(parsing);
    let parsed = std::future::poll_fn(|cx| match parsing.as_mut().poll(cx) {
        Poll::Ready(parsed) => Poll::Ready(Some(parsed)),
        Poll::Pending if !gate.is_full() => Poll::Pending,
        // The parser looks at the bytes of its last read only when it is polled again.
        Poll::Pending => match parsing.as_mut().poll(cx) {
            Poll::Ready(parsed) => Poll::Ready(Some(parsed)),
            Poll::Pending => Poll::Ready(None),
        },
    });
    parsed.await.ok_or_else(|| {
        let message = format!("more than {WINDOW} bytes of the body lie outside the content of its fields; is the boundary right?");
        ApiError::new(Code::InvalidMultipart, message)
    })
}

fn unreadable(error: &MultipartError, fate: &Fate, idle: Duration) -> ApiError {
    if let Some(blamed) = fate.blame(idle) {
        return blamed;
    }
    let words: String = error.body_text().chars().take(MAX_ECHO_CHARS).collect();
    ApiError::new(Code::InvalidMultipart, format!("the body is not well-formed multipart: {words}"))
}
