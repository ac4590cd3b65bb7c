//! Response bodies that come off the disk piece by piece.
//!
//! One short visit to a blocking thread per piece, so that a client that reads slowly holds no
//! thread. An error on the way breaks the connection: the client sees a cut body, never one that
//! is silently too short.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;

use crate::domain::id::FileId;
use crate::store::{Lines, StoreError, blocking};

/// Bytes of a piece.
const PIECE: u64 = 256 << 10;

/// Something that is read piece by piece, blocking.
pub trait Pieces: Send + 'static {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read as promised.
    fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

impl Pieces for Lines {
    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.next_chunk()
    }
}

/// A range of an uploaded file.
#[derive(Debug)]
pub struct Content {
    id: FileId,
    file: File,
    left: u64,
}

impl Content {
    /// Reads `range` of an open file. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(id: FileId, mut file: File, range: Range<u64>) -> Result<Self, StoreError> {
        file.seek(SeekFrom::Start(range.start)).map_err(|error| StoreError::unreadable(id, &error))?;
        Ok(Self { id, file, left: range.end - range.start })
    }
}

impl Pieces for Content {
    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(self.left.min(PIECE)).unwrap_or(0)];
        self.file.read_exact(&mut piece).map_err(|error| StoreError::unreadable(self.id, &error))?;
        self.left -= piece.len() as u64;
        Ok(Some(piece.into()))
    }
}

/// A body of these pieces. While one is on its way to the client, the next one is read.
pub fn body(pieces: impl Pieces) -> Body {
    // The body outlives the handler; what is logged about it belongs to the same request.
    let span = tracing::Span::current();
    Body::from_stream(futures_util::stream::try_unfold(read(pieces).boxed(), move |reading| {
        let span = span.clone();
        async move {
            let next = reading.await;
            let next = next.inspect_err(|error| {
                span.in_scope(|| tracing::error!(%error, "a response was cut because its content could not be read"))
            })?;
            Ok::<_, StoreError>(next.map(|(piece, pieces)| (piece, read(pieces).boxed())))
        }
    }))
}

/// Begins to read the next piece.
fn read<P: Pieces>(mut pieces: P) -> impl Future<Output = Result<Option<(Bytes, P)>, StoreError>> + Send {
    blocking(move || Ok(pieces.next()?.map(|piece| (piece, pieces))))
}
