//! A line of the audit log: who did what, from where, and what came of it.
//!
//! Not here: which requests are recorded (`http`), and where the lines are kept (`store`).

use serde::{Serialize, Serializer};

use super::time::Timestamp;

/// A line. Members without a value are null, so that every line has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditLine {
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// The id of a client's key; `operator:` and the beginning of the SHA-256 of a key of the
    /// settings; `daemon` for what it did by itself. None where no key is asked for.
    pub who: Option<String>,
    /// The organisation of whoever did it.
    pub org: Option<String>,
    /// The other end of the connection.
    pub from: Option<String>,
    pub request_id: Option<String>,
    /// What was done: the method and the path of a request, or words.
    pub what: String,
    /// The organisation that the operator has reached.
    pub of_org: Option<String>,
    /// The id of what was made.
    pub made: Option<String>,
    /// HTTP status of the answer.
    pub status: Option<u16>,
    pub outcome: AuditOutcome,
}

fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    Done,
    Refused,
    Failed,
}

impl AuditLine {
    /// What the daemon did by itself, because of its files or of a signal.
    pub fn of_daemon(at: Timestamp, what: String, outcome: AuditOutcome) -> Self {
        let who = Some("daemon".to_owned());
        Self { at, who, org: None, from: None, request_id: None, what, of_org: None, made: None, status: None, outcome }
    }
}
