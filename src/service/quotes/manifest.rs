//! Items that were uploaded as the lines of a file, read for a quote: all of them, or the first
//! ones as a sample of the others.

use std::io::{BufReader, ErrorKind};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::domain::file::{File, Purpose};
use crate::domain::id::{FileId, OrgId};
use crate::domain::row::lines::{Line, Lines};
use crate::service::{Issue, IssueCode, IssuePath, MAX_ISSUES, Service, ServiceError};
use crate::store::error::StoreError;

/// The items of a file as an array of their original texts, with no more items and no more bytes
/// than a request may have. Takes time.
///
/// # Errors
/// When the organisation has no such file, or one of its lines is not an item.
pub fn items(service: &Service, org: OrgId, id: FileId) -> Result<Bytes, ServiceError> {
    items_of(service, &check(service.store.attachment(id, service.clock.now())?, org, id)?)
}

/// The items of a file that was looked up before, as [`items`] returns them. Takes time.
///
/// # Errors
/// When a line of the file is not an item.
pub fn items_of(service: &Service, file: &File) -> Result<Bytes, ServiceError> {
    let id = file.id;
    let mut content = service.store.open_verified(file)?;
    let most = service.limits.quotes.max_items;
    let most_bytes = usize::try_from(service.limits.quotes.max_body_bytes).unwrap_or(usize::MAX);
    let mut lines = Lines::new(BufReader::new(&mut content), service.limits.max_line_bytes);
    let (mut array, mut count, mut issues) = (b"[".to_vec(), 0, Vec::new());
    let mut wrong = |line: u64, message: String| {
        issues.push(Issue { code: IssueCode::InvalidInput, path: IssuePath::Line(line), message });
        issues.len() < MAX_ISSUES
    };
    while let Some(place) = lines.advance().map_err(|error| unreadable(id, &error))? {
        let text = match lines.latest() {
            Line::Text(text) => text,
            // A line may be as long as the file is.
            Line::TooLong => {
                wrong(place.number, format!("is longer than {} bytes", service.limits.max_line_bytes));
                break;
            }
        };
        if count == most || count > 0 && array.len() + text.len() + 1 > most_bytes {
            break;
        }
        match serde_json::from_slice::<&RawValue>(text) {
            Err(error) if !wrong(place.number, format!("is not valid JSON: {error}")) => break,
            Err(_) => {}
            Ok(item) => {
                if count > 0 {
                    array.push(b',');
                }
                array.extend_from_slice(item.get().as_bytes());
            }
        }
        count += 1;
    }
    drop(lines);
    if !issues.is_empty() {
        // Checks the content before any issues are shown: they may not stem from what the client
        // wrote.
        content.finish().map_err(|error| unreadable(id, &error))?;
        return Err(ServiceError::preflight(issues));
    }
    array.push(b']');
    Ok(array.into())
}

/// Refuses a file that is missing, belongs to another organisation, or is not an input.
///
/// # Errors
/// When the file is one of these.
pub fn check(found: Option<File>, org: OrgId, id: FileId) -> Result<File, ServiceError> {
    let file = found.filter(|file| file.org == org).ok_or(ServiceError::FileNotFound(id))?;
    if file.purpose == Purpose::Batch { Ok(file) } else { Err(ServiceError::NotAnInput(id)) }
}

fn unreadable(id: FileId, error: &std::io::Error) -> ServiceError {
    match error.kind() {
        ErrorKind::NotFound => ServiceError::FileNotFound(id),
        _ => StoreError::unreadable(id, error).into(),
    }
}
