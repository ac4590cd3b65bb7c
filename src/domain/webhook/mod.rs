//! Where somebody wants to be told of something, and with which secret the message is signed.

pub mod delivery;
pub mod endpoint;
pub mod event_log;
pub mod target_policy;

/// A receiver of messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// An absolute `http` or `https` URL.
    pub url: String,
    /// The secret as it is kept: sealed, and of no use without the daemon's own key.
    pub sealed_secret: Vec<u8>,
}

impl std::fmt::Debug for Webhook {
    /// The path and the query of a receiver may hold a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook")
    }
}
