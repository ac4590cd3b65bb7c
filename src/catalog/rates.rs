//! Price lists: what an offering charges, for which meter, under which plan, from when until when.
//!
//! A list holds more than the daemon can charge for. Costs are computed from [`Rates::sheet`],
//! which is a part of it; the views show all of it.

use std::collections::BTreeMap;

use jiff::civil::Date;
use rust_decimal::Decimal;

use super::vocabulary::Plan;
use crate::catalog::evidence::Evidence;
use crate::domain::money::PriceSheet;

/// A thing that is charged for. The order is that in which prices are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meter {
    Input,
    CachedInput,
    CacheWrite,
    CacheWrite1h,
    Output,
    ImageInput,
    ImageOutput,
    AudioInput,
    AudioOutput,
    VideoInput,
    Request,
    Image,
    VideoSecond,
    AudioSecond,
    Characters,
    Page,
    WebSearch,
}

impl Meter {
    /// The word for the meter in a seed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite1h => "cache_write_1h",
            Self::Output => "output",
            Self::ImageInput => "image_input",
            Self::ImageOutput => "image_output",
            Self::AudioInput => "audio_input",
            Self::AudioOutput => "audio_output",
            Self::VideoInput => "video_input",
            Self::Request => "request",
            Self::Image => "image",
            Self::VideoSecond => "video_second",
            Self::AudioSecond => "audio_second",
            Self::Characters => "characters",
            Self::Page => "page",
            Self::WebSearch => "web_search",
        }
    }

    /// What is counted, and how many units a price is for.
    pub const fn unit(self) -> (&'static str, u32) {
        match self {
            Self::Input
            | Self::CachedInput
            | Self::CacheWrite
            | Self::CacheWrite1h
            | Self::Output
            | Self::ImageInput
            | Self::ImageOutput
            | Self::AudioInput
            | Self::AudioOutput
            | Self::VideoInput => ("token", 1_000_000),
            Self::Request => ("request", 1),
            Self::Image => ("image", 1),
            Self::VideoSecond | Self::AudioSecond => ("second", 1),
            Self::Characters => ("character", 1_000_000),
            Self::Page => ("page", 1_000),
            Self::WebSearch => ("request", 1_000),
        }
    }
}

/// One price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub plan: Plan,
    /// The first day on which the list is in force.
    pub from: Option<Date>,
    /// The day from which the list is no longer in force.
    pub until: Option<Date>,
    /// US dollars per unit of the meter; at least one.
    pub amounts: BTreeMap<Meter, Decimal>,
    /// Charges that the numbers leave out.
    pub note: Option<String>,
    pub evidence: Evidence,
}

impl Rate {
    /// Whether the list is in force on that day.
    pub fn holds(&self, day: Date) -> bool {
        self.from.is_none_or(|from| from <= day) && self.until.is_none_or(|until| day < until)
    }

    /// Whether both lists are in force on any one day.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let before = |until: Option<Date>, from: Option<Date>| until.zip(from).is_some_and(|(until, from)| until <= from);
        self.plan == other.plan && !before(self.until, other.from) && !before(other.until, self.from)
    }
}

/// All price lists of an offering. No two lists of a plan are in force on the same day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates(Vec<Rate>);

impl Rates {
    /// Lists that do not overlap, in the order of the file.
    pub(super) fn new(rates: Vec<Rate>) -> Self {
        Self(rates)
    }

    /// Every list, past and future ones included.
    pub fn all(&self) -> &[Rate] {
        &self.0
    }

    /// The list that is in force on that day.
    pub fn on(&self, day: Date, plan: Plan) -> Option<&Rate> {
        self.0.iter().find(|rate| rate.plan == plan && rate.holds(day))
    }

    /// The prices of a row that is dispatched by itself on that day.
    pub fn sheet(&self, day: Date) -> PriceSheet {
        let Some(rate) = self.on(day, Plan::Standard) else { return PriceSheet::default() };
        let amount = |meter| rate.amounts.get(&meter).copied();
        PriceSheet {
            input: amount(Meter::Input),
            cached_input: amount(Meter::CachedInput),
            // Usage has one number for all output. Where a model only writes images, that number is
            // their tokens.
            output: amount(Meter::Output).or(amount(Meter::ImageOutput)).or(amount(Meter::AudioOutput)),
            request: amount(Meter::Request),
            image: amount(Meter::Image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn rate(from: Option<Date>, until: Option<Date>) -> Rate {
        let evidence = Evidence { source: "https://prices.example".into(), verified_at: date(2026, 1, 1) };
        Rate { plan: Plan::Standard, from, until, amounts: BTreeMap::new(), note: None, evidence }
    }

    #[test]
    fn a_price_holds_from_its_first_day_until_the_day_before_its_end() {
        let (june, july) = (date(2026, 6, 1), date(2026, 7, 1));
        let rates = Rates::new(vec![rate(None, Some(june)), rate(Some(june), Some(july)), rate(Some(july), None)]);
        let place = |day| rates.all().iter().position(|rate| Some(rate) == rates.on(day, Plan::Standard));
        let days = [date(2026, 5, 31), june, date(2026, 6, 30), july].map(place);
        assert_eq!(days, [Some(0), Some(1), Some(1), Some(2)]);
        assert_eq!(rates.on(june, Plan::Batch), None);
        let overlaps = |a: usize, b: usize| rates.all()[a].overlaps(&rates.all()[b]);
        assert!(!overlaps(0, 1) && !overlaps(1, 2) && !overlaps(2, 0) && overlaps(1, 1));
        assert!(rate(None, None).overlaps(&rate(Some(july), None)));
    }
}
