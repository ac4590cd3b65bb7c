//! The faults of a set of seeds: each with its place, as a report that a person can work through
//! from top to bottom.

use std::fmt;
use std::ops::Range;

/// A place in a file, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextPlace {
    pub line: usize,
    pub column: usize,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Relative to the catalog folder, with forward slashes.
    pub file: String,
    /// `None` if the file as a whole is at fault.
    pub place: Option<TextPlace>,
    /// What was found, and what would be legal.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, message) = (visible(&self.file), visible(&self.message));
        match self.place {
            Some(TextPlace { line, column }) => write!(f, "{file}:{line}:{column}: {message}"),
            None => write!(f, "{file}: {message}"),
        }
    }
}

/// Control characters as escapes: a file's name must not forge a line of a log.
fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// All faults of a set of seeds, at least one, in order of file and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The report of these faults; `None` if there are none.
    pub(super) fn new(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort();
        faults.dedup();
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// The faults, in order of file and place.
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    /// One line with the count, then one indented line for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the catalog has {count} {}:", if count == 1 { "fault" } else { "faults" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// A seed file as text.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Relative to the catalog folder, with forward slashes.
    pub file: String,
    pub text: String,
}

impl Source {
    /// The fault with that message at those bytes of the file.
    pub fn fault(&self, span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault { file: self.file.clone(), place: Some(self.place(span.start)), message: message.into() }
    }

    /// The place of byte `offset`.
    pub fn place(&self, offset: usize) -> TextPlace {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        TextPlace { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// The file's name without folder and extension.
    pub fn stem(&self) -> &str {
        let name = self.file.rsplit('/').next().unwrap_or(&self.file);
        name.strip_suffix(".toml").unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source { file: "models/a.toml".into(), text: "é = 1\nab = 2\n".into() };
        assert_eq!(source.place(0), TextPlace { line: 1, column: 1 });
        assert_eq!(source.place("é ".len()), TextPlace { line: 1, column: 3 });
        assert_eq!(source.place("é = 1\na".len()), TextPlace { line: 2, column: 2 });
        assert_eq!(source.place(1_000), TextPlace { line: 3, column: 1 });
        assert_eq!(source.stem(), "a");
    }
}
