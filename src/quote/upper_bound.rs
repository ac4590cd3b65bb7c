//! The most that a row may cost, for batches that must be covered before they run: every byte of
//! the body counts as a token, and the output counts in full up to its limit (Phaseo's rule,
//! `utf8_input_upper_bound_v1`).

use rust_decimal::Decimal;

use super::Output;
use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_down, micros_up};
use crate::domain::usage::Usage;

/// Tokens added for what surrounds a body.
const FRAME: u64 = 16;
/// The output tokens of an answer where neither the row nor its lane states a limit: more than most
/// models write.
const ASSUMED_MOST: u64 = 128 << 10;
/// The margin added to the bound of all rows, in percent.
const MARGIN: i64 = 10;

/// Whether a row or its lane, which writes `most_output` tokens at most, limits the row's output.
pub fn is_bounded(output: Output, most_output: Option<u64>) -> bool {
    output.tokens == 0 || output.limit.or(most_output).is_some()
}

/// The most that a row reads and writes whose body has so many bytes and names or holds files of
/// `media` tokens.
pub fn of_row(body_bytes: usize, media: u64, output: Output, most_output: Option<u64>) -> Usage {
    let limit = output.limit.or(most_output).unwrap_or(ASSUMED_MOST);
    let output_tokens = if output.tokens == 0 { 0 } else { limit.saturating_mul(output.answers) };
    let input_tokens = (body_bytes as u64).saturating_add(FRAME).saturating_add(media);
    Usage { input_tokens, output_tokens, ..Usage::default() }
}

/// The cost of rows at their bounds, with the margin.
pub fn with_margin(cost: Usd) -> Usd {
    Usd(cost.0.saturating_mul(Decimal::new(100 + MARGIN, 2)))
}

/// The amount to reserve for a batch that may cost so much, in whole micro-dollars: no more than its
/// client allows.
pub fn within(reserve: Usd, allowed: Option<Usd>) -> Usd {
    allowed.map_or(reserve, |allowed| reserve.min(micros_down(allowed)))
}

/// Why a batch that may cost `allowed` cannot run any of its rows; `least` is what the cheapest may
/// cost, the fee included.
pub fn nothing_fits(least: Usd, allowed: Usd) -> String {
    let least = micros_up(least);
    format!("a single item may cost {least} USD, more than {allowed} USD for all; a smaller limit of its output makes it cheaper")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_bounded_by_its_bytes_and_its_limit_or_that_of_its_lane() {
        let of = |output, most| {
            let usage = of_row(80, 4, output, most);
            is_bounded(output, most).then_some((usage.input_tokens, usage.output_tokens))
        };
        let asks = |limit| Output { tokens: 256, answers: 2, limit };
        assert_eq!(of(asks(Some(10)), Some(4)), Some((100, 20)));
        assert_eq!(of(asks(None), Some(4)), Some((100, 8)));
        assert_eq!(of(asks(None), None), None);
        assert_eq!(of_row(80, 4, asks(None), None).output_tokens, 2 * ASSUMED_MOST);
        assert_eq!(of(Output::NOTHING, None), Some((100, 0)), "an embedding writes nothing");
        assert_eq!(with_margin(Usd(Decimal::TEN)).to_string(), "11");
    }
}
