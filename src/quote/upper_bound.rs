//! The most that a row may cost, for batches that must be covered before they run: every byte of
//! the body counts as a token, and the output counts in full up to its limit (Phaseo's rule,
//! `utf8_input_upper_bound_v1`).

use rust_decimal::Decimal;

use super::Output;
use crate::domain::money::Usd;
use crate::domain::usage::Usage;

/// Tokens added for what surrounds a body.
const FRAME: u64 = 16;
/// The margin added to the bound of all rows, in percent.
const MARGIN: i64 = 10;

/// The most that a row with this many bytes of body reads and writes; `None` if its output has no
/// bound, because neither the row nor its lane states a limit.
pub fn of_row(body_bytes: usize, output: Output, most_output: Option<u64>) -> Option<Usage> {
    let written = match (output.tokens, output.limit.or(most_output)) {
        (0, _) => 0,
        (_, Some(limit)) => limit.saturating_mul(output.answers),
        (_, None) => return None,
    };
    Some(Usage { input_tokens: (body_bytes as u64).saturating_add(FRAME), output_tokens: written, ..Usage::default() })
}

/// The cost of rows at their bounds, with the margin.
pub fn with_margin(cost: Usd) -> Usd {
    Usd(cost.0.saturating_mul(Decimal::new(100 + MARGIN, 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_bounded_by_its_bytes_and_its_limit_or_that_of_its_lane() {
        let of = |output, most| of_row(84, output, most).map(|usage| (usage.input_tokens, usage.output_tokens));
        let asks = |limit| Output { tokens: 256, answers: 2, limit };
        assert_eq!(of(asks(Some(10)), Some(4)), Some((100, 20)));
        assert_eq!(of(asks(None), Some(4)), Some((100, 8)));
        assert_eq!(of(asks(None), None), None);
        assert_eq!(of(Output::NOTHING, None), Some((100, 0)), "an embedding writes nothing");
        assert_eq!(with_margin(Usd(Decimal::TEN)).to_string(), "11");
    }
}
