//! How answers are made: errors, streams, ranges, signed links, and what is rendered of the
//! catalog.

pub mod error;
pub mod file_content;
pub mod money;
pub mod range;
pub mod read_ahead;
pub mod signed_links;
pub mod stream;
pub mod time;
pub mod views;
