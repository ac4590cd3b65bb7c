//! Response bodies that come off the disk piece by piece.
//!
//! One visit to a blocking thread per piece, so that a client that reads slowly holds no thread.
//! While one piece is on its way to the client, the next ones are read, at the same time. An error
//! on the way breaks the connection: the client sees a cut body, never one that is silently too
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
/// Pieces that are read or wait to be sent, besides the one that is sent.
const AHEAD: usize = 3;

/// Something that is read in parts.
pub trait Parts: Sized + Send + 'static {
    /// Takes the next part off; `None` at the end. Does not block.
    fn cut(&mut self) -> Option<Self>;

    /// Reads of a part what may be in memory at once; `None` at its end. Blocks.
    ///
    /// # Errors
    /// When it cannot be read as promised.
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
    /// The place is free again when the file is closed.
    file: Arc<(DataFile, FilePlace)>,
    range: Range<u64>,
}

impl Content {
    /// `range` of an open file.
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

/// A whole uploaded file, which is verified as it is read: one that is damaged is cut before its last piece.
#[derive(Debug)]
pub struct Whole {
    id: FileId,
    /// The place is free again when the file is closed.
    content: Option<(Verified, FilePlace)>,
    /// Read before anything is answered, so that a small file that is damaged is an error and no cut body.
    first: Option<Bytes>,
}

impl Whole {
    /// An open file. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged and small.
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
    /// One part, because its pieces have to be read in their order.
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

/// A part while it is read: a piece of it, and what comes behind that.
type Reading<P> = BoxFuture<'static, Result<Option<(Bytes, P)>, StoreError>>;

/// A body of these parts.
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
                // Most parts are one piece; then nothing comes of it.
                ahead.push_front(begin(rest));
                return Ok(Some((piece, (whole, ahead))));
            }
        }
    });
    Body::from_stream(pieces.inspect_err(tell))
}

/// Begins to read, whether or not anybody waits for it yet.
fn begin<P: Parts>(mut part: P) -> Reading<P> {
    blocking(move || Ok(part.read()?.map(|piece| (piece, part)))).boxed()
}
