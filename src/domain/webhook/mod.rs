//! Where a client wants messages sent, and the secret that signs them.

pub mod delivery;
pub mod endpoint;
pub mod event_log;
pub mod target_policy;

/// A receiver of messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// An absolute `http` or `https` URL.
    pub url: String,
    /// The secret as it is stored: sealed, and useless without the daemon's own key.
    pub sealed_secret: Vec<u8>,
}

impl std::fmt::Debug for Webhook {
    /// Omits the URL: its path and query may hold a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook")
    }
}
