//! Text with holes.

use std::fmt;

use bytes::Bytes;

use crate::domain::time::Timestamp;
use crate::service::live_lanes::Live;

/// Fills a hole: appends JSON, and returns until when the JSON stays valid if no event changes it.
type Hole = Box<dyn Fn(&Live<'_>, &mut Vec<u8>) -> Option<Timestamp> + Send + Sync>;

/// Text with holes, each of which follows a piece of text.
#[derive(Default)]
pub struct Template {
    pieces: Vec<(Vec<u8>, Hole)>,
    end: Vec<u8>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("holes", &self.pieces.len()).finish_non_exhaustive()
    }
}

impl Template {
    /// A template without text or holes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A template without holes: a value as JSON.
    pub fn of(value: &impl serde::Serialize) -> Self {
        let mut template = Self::new();
        template.json(value);
        template
    }

    /// Appends text.
    pub fn text(&mut self, text: &str) {
        self.end.extend_from_slice(text.as_bytes());
    }

    /// Appends a value as JSON.
    pub fn json(&mut self, value: &impl serde::Serialize) {
        // Writing strings, numbers and lists of them into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.end, value);
    }

    /// Appends a value that is an object, without its closing brace.
    pub fn open_object(&mut self, value: &impl serde::Serialize) {
        self.json(value);
        self.end.pop();
    }

    /// Appends a hole.
    pub fn hole(&mut self, fill: impl Fn(&Live<'_>, &mut Vec<u8>) -> Option<Timestamp> + Send + Sync + 'static) {
        self.pieces.push((std::mem::take(&mut self.end), Box::new(fill)));
    }

    /// Whether the template has any hole.
    pub fn is_live(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Bytes of the text.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|(text, _)| text.len()).sum::<usize>() + self.end.len()
    }

    /// The whole text as of now, and until when it stays valid if no event changes it.
    pub fn fill(&self, live: &Live<'_>) -> (Bytes, Option<Timestamp>) {
        // A hole of the catalog takes about 200 bytes.
        let mut out = Vec::with_capacity(self.bytes() + 200 * self.pieces.len());
        let mut good_until: Option<Timestamp> = None;
        for (text, hole) in &self.pieces {
            out.extend_from_slice(text);
            let until = hole(live, &mut out);
            good_until = [good_until, until].into_iter().flatten().min();
        }
        out.extend_from_slice(&self.end);
        (out.into(), good_until)
    }
}
