//! What a model server says about its own load.

/// What a server says about its load, as far as it says anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerHints {
    /// Calls that the server works on at a time.
    pub slots: Option<u32>,
    /// Calls that wait in the server, of all its clients.
    pub waiting: Option<u32>,
}
