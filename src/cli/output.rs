//! Answers to questions: data on standard output, or the reason why there is none.

use std::io::{ErrorKind, Write as _};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::{FAILURE, USAGE};

/// Why a question could not be answered, with the exit code.
#[derive(Debug)]
pub(super) struct CommandRefused(pub u8, pub String);

impl CommandRefused {
    /// The question itself is at fault.
    pub fn usage(message: impl ToString) -> Self {
        Self(USAGE, message.to_string())
    }
}

/// Prints the answer. A reader that has gone has read enough; a full disk is a failure.
pub(super) fn put(text: &str) -> Result<(), CommandRefused> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CommandRefused(FAILURE, format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A table without lines, as wide as its content.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    // Every cell has a space on either side.
    text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect::<Vec<_>>().join("\n")
}
