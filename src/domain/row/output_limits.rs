//! The limits that a request states on its output: how long an answer may be, and how many there
//! are. Money depends on them, so one place reads them for all dialects and endpoints.
//!
//! Servers disagree on which of several limits counts, so the largest does here. Not here: what is
//! assumed where no limit is stated.
//!
//! Invariant: nothing that is stated counts as absent. A limit is a positive whole number, or null,
//! which OpenAI's API takes for none, or a fault.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::openai::RowFault;
use crate::domain::batch::problem::ProblemCode;

/// The largest number that every JSON parser reads exactly: 2^53 - 1.
const MOST: u64 = (1 << 53) - 1;
/// Characters of a wrong value that a message repeats.
const SHOWN: usize = 40;

/// A member that limits the output.
struct Limit {
    name: &'static str,
    in_body: &'static str,
    in_input: &'static str,
    what: Counted,
}

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// The tokens of one answer.
    Tokens,
    Answers,
}

macro_rules! limits {
    ($($what:ident $name:literal),* $(,)?) => {
        [$(Limit { name: $name, in_body: concat!("body.", $name), in_input: concat!("input.", $name), what: Counted::$what }),*]
    };
}

/// The limits of OpenAI's APIs and of Anthropic's, and llama.cpp's word for the same. `best_of`
/// counts answers that are written and not returned.
const LIMITS: [Limit; 6] = limits![
    Tokens "max_tokens",
    Tokens "max_completion_tokens",
    Tokens "max_output_tokens",
    Tokens "n_predict",
    Answers "n",
    Answers "best_of",
];

/// The members of a request that are limits, as written, in this order: `max_tokens`,
/// `max_completion_tokens`, `max_output_tokens`, `n_predict`, `n`, `best_of`.
pub type WrittenLimits<'a> = [Option<&'a RawValue>; LIMITS.len()];

/// A struct of members of a request, as written, with those that are limits among them; a member
/// that stands there twice is an error.
macro_rules! with_limits {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$on_member:meta])* $member:ident,)* }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize)]
        struct $name<'a> {
            $($(#[$on_member])* $member: Option<&'a serde_json::value::RawValue>,)*
            #[serde(borrow, default)]
            max_tokens: Option<&'a serde_json::value::RawValue>,
            #[serde(borrow, default)]
            max_completion_tokens: Option<&'a serde_json::value::RawValue>,
            #[serde(borrow, default)]
            max_output_tokens: Option<&'a serde_json::value::RawValue>,
            #[serde(borrow, default)]
            n_predict: Option<&'a serde_json::value::RawValue>,
            #[serde(borrow, default)]
            n: Option<&'a serde_json::value::RawValue>,
            #[serde(borrow, default)]
            best_of: Option<&'a serde_json::value::RawValue>,
        }

        impl<'a> $name<'a> {
            fn limits(&self) -> $crate::domain::row::output_limits::WrittenLimits<'a> {
                [self.max_tokens, self.max_completion_tokens, self.max_output_tokens, self.n_predict, self.n, self.best_of]
            }
        }
    };
}
pub(super) use with_limits;

/// What a request states of its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// The most tokens of one answer: the largest limit that is stated.
    pub tokens: Option<u64>,
    /// Answers, at least one.
    pub answers: u64,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { tokens: None, answers: 1 }
    }
}

/// The member of a row that holds its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Body,
    Input,
}

impl OutputLimits {
    /// Reads the limits of a request.
    ///
    /// # Errors
    /// A fault for each limit that is no positive whole number.
    pub fn read(written: WrittenLimits<'_>, holder: Holder) -> Result<Self, Vec<RowFault>> {
        let written = LIMITS.iter().zip(written).filter_map(|(limit, value)| Some((limit, Cow::Borrowed(value?.get()))));
        Self::collect(written, holder)
    }

    /// Reads the limits of a request that was parsed before.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of(request: &Map<String, Value>, holder: Holder) -> Result<Self, Vec<RowFault>> {
        let written = LIMITS.iter().filter_map(|limit| Some((limit, Cow::Owned(request.get(limit.name)?.to_string()))));
        Self::collect(written, holder)
    }

    fn collect<'a>(written: impl Iterator<Item = (&'static Limit, Cow<'a, str>)>, holder: Holder) -> Result<Self, Vec<RowFault>> {
        let (mut limits, mut faults) = (Self::default(), Vec::new());
        for (limit, text) in written.filter(|(_, text)| text != "null") {
            match (number(&text), limit.what) {
                (Some(stated), Counted::Tokens) => limits.tokens = limits.tokens.max(Some(stated)),
                (Some(stated), Counted::Answers) => limits.answers = limits.answers.max(stated),
                (None, _) => faults.push(limit.fault(&text, holder)),
            }
        }
        if faults.is_empty() { Ok(limits) } else { Err(faults) }
    }
}

impl Limit {
    fn fault(&self, text: &str, holder: Holder) -> RowFault {
        let param = match holder {
            Holder::Body => self.in_body,
            Holder::Input => self.in_input,
        };
        let (shown, more) = match text.char_indices().nth(SHOWN) {
            Some((end, _)) => (&text[..end], "…"),
            None => (text, ""),
        };
        let message = format!("`{param}` must be a positive whole number up to {MOST}, or absent; found {shown}{more}");
        RowFault::new(ProblemCode::InvalidLimit, Some(param), message)
    }
}

/// A positive whole number, also one that is written with a fraction of zero or an exponent.
fn number(text: &str) -> Option<u64> {
    let whole = text.parse::<u64>().ok().or_else(|| {
        let number: f64 = text.parse().ok().filter(|_| !text.starts_with('"'))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "the range is checked")]
        (number.fract() == 0.0 && (1.0..=MOST as f64).contains(&number)).then_some(number as u64)
    });
    whole.filter(|number| (1..=MOST).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(request: &str) -> String {
        let of = OutputLimits::of(&serde_json::from_str(request).unwrap(), Holder::Body);
        match of {
            Ok(OutputLimits { tokens, answers }) => format!("{request}: {answers} of {tokens:?}"),
            Err(faults) => faults.iter().map(|fault| format!("{request}: {}", fault.message)).collect::<Vec<_>>().join("\n"),
        }
    }

    #[test]
    fn the_largest_limit_counts_and_what_is_none_is_a_fault() {
        let told = [
            "{}",
            r#"{"max_tokens":null,"n":null}"#,
            r#"{"max_completion_tokens":1,"max_tokens":128000,"n":2,"best_of":5}"#,
            r#"{"max_output_tokens":1e3,"n_predict":64.0}"#,
            r#"{"max_tokens":9007199254740991}"#,
            r#"{"max_tokens":-1,"n":0}"#,
            r#"{"max_tokens":1e30}"#,
            r#"{"max_tokens":"100","n":"100"}"#,
            r#"{"max_tokens":0.5,"max_completion_tokens":18446744073709551616}"#,
            r#"{"max_output_tokens":[1],"n":true}"#,
        ];
        insta::assert_snapshot!(told.map(read).join("\n"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_stated_counts_as_absent(limit in 0..LIMITS.len(), value in "-?[0-9]{1,20}(\\.[0-9]{1,3})?(e[0-9]{1,3})?|\"[0-9]{1,9}\"|true|\\[\\]") {
            let text = format!(r#"{{"{}":{value}}}"#, LIMITS[limit].name);
            if let Ok(request) = serde_json::from_str::<Map<String, Value>>(&text)
                && let Ok(read) = OutputLimits::of(&request, Holder::Input)
            {
                let stated: f64 = value.parse().unwrap();
                let most = read.tokens.unwrap_or(read.answers);
                prop_assert!(stated >= 1.0 && (most as f64 - stated).abs() < 1.0, "{value} counts as {most}");
            }
        }
    }
}
