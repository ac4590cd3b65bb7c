//! Directives by which a row requests its own outcome: the string `simulate` in the row's
//! `metadata`, such as `{"metadata": {"simulate": "status=503; times=2"}}`.
//!
//! Directives are separated by `;`. A row takes at most one *disturbance*:
//!
//! | Disturbance | What happens |
//! | --- | --- |
//! | `status=503` | answers with this status (200 to 599); below 300 with the usual body |
//! | `error` | `status=500` |
//! | `rate_limit` | `status=429`, with a `Retry-After` of 50 to 250 ms |
//! | `refuse` | `status=400` |
//! | `cut` | the connection breaks before the answer is complete |
//! | `slow` | takes ten times as long |
//! | `stall` | never answers; the call ends when its time is up |
//! | `invalid_json` | answers 200 with the first part of the body only |
//! | `gzip` | answers 200 with the body compressed, and without the header that says so |
//! | `error_200` | answers 200 with an error in the body |
//! | `quota` | answers 429 `insufficient_quota` |
//! | `wrong_key` | answers 401 `invalid_api_key` |
//! | `loading=30s` | answers 503 at once, until so long after the first row that asked for it of the model |
//! | `full=4` | answers 503 at once while four calls of such rows of the model are in flight |
//!
//! and any of these in addition:
//!
//! | Directive | Meaning |
//! | --- | --- |
//! | `times=2` | only the first two attempts are disturbed. Without it: the first one, if a repetition can help (408, 409, 425, 429, 5xx and every fault of the connection), otherwise all |
//! | `retry_after=2s` | the answer with an error status asks to wait this long |
//! | `latency=250ms` | the call takes exactly this long: a number and `ms`, `s` or `m`, at most `60m` |
//! | `output_tokens=500` | the length of the text, at most 65536 and at most the row's own limit |
//! | `body_bytes=100000` | the body is filled up to this size by a field `padding`, at most 8388608 |
//!
//! A row with directives meets none of the faults that the profile distributes by share. Invalid
//! directives are answered with 400 and an explanation.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::profile::Disturbance;

const MAX_TOKENS: u64 = 65_536;
const MAX_BODY_BYTES: u64 = 8 * 1024 * 1024;
const MAX_WAIT: Duration = Duration::from_secs(3_600);
const LEGAL: &str = "`status=503`, `error`, `rate_limit`, `refuse`, `cut`, `slow`, `stall`, `invalid_json`, `gzip`, \
                     `error_200`, `quota`, `wrong_key`, `loading=30s`, `full=4`, `times=2`, `retry_after=2s`, `latency=250ms`, `output_tokens=500`, `body_bytes=100000`";

/// What a row requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forced {
    /// Replaces the profile's latency.
    pub latency: Option<Duration>,
    disturbance: Option<Disturbance>,
    times: Option<u64>,
    /// How long the answer with an error asks to wait.
    pub retry_after: Option<Duration>,
    /// Tokens of the text.
    pub output_tokens: Option<u64>,
    /// The minimum size of the body.
    pub body_bytes: Option<u64>,
}

impl Forced {
    /// The disturbance of this attempt, counted from 1.
    pub fn disturbance(&self, attempt: u32) -> Option<Disturbance> {
        let disturbance = self.disturbance?;
        let counted = disturbance.passes() && !disturbance.ends_by_itself();
        let times = self.times.unwrap_or(if counted { 1 } else { u64::MAX });
        if u64::from(attempt) > times {
            return None;
        }
        match (disturbance, self.retry_after) {
            (Disturbance::Status { status, .. }, Some(wait)) => Some(Disturbance::Status { status, retry_after: Some(wait) }),
            (_, _) => Some(disturbance),
        }
    }
}

/// Parses the directives. `wait` is the wait that a plain `rate_limit` asks for.
///
/// # Errors
/// A sentence that names the directive and the allowed values.
pub(super) fn parse(text: &str, wait: Duration) -> Result<Forced, String> {
    let mut forced = Forced::default();
    for directive in text.split(';').map(str::trim).filter(|d| !d.is_empty()) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (directive, None),
        };
        read(&mut forced, name, value, wait).map_err(|reason| format!("`{}`: {reason}", shortened(directive)))?;
    }
    let fails = forced.disturbance.is_some_and(Disturbance::is_error);
    if forced.times.is_some() && forced.disturbance.is_none_or(Disturbance::ends_by_itself) {
        Err("`times` counts the attempts that are disturbed, and nothing here disturbs a number of them".into())
    } else if forced.retry_after.is_some() && !fails {
        Err("`retry_after` goes with an answer that has the status of an error".into())
    } else {
        Ok(forced)
    }
}

fn read(forced: &mut Forced, name: &str, value: Option<&str>, wait: Duration) -> Result<(), String> {
    let status = |status| Disturbance::Status { status, retry_after: (status == 429).then_some(wait) };
    match (name, value) {
        ("error", None) => once(&mut forced.disturbance, status(500)),
        ("rate_limit", None) => once(&mut forced.disturbance, status(429)),
        ("refuse", None) => once(&mut forced.disturbance, status(400)),
        ("cut", None) => once(&mut forced.disturbance, Disturbance::Cut),
        ("slow", None) => once(&mut forced.disturbance, Disturbance::Slow),
        ("stall", None) => once(&mut forced.disturbance, Disturbance::Stall),
        ("invalid_json", None) => once(&mut forced.disturbance, Disturbance::InvalidJson),
        ("gzip", None) => once(&mut forced.disturbance, Disturbance::Gzip),
        ("error_200", None) => once(&mut forced.disturbance, Disturbance::ErrorInside),
        ("quota", None) => once(&mut forced.disturbance, Disturbance::Quota),
        ("wrong_key", None) => once(&mut forced.disturbance, Disturbance::WrongKey),
        ("loading", Some(takes)) => once(&mut forced.disturbance, Disturbance::Loading(duration(takes)?)),
        ("full", Some(slots)) => {
            let slots = u32::try_from(number(slots, 1..=1_000_000)?).map_err(|error| error.to_string())?;
            once(&mut forced.disturbance, Disturbance::Full { slots })
        }
        ("status", Some(code)) => {
            let code = u16::try_from(number(code, 200..=599)?).map_err(|error| error.to_string())?;
            once(&mut forced.disturbance, status(code))
        }
        ("times", Some(times)) => once(&mut forced.times, number(times, 1..=1_000_000)?),
        ("retry_after", Some(wait)) => once(&mut forced.retry_after, duration(wait)?),
        ("latency", Some(latency)) => once(&mut forced.latency, duration(latency)?),
        ("output_tokens", Some(tokens)) => once(&mut forced.output_tokens, number(tokens, 1..=MAX_TOKENS)?),
        ("body_bytes", Some(bytes)) => once(&mut forced.body_bytes, number(bytes, 0..=MAX_BODY_BYTES)?),
        (_, _) => Err(format!("no such directive; the legal ones, separated by `;`, are {LEGAL}")),
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("a row takes one disturbance, and each other directive once".into()),
    }
}

fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, unit) = text.split_at(unit);
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * seconds).ok().filter(|wait| *wait <= MAX_WAIT)
    };
    parse().ok_or_else(|| "must be a number and `ms`, `s` or `m`, at most `60m`".into())
}

fn shortened(directive: &str) -> String {
    directive.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAIT: Duration = Duration::from_millis(99);

    fn at(text: &str, attempt: u32) -> Option<Disturbance> {
        parse(text, WAIT).unwrap().disturbance(attempt)
    }

    #[test]
    fn disturbances_and_how_often_they_come() {
        let status = |status, retry_after| Some(Disturbance::Status { status, retry_after });
        let table = [
            ("", [None; 3]),
            (" ; latency=1s ;", [None; 3]),
            ("error", [status(500, None), None, None]),
            ("status=503; times=2; retry_after=1.5s", {
                let failed = status(503, Some(Duration::from_millis(1_500)));
                [failed, failed, None]
            }),
            ("rate_limit", [status(429, Some(WAIT)), None, None]),
            ("retry_after=2s;rate_limit", [status(429, Some(Duration::from_secs(2))), None, None]),
            ("refuse", [status(400, None); 3]),
            ("status = 404 ; times = 1", [status(404, None), None, None]),
            ("status=201", [status(201, None); 3]),
            ("cut;times=3", [Some(Disturbance::Cut); 3]),
            ("slow", [Some(Disturbance::Slow), None, None]),
            ("stall", [Some(Disturbance::Stall), None, None]),
            ("invalid_json", [Some(Disturbance::InvalidJson), None, None]),
            ("gzip", [Some(Disturbance::Gzip), None, None]),
            ("error_200; times=2", [Some(Disturbance::ErrorInside), Some(Disturbance::ErrorInside), None]),
            ("quota; retry_after=1s", [Some(Disturbance::Quota); 3]),
            ("wrong_key", [Some(Disturbance::WrongKey); 3]),
            ("loading=30s", [Some(Disturbance::Loading(Duration::from_secs(30))); 3]),
            ("full=4", [Some(Disturbance::Full { slots: 4 }); 3]),
        ];
        for (text, expected) in table {
            assert_eq!([1, 2, 3].map(|attempt| at(text, attempt)), expected, "{text}");
        }
    }

    #[test]
    fn the_other_directives() {
        let forced = parse("latency=2m;output_tokens=65536;body_bytes=0", WAIT).unwrap();
        assert_eq!((forced.latency, forced.output_tokens, forced.body_bytes), (Some(Duration::from_secs(120)), Some(65_536), Some(0)));
        assert_eq!(parse("latency=250ms", WAIT).unwrap().latency, Some(Duration::from_millis(250)));
    }

    #[test]
    fn directives_without_sense_say_what_is_legal() {
        let texts = [
            "explode",
            "status",
            "status=99",
            "error=1",
            "cut; stall",
            "latency=5",
            "latency=61m",
            "times=2",
            "cut; retry_after=1s",
            "loading=1s; times=2",
            "full=0",
            "quota; wrong_key",
            "error_200; retry_after=1s",
        ];
        let messages = texts.map(|text| parse(text, WAIT).unwrap_err());
        insta::assert_snapshot!(messages.join("\n"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}", attempt: u32) {
            if let Ok(forced) = parse(&text, WAIT) {
                forced.disturbance(attempt);
            }
        }

        #[test]
        fn anything_that_looks_like_a_directive_is_read_without_panic(
            text in "((latency|retry_after|status|times|body_bytes|output_tokens|cut|error)(=[0-9.e+-]{0,25}(ms|s|m|µ)?)?[; ]{0,2}){0,4}",
        ) {
            let forced = parse(&text, WAIT).unwrap_or_default();
            prop_assert!(forced.latency.is_none_or(|l| l <= MAX_WAIT));
            prop_assert!(forced.body_bytes.is_none_or(|b| b <= MAX_BODY_BYTES));
        }
    }
}
