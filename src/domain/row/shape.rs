//! Recognises input that is not OpenAI's JSONL but something that people have at hand, so that the
//! message can say what to write instead.
//!
//! Nothing is converted here, and nothing that could be a row is called something else: only what
//! [`super::openai::parse_line`] refuses anyway is looked at.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::openai::RowFault;
use crate::domain::batch::problem::ProblemCode;
use crate::domain::endpoint::Endpoint;

/// How many bytes of a file's beginning are looked at.
pub const HEAD: usize = 64 << 10;

/// The most names of columns that a message repeats, and the most characters of each.
const COLUMNS: usize = 6;
const COLUMN_CHARS: usize = 40;

/// Formats of whole files that are no text, by their first bytes.
const BINARY: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "packed with gzip", "unpack it (`gunzip`)"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it (`zstd -d`)"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unpack it (`unzip`), or export it as JSONL"),
    (b"BZh", "packed with bzip2", "unpack it (`bunzip2`), or pack it with gzip or zstd"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it (`unxz`), or pack it with gzip or zstd"),
    (b"PAR1", "a Parquet file", "export it as JSONL"),
    (b"SQLite format 3\0", "an SQLite database", "export it as JSONL"),
];

/// What is wrong with a file as a whole, from its first bytes: at most [`HEAD`] of them are looked
/// at. `None` if it may be JSONL.
pub fn of_file(head: &[u8]) -> Option<RowFault> {
    let head = &head[..head.len().min(HEAD)];
    if let Some((_, what, remedy)) = BINARY.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Some(no_jsonl(format!("the file is {what}; {remedy}, and upload one JSON object per line")));
    }
    if is_utf16(head) {
        let message = "the file is UTF-16; save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)".to_owned();
        return Some(RowFault::new(ProblemCode::InvalidUtf8, None, message));
    }
    let head = head.strip_prefix(super::lines::BYTE_ORDER_MARK).unwrap_or(head).trim_ascii_start();
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let (first, second) = (lines.next()?, lines.next());
    match first[0] {
        b'[' => Some(no_jsonl(
            "the file is one JSON array; write each of its objects on a line of its own, without the brackets and without commas \
             between them (`jq -c '.[]'`)"
                .to_owned(),
        )),
        b'{' if second.is_some_and(|second| goes_on(first, second)) => {
            Some(no_jsonl("the object that begins here goes on for several lines; write each row on one line (`jq -c .`)".to_owned()))
        }
        b'{' => None,
        _ => columns(first, second).map(|(kind, columns)| {
            no_jsonl(format!(
                "the file is {kind}, with the columns {columns}; write each row as a JSON object on a line of its own, like {}",
                example("/v1/chat/completions")
            ))
        }),
    }
}

/// A row in OpenAI's form, for messages.
fn example(endpoint: &str) -> String {
    format!(r#"{{"custom_id": "row-1", "method": "POST", "url": "{endpoint}", "body": {{"model": ...}}}}"#)
}

fn no_jsonl(message: String) -> RowFault {
    RowFault::new(ProblemCode::UnsupportedFormat, None, message)
}

fn is_utf16(head: &[u8]) -> bool {
    let [a, b, ..] = head else { return false };
    matches!((a, b), (0xff, 0xfe) | (0xfe, 0xff)) || matches!((a, b), (0, b'{' | b'[') | (b'{' | b'[', 0))
}

/// Whether an object that begins in the first line goes on in the second, as when it is printed for
/// people. A row that is cut off is followed by another row.
fn goes_on(first: &[u8], second: &[u8]) -> bool {
    let cut = serde_json::from_slice::<IgnoredAny>(first).is_err_and(|error| error.is_eof());
    cut && matches!(second[0], b'"' | b'}')
}

/// The names of columns that suggest that rows of a model follow.
const TELLING: [&str; 14] =
    ["custom_id", "id", "method", "url", "body", "model", "messages", "prompt", "input", "text", "question", "content", "system", "user"];

/// The format and the columns of a table whose first two lines these are.
fn columns(first: &[u8], second: Option<&[u8]>) -> Option<(&'static str, String)> {
    let first = std::str::from_utf8(first).ok()?;
    if serde_json::from_str::<IgnoredAny>(first).is_ok() {
        return None;
    }
    let separated = |separator: char| -> Option<Vec<&str>> {
        let names: Vec<_> = first.split(separator).map(|name| name.trim().trim_matches('"')).collect();
        let is_name = |name: &&str| {
            !name.is_empty() && name.chars().count() <= COLUMN_CHARS && name.chars().all(|c| c.is_alphanumeric() || "_-. ".contains(c))
        };
        let alike = || second.is_some_and(|line| line.iter().filter(|byte| **byte == separator as u8).count() >= names.len() - 1);
        let told = || names.iter().any(|name| TELLING.contains(&name.to_lowercase().as_str()));
        (names.len() > 1 && names.iter().all(is_name) && (told() || alike())).then_some(names)
    };
    let kinds = [(',', "CSV"), ('\t', "a table with tabs (TSV)"), (';', "CSV with semicolons")];
    let (kind, names) = kinds.into_iter().find_map(|(separator, kind)| Some((kind, separated(separator)?)))?;
    let more = if names.len() > COLUMNS { ", …" } else { "" };
    let shown: Vec<_> = names.iter().take(COLUMNS).map(|name| format!("`{name}`")).collect();
    Some((kind, format!("{}{more}", shown.join(", "))))
}

/// The members by which rows of other services are recognised. Each may hold any JSON value.
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    customer_item_id: Option<IgnoredAny>,
    #[serde(default)]
    params: Option<IgnoredAny>,
    #[serde(default)]
    request: Option<IgnoredAny>,
    #[serde(default)]
    model: Option<IgnoredAny>,
    #[serde(default)]
    messages: Option<IgnoredAny>,
    #[serde(default)]
    prompt: Option<IgnoredAny>,
    #[serde(default)]
    input: Option<IgnoredAny>,
}

/// What a line is that has neither `method` nor `url` nor `body`, if it is recognised; `endpoint`
/// is that of the batch.
pub fn of_row(line: &str, endpoint: &str) -> Option<RowFault> {
    let members: Members = serde_json::from_str(line).ok()?;
    let message = match members {
        Members { customer_item_id: Some(_), .. } => {
            "the line is an item of BatchRouter's; create the batch with `quote_id`, or write a row in OpenAI's form".to_owned()
        }
        Members { params: Some(_), .. } => format!(
            "the line is a row of Anthropic's Message Batches; write {} with what is in `params` as `body`, in a batch with the \
             endpoint `/v1/messages`",
            example("/v1/messages")
        ),
        Members { request: Some(_), .. } => {
            format!("the line is a row of Gemini's batches; write {}, with the request in the form of that endpoint", example(endpoint))
        }
        Members { model: None, messages: None, prompt: None, input: None, .. } => return None,
        Members { .. } => format!("the line is only the body of a request; put it into a row: {}", example(endpoint)),
    };
    Some(no_jsonl(message))
}

/// The endpoint that a text means which is not its path: the whole address of a server, or the path
/// without its version, as Azure has it.
pub fn spelled_otherwise(text: &str) -> Option<Endpoint> {
    let path = text.split_once("://").map_or(text, |(_, rest)| rest.find('/').map_or("", |slash| &rest[slash..]));
    let path = path.split(['?', '#']).next().unwrap_or(path).trim().trim_matches('/');
    let path = path.strip_prefix("openai/").unwrap_or(path);
    let tail = path.strip_prefix("v1/").unwrap_or(path);
    Endpoint::ALL.into_iter().find(|endpoint| endpoint.tail().trim_start_matches('/') == tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(head: &[u8]) -> String {
        of_file(head).map_or_else(|| "may be JSONL".to_owned(), |fault| format!("{}: {}", fault.code.as_str(), fault.message))
    }

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[test]
    fn files_of_other_kinds_are_told_apart_from_rows() {
        const ROW: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x"}}"#;
        let files: [(&str, Vec<u8>); 20] = [
            ("rows", format!("{ROW}\n{ROW}\n").into()),
            ("rows after a mark and blank lines", format!("\u{feff}\n\n{ROW}").into()),
            ("nothing", Vec::new()),
            ("a cut row", format!("{}\n{ROW}", &ROW[..30]).into()),
            ("prose", "Hello, world\nThis is text.".into()),
            ("nonsense", "nonsense\nmore".into()),
            ("one row over the whole head", format!("{{\"x\":\"{}", "y".repeat(HEAD)).into()),
            ("gzip", b"\x1f\x8b\x08\0".to_vec()),
            ("zstd", b"\x28\xb5\x2f\xfd\0".to_vec()),
            ("zip", b"PK\x03\x04".to_vec()),
            ("UTF-16", utf16(&format!("\u{feff}{ROW}"), false)),
            ("UTF-16, the other way", utf16(&format!("\u{feff}{ROW}"), true)),
            ("UTF-16 without a mark", utf16(ROW, false)),
            ("array", format!("[\n  {ROW},\n  {ROW}\n]").into()),
            ("array on one line", format!("[{ROW},{ROW}]").into()),
            ("pretty", b"{\n  \"custom_id\": \"a\",\n  \"method\": \"POST\"\n}\n".to_vec()),
            ("CSV", "custom_id,prompt\r\na,\"Why, then?\"\n".into()),
            ("CSV of unknown columns", "\"nr\",\"frage\"\n1,\"Warum?\"\n".into()),
            ("semicolons", "a;b;c;d;e;f;g;h\n1;2;3;4;5;6;7;8\n".into()),
            ("tabs", "id\ttext\n1\tx\n".into()),
        ];
        let text: Vec<_> = files.iter().map(|(name, head)| format!("{name}\n  {}", told(head))).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn rows_of_other_services_are_recognised() {
        let rows = [
            r#"{"model":"m","messages":[]}"#,
            r#"{"custom_id":"a","model":"m","prompt":"x"}"#,
            r#"{"custom_id":"a","params":{"model":"m","max_tokens":5,"messages":[]}}"#,
            r#"{"key":"a","request":{"contents":[]}}"#,
            r#"{"customer_item_id":"a","model":"m","input":{}}"#,
            r#"{"custom_id":"a"}"#,
            r#"{"model":null}"#,
        ];
        let text = rows.map(|row| {
            let told = of_row(row, "/v1/chat/completions").map_or_else(|| "not recognised".to_owned(), |fault| fault.message);
            format!("{row}\n  {told}")
        });
        insta::assert_snapshot!(text.join("\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_looked_at(head: Vec<u8>, text in "[\\[{\",;a-z\n ]{0,60}") {
            let _ = of_file(&head);
            let _ = of_file(text.as_bytes());
            let _ = of_row(&text, "/v1/responses");
        }
    }
}
