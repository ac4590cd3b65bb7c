//! Rows with the same request: one call answers those that run at the same time, and a stored
//! answer serves those that come later.

pub mod answer_cache;
pub mod key;
pub mod single_flight;
