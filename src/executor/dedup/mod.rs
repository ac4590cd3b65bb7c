//! Rows that ask the same: one call answers those that run at the same time, and an answer that is kept
//! answers those that come later.

pub mod answer_cache;
pub mod key;
pub mod single_flight;
