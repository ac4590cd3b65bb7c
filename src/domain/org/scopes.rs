//! What an API key may do, within what its kind opens.
//!
//! Invariant: whoever makes a key gives it no scope that the maker does not have
//! ([`Scopes::covers`]).

use std::fmt;

use super::KeyKind;

/// A right of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To read what the organisation has: requests that change nothing.
    Read,
    /// To upload, to quote, to run batches, to delete: requests that change something.
    Write,
    /// To make and revoke keys, and to set receivers of messages.
    Manage,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Manage];
    /// The words of all scopes, in the same order.
    pub const WORDS: [&str; 3] = ["read", "write", "manage"];

    /// The word for the scope on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Manage => "manage",
        }
    }

    /// The scope of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Manage => 4,
        }
    }
}

/// The rights of a key: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Every right: for the first key of an organisation.
    pub const ALL: Self = Self(7);

    /// These rights; `None` if there is none.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Option<Self> {
        Self::from_code(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }

    /// The rights of a new key of a kind whose maker names none.
    pub const fn usual(kind: KeyKind) -> Self {
        match kind {
            KeyKind::OpenAi | KeyKind::BatchRouter | KeyKind::PhaseoInference => Self(Scope::Read.bit() | Scope::Write.bit()),
            KeyKind::PhaseoManagement => Self(Scope::Manage.bit()),
        }
    }

    /// The rights of a key that was made before keys had any: clients of BatchRouter's API could
    /// make keys with theirs.
    pub const fn before_scopes(kind: KeyKind) -> Self {
        match kind {
            KeyKind::BatchRouter => Self::ALL,
            KeyKind::OpenAi | KeyKind::PhaseoInference | KeyKind::PhaseoManagement => Self::usual(kind),
        }
    }

    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether the other rights are some or all of these.
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of these rights that are among the others; `None` if there is none.
    pub fn within(self, others: Self) -> Option<Self> {
        Self::from_code(self.0 & others.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    /// The number of the rights on disk. Never changes.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The rights that have this number.
    pub fn from_code(code: u8) -> Option<Self> {
        (1..=Self::ALL.0).contains(&code).then_some(Self(code))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            write!(f, "{}`{}`", if place == 0 { "" } else { ", " }, scope.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_covered_by_the_same_ones_and_more() {
        let some = |words: &[&str]| Scopes::of(words.iter().map(|word| Scope::of(word).unwrap()));
        assert_eq!(some(&[]), None);
        assert_eq!(some(&Scope::WORDS), Some(Scopes::ALL));
        for code in 0..=u8::MAX {
            let scopes = Scopes::from_code(code);
            assert_eq!(scopes.map(Scopes::code), (1..8).contains(&code).then_some(code));
            let Some(scopes) = scopes else { continue };
            assert_eq!(Scopes::of(scopes.iter()), Some(scopes));
            assert!(Scopes::ALL.covers(scopes) && scopes.covers(scopes));
            assert_eq!(scopes.covers(Scopes::ALL), scopes == Scopes::ALL);
        }
        let (read, write) = (some(&["read"]).unwrap(), some(&["write"]).unwrap());
        assert!(!read.covers(write) && read.within(write).is_none());
        assert_eq!(Scopes::usual(KeyKind::OpenAi).to_string(), "`read`, `write`");
        assert_eq!(Scopes::ALL.within(read), Some(read));
    }
}
