//! What one row is expected to read and write, and the most that it may.

use super::{Attachment, Content, Misread, Output, upper_bound};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::row::batchrouter::readable;
use crate::domain::row::openai::{RowFault, RowRequest};
use crate::domain::usage::Usage;

/// The most bytes of text that make a token: the expected input is never far too high.
const BYTES_PER_TOKEN: u64 = 4;

/// What one row is expected to read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Approximate number of input tokens.
    pub read: u64,
    pub output: Output,
    pub body_bytes: usize,
    /// Of the input tokens, those of images and files.
    pub media: u64,
}

impl Measured {
    /// The most that the row takes on a lane that writes `most_output` tokens at most, if that is
    /// known.
    pub fn most(&self, most_output: Option<u64>) -> Usage {
        upper_bound::of_row(self.body_bytes, self.media, self.output, most_output)
    }
}

/// Finds a file that an item names.
pub type FindFile<'a> = &'a dyn Fn(&str) -> Option<Attachment>;

/// Measures an item of a file. A missing file that the item names counts for nothing: its row will
/// fail when it runs.
///
/// # Errors
/// When no provider could answer the item.
pub fn measure(row: &RowRequest<'_>, find: FindFile<'_>) -> Result<Measured, RowFault> {
    let input = readable(row)?;
    let content = Content::read(row.endpoint, &input, row.limits).map_err(|Misread { member, message }| {
        let field = if member.is_empty() { "input".to_owned() } else { format!("input.{member}") };
        RowFault::new(ProblemCode::InvalidInput, Some("input"), format!("`{field}` {message}"))
    })?;
    let files: Vec<_> = content.file_ids.iter().filter_map(|id| find(id)).collect();
    let (read, media) = (content.measured(&files, BYTES_PER_TOKEN), content.media(&files));
    Ok(Measured { read, output: content.output(), body_bytes: row.body.len(), media })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::batchrouter::{Defaults, parse_item};

    #[test]
    fn a_row_is_measured_by_its_texts_its_files_and_its_limit() {
        let file = |mime: &str, bytes| Some(Attachment { mime: mime.to_owned(), bytes });
        let find = |id: &str| match id {
            "file_pdf" => file("application/pdf", 64_000),
            "file_text" => file("text/plain", 4_000),
            _ => None,
        };
        let measured = |input: &str| {
            let item = format!(r#"{{"customer_item_id":"a","model":"m","input":{input}}}"#);
            let defaults = Defaults::default();
            let row = parse_item(item.as_bytes(), &defaults).unwrap();
            measure(&row, &find).map_err(|fault| fault.message)
        };
        let text = "x".repeat(4_000);
        let plain = measured(&format!(r#"{{"input":"{text} ;base64,{text}","max_output_tokens":16000,"n":2}}"#)).unwrap();
        assert!((2_000..2_020).contains(&plain.read), "words of a text encode nothing: {plain:?}");
        assert_eq!((plain.media, plain.output.tokens, plain.most(None).output_tokens), (0, 32_000, 32_000));
        let part = |kind: &str, more: &str| format!(r#"{{"input":[{{"role":"user","content":[{{"type":"{kind}",{more}}}]}}]}}"#);
        for (input, least) in [
            (part("input_file", r#""file_id":"file_pdf""#), 1_000),
            (part("input_file", r#""file_id":"file_text""#), 1_000),
            (part("input_file", r#""file_id":"file_gone""#), 0),
            (part("input_image", r#""image_url":"data:image/png;base64,AAAA""#), 765),
            (part("input_file", &format!(r#""file_data":"data:application/pdf;base64,{}""#, "A".repeat(64_000 / 3 * 4))), 999),
        ] {
            let row = measured(&input).unwrap();
            assert!((least..least + 20).contains(&row.read), "{row:?} of {least}");
            assert!((least..=least + 1).contains(&row.media) && row.most(Some(9)).input_tokens > row.read, "{row:?} of {least}");
        }
        assert!(measured(r#"{"messages":["text"]}"#).unwrap_err().contains("`input.messages` must have objects"));
    }
}
