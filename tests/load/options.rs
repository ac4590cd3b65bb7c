//! The words after a scenario: `name=number`, or plain numbers in the order of the names.

use std::io;

/// The requested values, or the defaults.
pub struct Options(Vec<(&'static str, u64)>);

impl Options {
    /// Reads the words for the known options.
    ///
    /// # Errors
    /// A word that is no number, or for an unknown option.
    pub fn read(known: &[(&'static str, u64)], words: &[String]) -> io::Result<Self> {
        let mut options = known.to_vec();
        for (place, word) in words.iter().enumerate() {
            let (slot, number) = match word.split_once('=') {
                Some((name, number)) => (options.iter_mut().find(|(known, _)| *known == name), number),
                None => (options.get_mut(place), word.as_str()),
            };
            let (Some(slot), Ok(number)) = (slot, number.parse()) else {
                let names: Vec<_> = known.iter().map(|(name, _)| format!("{name}=NUMBER")).collect();
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{word}` is none of {}", names.join(", "))));
            };
            slot.1 = number;
        }
        Ok(Self(options))
    }

    /// The value of a known option.
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
    }
}
