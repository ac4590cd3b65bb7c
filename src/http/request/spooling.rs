//! Bytes of a body on their way to disk: gathered in memory up to a bound, then written, with a
//! place among the open files for as long as the file may be open.
//!
//! A write holds a blocking thread only while it writes, however slow the client is. Not here: how
//! a body is framed, and how much of it is too much.

use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::cut_short;
use crate::domain::batch::priority::Owner;
use crate::http::layers::request_body::Fate;
use crate::http::response::error::ApiError;
use crate::http::shares::files::OpenFile;
use crate::http::state::Api;
use crate::store::error::StoreError;
use crate::store::{Spool, blocking};

/// Bytes that arrive. Dropping them removes what was written.
pub struct Spooling<'a> {
    api: &'a Api,
    owner: Owner,
    /// The most bytes.
    most: u64,
    /// The most bytes that are gathered before they are written.
    in_memory: usize,
    gathered: BytesMut,
    on_disk: Option<OnDisk>,
}

/// Bytes that are on disk.
pub struct OnDisk {
    pub spool: Spool,
    /// `None` if whoever receives the bytes has a place for them already.
    place: Option<OpenFile>,
}

/// Bytes that have arrived.
pub enum Arrived {
    /// No more than fit in memory.
    Here(BytesMut),
    OnDisk(Box<OnDisk>),
}

/// Why bytes are not taken.
pub enum NotTaken {
    /// There are more than the bound allows.
    TooMany,
    Failed(ApiError),
}

impl From<ApiError> for NotTaken {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for NotTaken {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl NotTaken {
    /// The error to answer with, if this one says that there are too many bytes.
    pub fn or_too_many(self, too_many: impl FnOnce() -> ApiError) -> ApiError {
        match self {
            Self::TooMany => too_many(),
            Self::Failed(error) => error,
        }
    }
}

impl<'a> Spooling<'a> {
    /// Takes at most `most` bytes of this owner's, and gathers `in_memory` of them before it opens a
    /// file.
    pub fn new(api: &'a Api, owner: Owner, most: u64, in_memory: usize) -> Self {
        Self { api, owner, most, in_memory, gathered: BytesMut::new(), on_disk: None }
    }

    /// Takes at most `most` bytes for a file that is opened at once, and for which the caller has a
    /// place.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub async fn opened(api: &'a Api, most: u64, in_memory: usize) -> Result<Self, StoreError> {
        let on_disk = OnDisk { spool: open(api).await?, place: None };
        Ok(Self { on_disk: Some(on_disk), ..Self::new(api, Owner::default(), most, in_memory) })
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// When there are too many, or the disk is full.
    pub async fn add(&mut self, data: &[u8]) -> Result<(), NotTaken> {
        let written = self.on_disk.as_ref().map_or(0, |on_disk| on_disk.spool.bytes());
        if written + (self.gathered.len() + data.len()) as u64 > self.most {
            return Err(NotTaken::TooMany);
        }
        self.gathered.extend_from_slice(data);
        match self.gathered.len() > self.in_memory {
            true => self.write().await,
            false => Ok(()),
        }
    }

    /// Takes the body of a request, to its end.
    ///
    /// # Errors
    /// When the body is cut, or as for [`Self::add`].
    pub async fn take(&mut self, request: Request) -> Result<(), NotTaken> {
        let fate = request.extensions().get::<Fate>().cloned().unwrap_or_default();
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| cut_short(&fate, self.api))?;
            if let Ok(data) = frame.into_data() {
                self.add(&data).await?;
            }
        }
        Ok(())
    }

    /// All that was taken, on disk if it is more than may be in memory.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub async fn arrived(mut self) -> Result<Arrived, NotTaken> {
        if self.on_disk.is_some() {
            self.write().await?;
        }
        Ok(match self.on_disk {
            Some(on_disk) => Arrived::OnDisk(Box::new(on_disk)),
            None => Arrived::Here(self.gathered),
        })
    }

    /// All that was taken, on disk however little it is.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub async fn file(mut self) -> Result<Box<OnDisk>, NotTaken> {
        self.write().await?;
        self.on_disk.map(Box::new).ok_or_else(|| NotTaken::Failed(ApiError::internal("nothing was written")))
    }

    /// Writes what is gathered, to a file that is opened for it if there is none.
    async fn write(&mut self) -> Result<(), NotTaken> {
        // The reserve is for the store: on a full disk the store fails for every client.
        self.api.check_room(self.gathered.len() as u64)?;
        let OnDisk { mut spool, place } = match self.on_disk.take() {
            Some(on_disk) => on_disk,
            None => {
                let place = Some(self.api.files.take(self.owner).await);
                OnDisk { spool: open(self.api).await?, place }
            }
        };
        let mut bytes = std::mem::take(&mut self.gathered);
        let written = blocking(move || {
            spool.write(&bytes)?;
            bytes.clear();
            Ok((spool, bytes))
        });
        let (spool, bytes) = written.await?;
        (self.on_disk, self.gathered) = (Some(OnDisk { spool, place }), bytes);
        Ok(())
    }
}

async fn open(api: &Api) -> Result<Spool, StoreError> {
    let store = api.service.store.clone();
    blocking(move || store.spool()).await
}

impl Arrived {
    /// The number of bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::OnDisk(on_disk) => on_disk.spool.bytes(),
        }
    }

    /// The bytes, all of them in memory.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn into_bytes(self) -> Result<Bytes, StoreError> {
        match self {
            Self::Here(bytes) => Ok(bytes.freeze()),
            Self::OnDisk(on_disk) => {
                let OnDisk { spool, place } = *on_disk;
                blocking(move || {
                    let bytes = spool.into_bytes();
                    drop(place);
                    bytes
                })
                .await
            }
        }
    }
}
