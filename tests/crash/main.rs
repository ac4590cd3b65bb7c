//! The promise under `kill -9`: everything that was ever shown or acknowledged is still there
//! afterwards, and every row has exactly one result. One binary, one module per subject.
//!
//! ```sh
//! cargo test --release --test crash -- --nocapture
//! # the moments of another run
//! BATCHD_CRASH_SEED=17 cargo test --release --test crash -- --nocapture
//! ```

mod acknowledged;
mod compaction;
mod creation;
mod deletion;
mod equal;
mod fallback;
mod inline;
mod large;
mod ledger;
mod pause;
mod priority;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod two_lanes;
mod witness;

use support::wait;

/// The random moments of a test; its log says how to reproduce them.
#[expect(clippy::disallowed_methods, reason = "the seed of a test run is not a setting of the daemon")]
fn random(test: &str) -> fastrand::Rng {
    let seed = match std::env::var("BATCHD_CRASH_SEED") {
        Ok(text) => text.parse().expect("BATCHD_CRASH_SEED is a number"),
        Err(_) => fastrand::u64(..1_000_000),
    };
    wait::say(&format!("crash: {test}: seed {seed}"));
    fastrand::Rng::with_seed(seed)
}
