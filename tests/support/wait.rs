//! Bounded polling, the only form of waiting in these tests.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// The limit for things that take well under a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);
/// The limit for a batch of a few rows.
pub const A_WHILE: Duration = Duration::from_secs(60);

/// Calls `probe` until it returns a value; returns `None` once `limit` has passed.
pub fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Writes a line where libtest does not capture it, so that it appears in the log of a passing run.
pub fn say(line: &str) {
    // A closed stderr is no reason to fail a test.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
