//! Response bodies that are read from disk piece by piece.
//!
//! Each piece takes one visit to a blocking thread, so that a client that reads slowly holds no
//! thread. While one piece is sent to the client, the next pieces are read in parallel, as far as
//! there is room for them ([`super::read_ahead`]). An error on the way breaks the connection: the
//! client sees a cut body, never a body that is silently too short.

use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::read_ahead::{OwnersShare, counted, pieces};
use crate::domain::id::FileId;
use crate::http::shares::files::OpenFile;
use crate::http::shares::room::Held;
use crate::store::error::StoreError;
use crate::store::{Chunk, DataFile, Lines, Verified};

/// Bytes of a piece of an uploaded file.
pub const PIECE: u64 = 256 << 10;

/// Content that is read in parts.
pub trait Parts: Sized + Send + 'static {
    /// Takes the next part off; `None` at the end. Does not block.
    fn cut(&mut self) -> Option<Self>;

    /// A piece that is read already, and has its room.
    fn at_hand(&mut self) -> Option<Bytes> {
        None
    }

    /// About how many bytes the next piece of a part has, rather too many than too few; `None` at
    /// the part's end. Does not block.
    fn expected(&self) -> Option<u64>;

    /// The part once more; `None` if it can be read but once. No such part has another behind it.
    fn again(&self) -> Option<Self>;

    /// Reads as much of a part as has at most so many bytes. Blocks.
    ///
    /// # Errors
    /// When the part cannot be read as promised.
    fn read(&mut self, most: usize) -> Result<Piece, StoreError>;
}

/// The next piece of a part.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// It has so many bytes, which is more than were allowed.
    Needs(u64),
    End,
}

impl Parts for Lines {
    fn cut(&mut self) -> Option<Self> {
        self.cut()
    }

    fn expected(&self) -> Option<u64> {
        self.expected_bytes()
    }

    fn again(&self) -> Option<Self> {
        Some(self.again())
    }

    fn read(&mut self, most: usize) -> Result<Piece, StoreError> {
        let chunk = self.chunk(most)?;
        // The client may not ask for more before long.
        self.rest();
        Ok(match chunk {
            Chunk::Bytes(bytes) => Piece::Bytes(bytes),
            Chunk::Needs(bytes) => Piece::Needs(bytes as u64),
            Chunk::End => Piece::End,
        })
    }
}

/// A range of an uploaded file.
#[derive(Debug)]
pub struct Content {
    id: FileId,
    /// The open file, and its place, which is released when the file is closed.
    file: Arc<(DataFile, OpenFile)>,
    range: Range<u64>,
}

impl Content {
    /// A range of an open file.
    pub fn new(id: FileId, file: (DataFile, OpenFile), range: Range<u64>) -> Self {
        Self { id, file: Arc::new(file), range }
    }
}

impl Parts for Content {
    fn cut(&mut self) -> Option<Self> {
        let start = self.range.start;
        self.range.start = self.range.end.min(start + PIECE);
        let range = start..self.range.start;
        (!range.is_empty()).then(|| Self { id: self.id, file: self.file.clone(), range })
    }

    fn expected(&self) -> Option<u64> {
        (!self.range.is_empty()).then(|| self.range.end - self.range.start)
    }

    fn again(&self) -> Option<Self> {
        Some(Self { id: self.id, file: self.file.clone(), range: self.range.clone() })
    }

    fn read(&mut self, _: usize) -> Result<Piece, StoreError> {
        let Range { start, end } = std::mem::take(&mut self.range);
        if start == end {
            return Ok(Piece::End);
        }
        let mut piece = vec![0; usize::try_from(end - start).unwrap_or(0)];
        self.file.0.read_exact_at(&mut piece, start).map_err(|error| StoreError::unreadable(self.id, &error))?;
        Ok(Piece::Bytes(piece.into()))
    }
}

/// A whole uploaded file, which is verified as it is read: a damaged file is cut before its last
/// piece.
#[derive(Debug)]
pub struct Whole {
    id: FileId,
    /// The content, and its place, which is released when the file is closed.
    content: Option<(Verified, OpenFile)>,
    /// Read before the answer begins, so that a small damaged file yields an error and not a cut
    /// body.
    first: Option<Bytes>,
}

impl Whole {
    /// Opens the content and reads its first piece, for which there is room. Blocks.
    ///
    /// # Errors
    /// When the content cannot be read, or is damaged and small.
    pub fn open(id: FileId, content: (Verified, OpenFile), room: Held) -> Result<Self, StoreError> {
        let mut whole = Self { id, content: Some(content), first: None };
        whole.first = whole.piece()?.map(|piece| counted(piece, room));
        Ok(whole)
    }

    fn piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some((content, _)) = &mut self.content else { return Ok(None) };
        let mut piece = Vec::with_capacity(usize::try_from(PIECE).unwrap_or(0));
        content.by_ref().take(PIECE).read_to_end(&mut piece).map_err(|error| StoreError::unreadable(self.id, &error))?;
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

impl Parts for Whole {
    /// The file is a single part, because its pieces must be read in order.
    fn cut(&mut self) -> Option<Self> {
        let (content, first) = (self.content.take()?, self.first.take());
        Some(Self { id: self.id, content: Some(content), first })
    }

    fn at_hand(&mut self) -> Option<Bytes> {
        self.first.take()
    }

    fn expected(&self) -> Option<u64> {
        self.content.is_some().then_some(PIECE)
    }

    fn again(&self) -> Option<Self> {
        None
    }

    fn read(&mut self, _: usize) -> Result<Piece, StoreError> {
        Ok(self.piece()?.map_or(Piece::End, Piece::Bytes))
    }
}

/// Builds a body from these parts, which are read within the share of their owner.
pub fn body<P: Parts>(whole: P, share: OwnersShare) -> Body {
    // The body outlives the handler; what is logged about it belongs to the same request.
    let span = tracing::Span::current();
    let tell = move |error: &StoreError| {
        span.in_scope(|| tracing::error!(%error, "a response was cut because its content could not be read"));
    };
    Body::from_stream(pieces(whole, share).inspect_err(tell))
}
