//! The check of one file: its place, and how fields are read and faults are noted.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::Date;
use rust_decimal::Decimal;
use toml::Spanned;
use toml::value::Datetime;

use super::super::fault::{Fault, Source};
use super::super::schema::{Field, ListField};
use crate::catalog::evidence::Evidence;

/// The only version of the seed format.
const SCHEMA: i64 = 1;

/// One file under check. Methods return `None` after noting a fault, or for an absent field.
pub(super) struct ValidateContext<'a> {
    pub source: &'a Source,
    /// Nothing was cut out of the file, so an absent field is a fault of its own.
    pub whole: bool,
    pub faults: &'a mut Vec<Fault>,
}

impl ValidateContext<'_> {
    pub fn fault(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.faults.push(self.source.fault(span, message));
    }

    /// Checks `schema = 1`.
    pub fn schema(&mut self, field: &Field<i64>) {
        self.required(field, 0..0, "schema", "the version of the seed format, 1");
        self.parse(field, "schema", |version| if *version == SCHEMA { Ok(()) } else { Err("must be 1") });
    }

    /// Notes a fault at `within` if the field is absent. `meaning` describes its expected content.
    pub fn required<T>(&mut self, field: &Field<T>, within: Range<usize>, name: &str, meaning: &str) {
        if field.is_none() && self.whole {
            self.fault(within, format!("`{name}` is missing; it must be {meaning}"));
        }
    }

    /// Notes a fault if the field is present.
    pub fn foreign<T>(&mut self, field: &Field<T>, name: &str, kind: &str) {
        if let Some(written) = field.as_ref() {
            self.fault(written.span(), format!("`{name}` has no meaning for a provider of kind `{kind}`; leave it out"));
        }
    }

    /// Reads the field with `parse`, whose error text follows "it".
    pub fn parse<T: fmt::Debug, R, E: fmt::Display>(
        &mut self,
        field: &Field<T>,
        name: &str,
        parse: impl FnOnce(&T) -> Result<R, E>,
    ) -> Option<R> {
        self.parse_value(field.as_ref()?, name, parse)
    }

    /// Like [`Self::parse`], for a value that is not a field.
    pub fn parse_value<T: fmt::Debug, R, E: fmt::Display>(
        &mut self,
        written: &Spanned<T>,
        name: &str,
        parse: impl FnOnce(&T) -> Result<R, E>,
    ) -> Option<R> {
        let value = written.get_ref();
        parse(value).map_err(|rule| self.fault(written.span(), format!("`{name}` is {value:?}; it {rule}"))).ok()
    }

    /// Like [`Self::parse`], for a field that an author may put a key into by mistake: the report,
    /// which goes to the log, does not repeat the value.
    pub fn parse_secret<R, E: fmt::Display>(
        &mut self,
        field: &Field<String>,
        name: &str,
        parse: impl FnOnce(&str) -> Result<R, E>,
    ) -> Option<R> {
        let written = field.as_ref()?;
        parse(written.get_ref()).map_err(|rule| self.fault(written.span(), format!("`{name}` {rule}"))).ok()
    }

    /// A one-line text for people.
    pub fn text(&mut self, field: &Field<String>, name: &str) -> Option<String> {
        self.parse(field, name, |text| match text {
            blank if blank.trim().is_empty() => Err("must not be blank"),
            text if text.chars().any(char::is_control) => Err("must be one line without control characters"),
            text => Ok(text.clone()),
        })
    }

    /// A whole number in `range`.
    pub fn number(&mut self, field: &Field<i64>, name: &str, range: std::ops::RangeInclusive<i64>) -> Option<u64> {
        self.parse(field, name, |number| match u64::try_from(*number) {
            Ok(whole) if range.contains(number) => Ok(whole),
            Ok(_) | Err(_) => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
        })
    }

    /// A duration such as `10s`, at least `least`.
    pub fn duration(&mut self, field: &Field<String>, name: &str, least: Duration) -> Option<Duration> {
        self.parse(field, name, |text| {
            let length = text.parse::<SignedDuration>().ok().and_then(|signed| Duration::try_from(signed).ok());
            match length {
                Some(length) if (least..=LONGEST).contains(&length) => Ok(length),
                Some(_) | None => {
                    let least = if least.is_zero() { "0s" } else { "1ms" };
                    Err(format!("must be a duration from `{least}` to `24h`, such as `120ms`, `10s` or `5m`"))
                }
            }
        })
    }

    /// A word from a fixed list; `parse` and `choices` belong to its vocabulary.
    pub fn word<R>(&mut self, field: &Field<String>, name: &str, parse: fn(&str) -> Option<R>, choices: fn() -> String) -> Option<R> {
        self.parse(field, name, |text| parse(text).ok_or_else(|| format!("must be one of {}", choices())))
    }

    /// A list without repetitions, each item read with `parse`. `None` if the list was not written.
    pub fn list<R: PartialEq, E: fmt::Display>(
        &mut self,
        field: &ListField<String>,
        name: &str,
        parse: impl Fn(&str) -> Result<R, E>,
    ) -> Option<Vec<R>> {
        let mut items = Vec::new();
        for written in field.as_ref()?.get_ref() {
            match self.parse_value(written, name, |text| parse(text)) {
                Some(item) if items.contains(&item) => self.fault(written.span(), format!("`{}` is listed twice", written.get_ref())),
                Some(item) => items.push(item),
                None => {}
            }
        }
        Some(items)
    }

    /// A list of words of one vocabulary.
    pub fn words<R: PartialEq>(
        &mut self,
        field: &ListField<String>,
        name: &str,
        parse: fn(&str) -> Option<R>,
        choices: fn() -> String,
    ) -> Option<Vec<R>> {
        self.list(field, name, |text| parse(text).ok_or_else(|| format!("must be one of {}", choices())))
    }

    /// `true` or `false`.
    pub fn flag(&self, field: &Field<bool>) -> Option<bool> {
        field.as_ref().map(|written| *written.get_ref())
    }

    /// The URL of a page.
    pub fn page(&mut self, field: &Field<String>, name: &str) -> Option<String> {
        self.parse(field, name, |url| match url.parse::<http::Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(url.clone()),
            Ok(_) | Err(_) => Err("must be an absolute `http` or `https` URL"),
        })
    }

    /// The source of facts: both fields or neither.
    pub fn evidence(&mut self, source: &Field<String>, verified_at: &Field<Datetime>, place: &str) -> Option<Evidence> {
        let (has_source, has_day) = (source.as_ref().map(Spanned::span), verified_at.as_ref().map(Spanned::span));
        match (has_source, has_day) {
            (Some(span), None) => {
                self.required(verified_at, span, &format!("{place}verified_at"), "the day the fact was last checked, such as 2025-08-07")
            }
            (None, Some(span)) => self.required(source, span, &format!("{place}source"), "the URL where this is published"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let source = self.page(source, &format!("{place}source"));
        let verified_at = self.date(verified_at, &format!("{place}verified_at"));
        source.zip(verified_at).map(|(source, verified_at)| Evidence { source, verified_at })
    }

    /// A decimal amount of US dollars.
    pub fn price(&mut self, field: &Field<String>, name: &str) -> Option<Decimal> {
        self.parse(field, name, |text| parse_price(text))
    }

    /// A TOML date without a time.
    pub fn date(&mut self, field: &Field<Datetime>, name: &str) -> Option<Date> {
        let written = field.as_ref()?;
        let date = plain_date(written.get_ref());
        if date.is_none() {
            self.fault(written.span(), format!("`{name}` is {}; it must be a date such as 2025-08-07, without quotes", written.get_ref()));
        }
        date
    }
}

const LONGEST: Duration = Duration::from_secs(86_400);

fn parse_price(text: &str) -> Result<Decimal, String> {
    const MAX_COUNT: u32 = 1_000_000;
    if text.starts_with('-') {
        return Err("must not be negative".into());
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let digits = plain && !text.is_empty() && !text.starts_with('.') && !text.ends_with('.');
    match Decimal::from_str_exact(text) {
        Ok(price) if digits && price <= Decimal::from(MAX_COUNT) => Ok(price.normalize()),
        Ok(_) | Err(_) => Err(format!("must be a decimal amount of US dollars from 0 to {MAX_COUNT}, such as \"0.15\"")),
    }
}

fn plain_date(datetime: &Datetime) -> Option<Date> {
    let date = datetime.date.filter(|_| datetime.time.is_none() && datetime.offset.is_none())?;
    Date::new(i16::try_from(date.year).ok()?, i8::try_from(date.month).ok()?, i8::try_from(date.day).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_a_price_or_a_fault(text in "[-+0-9.e_ ]{0,40}") {
            if let Ok(price) = parse_price(&text) {
                prop_assert!(price >= Decimal::ZERO);
            }
        }

        #[test]
        fn a_price_is_exactly_what_was_written(units in 0u32..=1_000_000, scale in 0u32..=12) {
            let price = Decimal::new(i64::from(units), scale);
            prop_assert_eq!(parse_price(&price.to_string()), Ok(price));
        }
    }
}
