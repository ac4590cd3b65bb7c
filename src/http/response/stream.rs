//! Response bodies that are read from disk piece by piece.
//!
//! Each piece takes one visit to a blocking thread, so that a client that reads slowly holds no
//! thread. While one piece is sent to the client, the next pieces are read in parallel. An error on
//! the way breaks the connection: the client sees a cut body, never a body that is silently too
//! short.

use std::collections::VecDeque;
use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryStreamExt};

use crate::descriptors::FilePlace;
use crate::domain::id::FileId;
use crate::store::error::StoreError;
use crate::store::{DataFile, Lines, Verified, blocking};

/// Bytes of a piece of an uploaded file.
const PIECE: u64 = 256 << 10;
/// Pieces that are being read or wait to be sent, besides the piece that is being sent.
const AHEAD: usize = 3;

/// Content that is read in parts.
pub trait Parts: Sized + Send + 'static {
    /// Takes the next part off; `None` at the end. Does not block.
    fn cut(&mut self) -> Option<Self>;

    /// Reads as much of a part as may be in memory at once; `None` at its end. Blocks.
    ///
    /// # Errors
    /// When the part cannot be read as promised.
    fn read(&mut self) -> Result<Option<Bytes>, StoreError>;
}

impl Parts for Lines {
    fn cut(&mut self) -> Option<Self> {
        self.cut()
    }

    fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.next_chunk()
    }
}

/// A range of an uploaded file.
#[derive(Debug)]
pub struct Content {
    id: FileId,
    /// The open file, and its place, which is released when the file is closed.
    file: Arc<(DataFile, FilePlace)>,
    range: Range<u64>,
}

impl Content {
    /// A range of an open file.
    pub fn new(id: FileId, file: (DataFile, FilePlace), range: Range<u64>) -> Self {
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

    fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Range { start, end } = std::mem::take(&mut self.range);
        if start == end {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(end - start).unwrap_or(0)];
        self.file.0.read_exact_at(&mut piece, start).map_err(|error| StoreError::unreadable(self.id, &error))?;
        Ok(Some(piece.into()))
    }
}

/// A whole uploaded file, which is verified as it is read: a damaged file is cut before its last
/// piece.
#[derive(Debug)]
pub struct Whole {
    id: FileId,
    /// The content, and its place, which is released when the file is closed.
    content: Option<(Verified, FilePlace)>,
    /// Read before the answer begins, so that a small damaged file yields an error and not a cut
    /// body.
    first: Option<Bytes>,
}

impl Whole {
    /// Opens the content and reads its first piece. Blocks.
    ///
    /// # Errors
    /// When the content cannot be read, or is damaged and small.
    pub fn open(id: FileId, content: (Verified, FilePlace)) -> Result<Self, StoreError> {
        let mut whole = Self { id, content: Some(content), first: None };
        whole.first = whole.piece()?;
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

    fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.piece(),
        }
    }
}

/// A part that is being read: yields a piece, and the part that follows it.
type Reading<P> = BoxFuture<'static, Result<Option<(Bytes, P)>, StoreError>>;

/// Builds a body from these parts.
pub fn body<P: Parts>(whole: P) -> Body {
    // The body outlives the handler; what is logged about it belongs to the same request.
    let span = tracing::Span::current();
    let tell = move |error: &StoreError| {
        span.in_scope(|| tracing::error!(%error, "a response was cut because its content could not be read"));
    };
    let pieces = futures_util::stream::try_unfold((whole, VecDeque::new()), |(mut whole, mut ahead)| async move {
        loop {
            while ahead.len() <= AHEAD
                && let Some(part) = whole.cut()
            {
                ahead.push_back(begin(part));
            }
            let Some(reading) = ahead.pop_front() else { return Ok(None) };
            if let Some((piece, rest)) = reading.await? {
                // Most parts consist of one piece; then this read returns nothing.
                ahead.push_front(begin(rest));
                return Ok(Some((piece, (whole, ahead))));
            }
        }
    });
    Body::from_stream(pieces.inspect_err(tell))
}

/// Begins to read a part, even if the client does not wait for it yet.
fn begin<P: Parts>(mut part: P) -> Reading<P> {
    blocking(move || Ok(part.read()?.map(|piece| (piece, part)))).boxed()
}
