//! The operator's routes: catalog, lanes, organisations, keys, backup. All of them are batchd's
//! own.

pub mod catalog;
pub mod keys;
pub mod known_lanes;
pub mod lanes;
pub mod orgs;
pub mod quotas;
