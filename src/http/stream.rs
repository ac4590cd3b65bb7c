//! Response bodies that come off the disk piece by piece.
//!
//! A short visit or two to a blocking thread per piece, so that a client that reads slowly holds no
//! thread. While one piece is on its way to the client, another is made and a third is read. An error on the way breaks the connection: the client sees a cut body, never one that
//! is silently too short.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, TryStreamExt};

use crate::domain::id::FileId;
use crate::store::{Lines, Packed, StoreError, blocking};

/// Bytes of a piece.
const PIECE: u64 = 256 << 10;

/// Something that is read piece by piece, blocking.
pub trait Pieces: Send + 'static {
    /// What is read of a piece.
    type Read: Send + 'static;

    /// Reads the next piece; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read as promised.
    fn next(&mut self) -> Result<Option<Self::Read>, StoreError>;

    /// Makes what is sent of what was read.
    ///
    /// # Errors
    /// When that is damaged.
    fn make(read: Self::Read) -> Result<Bytes, StoreError>;
}

impl Pieces for Lines {
    type Read = Packed;

    fn next(&mut self) -> Result<Option<Packed>, StoreError> {
        self.next_packed()
    }

    fn make(read: Packed) -> Result<Bytes, StoreError> {
        read.unpack()
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
    type Read = Bytes;

    fn make(read: Bytes) -> Result<Bytes, StoreError> {
        Ok(read)
    }

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

/// A body of these pieces.
pub fn body<P: Pieces>(pieces: P) -> Body {
    // The body outlives the handler; what is logged about it belongs to the same request.
    let span = tracing::Span::current();
    let tell = move |error: &StoreError| {
        span.in_scope(|| tracing::error!(%error, "a response was cut because its content could not be read"));
    };
    let read = futures_util::stream::try_unfold(read(pieces).boxed(), |reading| async {
        let next = reading.await?;
        Ok::<_, StoreError>(next.map(|(piece, pieces)| (piece, read(pieces).boxed())))
    });
    // Begun at once, one while the one before it is sent.
    let made = read.map_ok(|piece| blocking(move || P::make(piece)).boxed()).try_buffered(2);
    Body::from_stream(made.inspect_err(tell))
}

/// Begins to read the next piece.
fn read<P: Pieces>(mut pieces: P) -> impl Future<Output = Result<Option<(P::Read, P)>, StoreError>> + Send {
    blocking(move || Ok(pieces.next()?.map(|piece| (piece, pieces))))
}
