//! The 16 key-value pairs that a client may attach to a batch (OpenAI's `Metadata` schema).

/// Validated metadata, in the client's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, String)>);

/// Why a set of pairs is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("has {0} pairs, at most {max} are allowed", max = Metadata::MAX_PAIRS)]
    TooManyPairs(usize),
    #[error("key `{0}…` has {1} characters, at most {max} are allowed", max = Metadata::MAX_KEY_CHARS)]
    KeyTooLong(String, usize),
    #[error("the value of `{0}` has {1} characters, at most {max} are allowed", max = Metadata::MAX_VALUE_CHARS)]
    ValueTooLong(String, usize),
    #[error("key `{0}` appears twice")]
    DuplicateKey(String),
}

impl Metadata {
    /// The most pairs in one object.
    pub const MAX_PAIRS: usize = 16;
    /// The most Unicode characters in a key.
    pub const MAX_KEY_CHARS: usize = 64;
    /// The most Unicode characters in a value.
    pub const MAX_VALUE_CHARS: usize = 512;

    /// Checks the limits of OpenAI's schema.
    pub fn new(pairs: Vec<(String, String)>) -> Result<Self, MetadataError> {
        if pairs.len() > Self::MAX_PAIRS {
            return Err(MetadataError::TooManyPairs(pairs.len()));
        }
        for (index, (key, value)) in pairs.iter().enumerate() {
            let key_chars = key.chars().count();
            if key_chars > Self::MAX_KEY_CHARS {
                return Err(MetadataError::KeyTooLong(key.chars().take(20).collect(), key_chars));
            }
            let value_chars = value.chars().count();
            if value_chars > Self::MAX_VALUE_CHARS {
                return Err(MetadataError::ValueTooLong(key.clone(), value_chars));
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(MetadataError::DuplicateKey(key.clone()));
            }
        }
        Ok(Self(pairs))
    }

    /// The pairs in the client's order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: usize, value: usize) -> (String, String) {
        ("k".repeat(key), "é".repeat(value))
    }

    #[test]
    fn limits_are_counted_in_characters() {
        assert!(Metadata::new(vec![pair(64, 512)]).is_ok());
        assert_eq!(Metadata::new(vec![pair(65, 1)]), Err(MetadataError::KeyTooLong("k".repeat(20), 65)));
        assert_eq!(Metadata::new(vec![pair(1, 513)]), Err(MetadataError::ValueTooLong("k".into(), 513)));
        let many: Vec<_> = (1..=17).map(|n| pair(n, 1)).collect();
        assert_eq!(Metadata::new(many.clone()), Err(MetadataError::TooManyPairs(17)));
        assert!(Metadata::new(many[..16].to_vec()).is_ok());
        assert_eq!(Metadata::new(vec![pair(1, 1), pair(1, 2)]), Err(MetadataError::DuplicateKey("k".into())));
    }
}
