//! What providers may answer, for the fuzz targets of `tests/fuzz`: the function takes any bytes and
//! panics where a rule does not hold.

use bytes::Bytes;

use super::{Answer, Asked, Verdict, verdict};
use crate::domain::endpoint::Endpoint;
use crate::domain::format::wire::WireFormat;

/// Any answer is judged, and a good one is one JSON value on one line. The first byte selects the form
/// of the request, the second the status.
pub fn answers(bytes: &[u8]) {
    let Some(([form, status], body)) = bytes.split_first_chunk::<2>() else { return };
    let Some(endpoint) = Endpoint::ALL.get(usize::from(*form) % Endpoint::ALL.len()) else { return };
    let status = [200, 201, 400, 404, 429, 500, 503].get(usize::from(*status) % 7).copied().unwrap_or(200);
    let answer = Answer { status, request_id: None, retry_after: None, allowances: None, body: Bytes::copy_from_slice(body) };
    let asked = Asked { format: WireFormat::of(*endpoint), body: br#"{"model":"m","max_tokens":10}"# };
    match verdict(asked, Ok(answer)) {
        Verdict::Succeeded { response, usage, .. } => {
            assert!(status < 300, "a good answer of status {status}");
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&response.body).is_ok(), "what is kept is JSON");
            assert!(!response.body.contains(&b'\n'), "what is kept is one line");
            let _ = usage.total_tokens();
        }
        Verdict::Failed { message, last, .. } => {
            assert!(!message.is_empty(), "a failure has a reason");
            if let Some(last) = last {
                assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&last.body).is_ok() && !last.body.contains(&b'\n'));
            }
        }
    }
}
