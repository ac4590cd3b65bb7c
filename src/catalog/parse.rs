//! Text to written form. Reports every fault of syntax, key and type in a file, not just the first.
//!
//! The parser continues after a syntax fault by itself. Deserialising stops at a wrong type or an
//! unknown key, so the entry at fault is cut out and the rest is tried again.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::fault::{Fault, Source};

/// Beyond this many faults in one file, further ones would not help the author.
const MAX_FAULTS: usize = 50;

/// The readable part of a file.
pub(super) struct Read<T> {
    /// `None` if nothing could be read.
    pub written: Option<T>,
    /// Nothing was cut out, so an absent field was really not written.
    pub whole: bool,
}

/// Reads a file as a `T`, noting its faults.
pub(super) fn read<T: DeserializeOwned>(source: &Source, faults: &mut Vec<Fault>) -> Read<T> {
    let (table, syntax) = DeTable::parse_recoverable(&source.text);
    if !syntax.is_empty() {
        faults.extend(syntax.iter().take(MAX_FAULTS).map(|error| note(source, error)));
        // Values that the parser made up to continue would be reported as further faults.
        return Read { written: None, whole: false };
    }
    // Most files are good, and copying a large file is expensive.
    if let Ok(written) = T::deserialize(Deserializer::from(table)) {
        return Read { written: Some(written), whole: true };
    }
    let (mut table, _) = DeTable::parse_recoverable(&source.text);
    let mut whole = true;
    for _ in 0..MAX_FAULTS {
        match T::deserialize(Deserializer::from(table.clone())) {
            Ok(written) => return Read { written: Some(written), whole },
            Err(error) => {
                faults.push(note(source, &error));
                whole = false;
                if !error.span().is_some_and(|span| cut(table.get_mut(), &span)) {
                    break;
                }
            }
        }
    }
    Read { written: None, whole }
}

fn note(source: &Source, error: &toml::de::Error) -> Fault {
    // The parser's messages have several lines where there are many alternatives.
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join("; ");
    let message = message.replace("expected i64", "expected a whole number").replace("expected f64", "expected a number");
    source.fault(error.span().unwrap_or(0..0), message)
}

/// Removes the innermost entry whose key or value is at `span`.
fn cut(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    if table.iter_mut().any(|(_, value)| cut_within(value.get_mut(), span)) {
        return true;
    }
    let found = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span).map(|(key, _)| key.clone());
    found.is_some_and(|key| table.remove(&key).is_some())
}

fn cut_within(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => cut(table, span),
        DeValue::Array(array) => {
            if array.iter_mut().any(|item| cut_within(item.get_mut(), span)) {
                return true;
            }
            let kept: Vec<_> = array.iter().filter(|item| item.span() != *span).cloned().collect();
            let found = kept.len() != array.len();
            *array = kept.into_iter().collect();
            found
        }
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{ModelFile, ProviderFile};
    use super::*;

    fn report<T: DeserializeOwned>(text: &str) -> String {
        let source = Source { file: "a.toml".into(), text: text.into() };
        let mut faults = Vec::new();
        read::<T>(&source, &mut faults);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_unknown_key_and_wrong_type_is_reported_at_once() {
        let text = "schema = \"one\"\nid = 7\ncolour = 'red'\nbase_url = 'http://a'\n[timeouts]\nconnect = 10\nlast_byte = '1s'\n[models]\n'a b' = { latency = 3, weight = 1 }\n";
        insta::assert_snapshot!(report::<ProviderFile>(text));
    }

    #[test]
    fn faults_inside_arrays_are_reported_too() {
        let text = "[[model]]\nid = 1\nendpoints = ['/v1/responses', 4, true]\n[[model.offering]]\nproviders = 'x'\n[[model.offering]]\nprice = [{ input = 2.5, source = '' }]\n[[model]]\nid = []\n";
        insta::assert_snapshot!(report::<ModelFile>(text));
    }

    #[test]
    fn every_syntax_fault_is_reported_at_once() {
        insta::assert_snapshot!(report::<ModelFile>("a = \nb = 'x\n[[model]\nid = 1\nid = 2\n"));
    }
}
