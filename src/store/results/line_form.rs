//! The forms in which results are read as lines. Not here: reading them ([`super::lines`]).

use std::fmt;
use std::sync::Arc;

use crate::domain::id::RowIndex;
use crate::domain::row::RowResult;

/// Appends a result and its line break.
type Append = dyn Fn(&RowResult, &mut Vec<u8>) + Send + Sync;

/// A custom form of lines.
#[derive(Clone)]
pub struct LineRender(pub Arc<Append>);

impl fmt::Debug for LineRender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Render")
    }
}

/// The form of the lines.
#[derive(Debug, Clone)]
pub(super) enum LineForm {
    /// The form of lines in the files of a batch.
    Plain,
    WithAttempts,
    Rendered(LineRender),
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineOf {
    pub row: RowIndex,
    /// The line belongs to the error file.
    pub failed: bool,
}
