//! Who may call a route, and paths that have none.
//!
//! Not here: whether a caller is one of those ([`super::layers::access_policy`]).

use axum::http::Method;

use crate::domain::org::scopes::Scope;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessClass {
    /// Callers with a key of their organisation's, or every caller if no key is required.
    Key,
    /// The same, but to change something the key needs the scope `manage`.
    Manage,
    /// Callers with a key for managing receivers of webhooks.
    Management,
    /// Only the operator.
    Operator,
    /// Every caller, without a key.
    Open,
    /// Every caller, without a key, and from any web page.
    Public,
}

impl AccessClass {
    /// The scope that a client's key needs for a method; `None` where no such key is looked at, or
    /// where none would do.
    pub fn scope(self, method: &Method) -> Option<Scope> {
        match self {
            Self::Key if method.is_safe() => Some(Scope::Read),
            Self::Key => Some(Scope::Write),
            Self::Manage if method.is_safe() => Some(Scope::Read),
            Self::Manage | Self::Management => Some(Scope::Manage),
            Self::Operator | Self::Open | Self::Public => None,
        }
    }
}

/// Paths whose access class holds for everything below them, whether or not there is a route.
const ROOTS: [(&str, AccessClass); 4] = [
    ("/admin", AccessClass::Operator),
    ("/metrics", AccessClass::Operator),
    ("/v1/webhook-endpoints", AccessClass::Management),
    ("/phaseo/v1/webhook-endpoints", AccessClass::Management),
];

/// Who may call a path that has no route.
pub fn access_below(path: &str) -> AccessClass {
    let is_below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    ROOTS.iter().find_map(|(root, class)| is_below(root).then_some(*class)).unwrap_or(AccessClass::Key)
}
