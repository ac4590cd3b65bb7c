//! Operator holds on lanes: which lanes are held, and how.

use std::fmt;
use std::str::FromStr;

use crate::domain::time::Timestamp;

/// One lane, or all lanes of a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneSelector {
    /// The provider's id; it has no slash.
    pub provider: String,
    /// The provider's name for the model; `None` for all lanes of the provider.
    pub upstream: Option<String>,
}

impl LaneSelector {
    /// Whether the selector covers the lane of this provider's model.
    pub fn covers(&self, provider: &str, upstream: Option<&str>) -> bool {
        self.provider == provider && self.upstream.as_deref().is_none_or(|own| Some(own) == upstream)
    }

    /// Whether a lane can exist that both selectors cover.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(&other.provider, other.upstream.as_deref()) || other.covers(&self.provider, self.upstream.as_deref())
    }
}

impl fmt::Display for LaneSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.provider)?;
        self.upstream.as_ref().map_or(Ok(()), |upstream| write!(f, "/{upstream}"))
    }
}

/// A text that names no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a provider's id, or a provider's id, a slash and its name for a model")]
pub struct NoLane;

impl FromStr for LaneSelector {
    type Err = NoLane;

    /// `provider` or `provider/upstream`; the provider's name for a model may have slashes itself.
    fn from_str(text: &str) -> Result<Self, NoLane> {
        let (provider, upstream) = match text.split_once('/') {
            Some((provider, upstream)) => (provider, Some(upstream)),
            None => (text, None),
        };
        if provider.is_empty() || upstream == Some("") {
            return Err(NoLane);
        }
        Ok(Self { provider: provider.to_owned(), upstream: upstream.map(str::to_owned) })
    }
}

/// How an operator holds a lane. Calls in flight go on in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The lane's rows wait until the hold ends.
    Paused,
    /// The lane's rows go to another lane where their batch allows that; otherwise they wait.
    Drained,
}

impl Hold {
    /// The word for the hold on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }
}

/// A hold that an operator has put on lanes. It survives a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneHold {
    pub lane: LaneSelector,
    pub hold: Hold,
    pub since: Timestamp,
}

/// The hold on a lane, if there is one. A hold on the lane itself wins over a hold on all lanes of
/// its provider.
pub fn hold_on(holds: &[LaneHold], provider: &str, upstream: Option<&str>) -> Option<Hold> {
    let covering = holds.iter().filter(|held| held.lane.covers(provider, upstream));
    covering.max_by_key(|held| held.lane.upstream.is_some()).map(|held| held.hold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_and_written_alike() {
        for text in ["groq", "openrouter/meta-llama/llama-3"] {
            assert_eq!(text.parse::<LaneSelector>().unwrap().to_string(), text);
        }
        let overlap = |one: &str, other: &str| one.parse::<LaneSelector>().unwrap().overlaps(&other.parse().unwrap());
        assert!(overlap("p", "p/m") && overlap("p/m", "p") && overlap("p/m", "p/m"));
        assert!(!overlap("p/m", "p/n") && !overlap("p", "q") && !overlap("p/m", "q"));
        for bad in ["", "/m", "p/"] {
            assert_eq!(bad.parse::<LaneSelector>(), Err(NoLane));
        }
    }

    #[test]
    fn the_hold_of_a_lane_wins_over_that_of_its_provider() {
        let held = |lane: &str, hold| LaneHold { lane: lane.parse().unwrap(), hold, since: Timestamp::UNIX_EPOCH };
        let holds = [held("p/m", Hold::Drained), held("p", Hold::Paused)];
        assert_eq!(hold_on(&holds, "p", Some("m")), Some(Hold::Drained));
        assert_eq!(hold_on(&holds, "p", Some("n")), Some(Hold::Paused));
        assert_eq!(hold_on(&holds, "p", None), Some(Hold::Paused));
        assert_eq!(hold_on(&holds, "q", Some("m")), None);
    }
}
