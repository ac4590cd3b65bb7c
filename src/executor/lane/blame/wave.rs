//! Calls that went out together and came back together: so many were answered at a time, although
//! each found the others not yet sent, or already back.

use tokio::time::Instant;

/// Calls are together whose beginnings and ends differ by no more than this part of their time.
const APART: u32 = 8;

/// The latest calls that were answered together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wave {
    /// When the first of them went out and came back.
    first: Option<(Instant, Instant)>,
    calls: u32,
}

impl Wave {
    /// Counts a call that was answered. Returns how many were answered together with it, itself
    /// included.
    pub fn count(&mut self, now: Instant, sent: Instant) -> u32 {
        let apart = now.saturating_duration_since(sent) / APART;
        let is_near = |a: Instant, b: Instant| a.max(b) - a.min(b) <= apart;
        self.calls = match self.first {
            Some((begun, ended)) if is_near(begun, sent) && is_near(ended, now) => self.calls.saturating_add(1),
            _ => {
                self.first = Some((sent, now));
                1
            }
        };
        self.calls
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn calls_of_one_wave_count_together_and_others_do_not() {
        let (start, mut wave) = (Instant::now(), Wave::default());
        let counts = [0, 5, 10].map(|late| wave.count(start + MILLI * (100 + late), start + MILLI * late));
        assert_eq!(counts, [1, 2, 3]);
        assert_eq!(wave.count(start + MILLI * 110, start + MILLI * 60), 1, "went out later");
        assert_eq!(wave.count(start + MILLI * 220, start + MILLI * 110), 1, "the next wave");
        assert_eq!(wave.count(start + MILLI * 221, start + MILLI * 111), 2);
    }
}
