//! The progress of a batch, for a person who waits: a live bar on a terminal, otherwise a plain
//! line every five seconds that suits a log.
//!
//! Goes to standard error, so that results can be piped. Formatting is pure; only [`Display`] reads
//! a clock and writes. A failure to write the display is no reason to give up the batch.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::domain::money::Usd;

/// The numbers to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgressLine {
    /// Rows of the batch; 0 while it is not known.
    pub total: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Input and output tokens of the finished rows.
    pub tokens: u64,
    /// US dollars spent on the finished rows.
    pub cost: Usd,
    /// The answers are made up, and the cost with them.
    pub simulated: bool,
}

impl ProgressLine {
    fn done(&self) -> u64 {
        self.succeeded.saturating_add(self.failed)
    }

    fn price(&self) -> String {
        if self.simulated { format!("SIMULATED {}", money(self.cost)) } else { money(self.cost) }
    }
}

/// How often a plain line is printed.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Shows progress until it is finished.
pub struct Display {
    out: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
    started: Instant,
    printed: Option<Instant>,
    pace: Pace,
    last: ProgressLine,
    /// Why rows wait, if they do.
    note: Option<String>,
}

impl Display {
    /// Shows progress on standard error: a bar if that is a terminal, plain lines otherwise.
    pub fn stderr() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{bar:24} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self::new(Box::new(std::io::stderr()), bar)
    }

    /// Prints plain lines into `out`.
    pub fn plain(out: Box<dyn Write + Send>) -> Self {
        Self::new(out, None)
    }

    fn new(out: Box<dyn Write + Send>, bar: Option<ProgressBar>) -> Self {
        Self { out, bar, started: Instant::now(), printed: None, pace: Pace::default(), last: ProgressLine::default(), note: None }
    }

    /// Sets what is shown beside the numbers: why rows wait.
    pub fn note(&mut self, note: Option<String>) {
        self.note = note;
    }

    /// Whether nothing has been shown yet.
    pub const fn is_new(&self) -> bool {
        self.last.total == 0
    }

    /// Shows `line`. May be called at any rate.
    pub fn update(&mut self, line: ProgressLine) {
        let now = Instant::now();
        self.last = line;
        self.pace.note(now - self.started, line.done());
        let text = || match &self.note {
            Some(note) => format!("{}; waiting: {note}", describe(&line, self.pace.rate())),
            None => describe(&line, self.pace.rate()),
        };
        if let Some(bar) = &self.bar {
            bar.set_length(line.total);
            bar.set_position(line.done());
            bar.set_message(text());
        } else if self.printed.is_none_or(|printed| now - printed >= PLAIN_EVERY) {
            _ = writeln!(self.out, "{}", text());
            self.printed = Some(now);
        }
    }

    /// Prints a message between two lines of progress.
    pub fn say(&mut self, text: &str) {
        let out = &mut self.out;
        // A missing reader is no reason to fail.
        let mut print = || _ = writeln!(out, "{text}");
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bar and prints a last line that sums up.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        _ = writeln!(self.out, "{}", summary(&self.last, self.started.elapsed(), self.pace.first));
    }
}

/// Rows a second over the last half minute, so that the estimate follows a provider that slows
/// down.
#[derive(Debug, Default)]
struct Pace {
    /// Rows that were done before the first look.
    first: u64,
    /// Times since the start, with the rows done by then.
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    const WINDOW: Duration = Duration::from_secs(30);
    /// The least time between two samples that are kept.
    const STEP: Duration = Duration::from_millis(250);

    fn note(&mut self, at: Duration, done: u64) {
        if self.samples.is_empty() {
            self.first = done;
        }
        // The newest sample is replaced until it is a step away from the one before it.
        let crowded = self.samples.len() >= 2 && self.samples.iter().nth_back(1).is_some_and(|(before, _)| at - *before < Self::STEP);
        if crowded {
            self.samples.pop_back();
        }
        self.samples.push_back((at, done));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(second, _)| at - *second >= Self::WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Rows a second; `None` until there is something to measure.
    fn rate(&self) -> Option<f64> {
        let ((from, before), (to, after)) = (self.samples.front()?, self.samples.back()?);
        rate(after.saturating_sub(*before), to.saturating_sub(*from))
    }
}

fn rate(rows: u64, took: Duration) -> Option<f64> {
    (took > Duration::ZERO && rows > 0).then(|| rows as f64 / took.as_secs_f64())
}

/// One line about a running batch; `rate` is in rows a second.
fn describe(line: &ProgressLine, rate: Option<f64>) -> String {
    let ProgressLine { total, succeeded: _, failed, tokens, cost: _, simulated: _ } = *line;
    let done = line.done();
    let mut parts = vec![match total {
        0 => format!("{} rows", grouped(done)),
        _ => format!("{}/{} rows ({}%)", grouped(done), grouped(total), u128::from(done) * 100 / u128::from(total)),
    }];
    parts.extend(rate.map(|rate| format!("{} rows/s", rate_text(rate))));
    if failed > 0 {
        parts.push(format!("{} failed", grouped(failed)));
    }
    parts.push(format!("{} tokens", count(tokens)));
    parts.push(line.price());
    parts.extend(rate.and_then(|rate| eta(total.saturating_sub(done), rate)).map(|eta| format!("ETA {}", span(eta))));
    parts.join(", ")
}

/// The line that sums up a batch after `took`; `first` rows had been done before.
fn summary(line: &ProgressLine, took: Duration, first: u64) -> String {
    let rate = rate(line.done().saturating_sub(first), took).map(|rate| format!(" ({} rows/s)", rate_text(rate))).unwrap_or_default();
    let unfinished = match line.total.saturating_sub(line.done()) {
        0 => String::new(),
        left => format!(", {} not finished", grouped(left)),
    };
    format!(
        "{} succeeded, {} failed{unfinished} in {}{rate}; {} tokens, {}",
        grouped(line.succeeded),
        grouped(line.failed),
        span(took),
        count(line.tokens),
        line.price()
    )
}

fn eta(left: u64, rate: f64) -> Option<Duration> {
    (left > 0).then(|| Duration::try_from_secs_f64((left as f64 / rate).ceil()).ok()).flatten()
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Exact below 10,000, then with a tenth of a thousand, a million or a billion, rounded down.
fn count(number: u64) -> String {
    let (unit, suffix) = match number {
        0..10_000 => return grouped(number),
        10_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        1_000_000_000.. => (1_000_000_000, "G"),
    };
    format!("{}.{}{suffix}", grouped(number / unit), number % unit * 10 / unit)
}

fn rate_text(rate: f64) -> String {
    if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// US dollars: cents from a cent on, two significant digits below.
pub(super) fn money(cost: Usd) -> String {
    let cents = cost.0.round_dp(2);
    if cost.is_zero() || !cents.is_zero() {
        return format!("US${cents:.2}");
    }
    format!("US${}", cost.0.round_sf(2).unwrap_or(cost.0).normalize())
}

/// The two largest units: `850ms`, `12s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        86_400.. => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use rust_decimal::Decimal;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(total: u64, succeeded: u64, failed: u64) -> ProgressLine {
        let cost = Usd(Decimal::from(succeeded) * Decimal::new(125, 7));
        ProgressLine { total, succeeded, failed, tokens: succeeded * 250, cost, simulated: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_gets_a_plain_line_every_five_seconds_and_a_summary() {
        let paper = Paper::default();
        let mut display = Display::plain(Box::new(paper.clone()));
        for step in 0..=60_u64 {
            display.update(line(50_000, step * 200, step / 20));
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        display.update(line(50_000, 49_997, 3));
        display.finish();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn lines_at_every_scale() {
        let big = ProgressLine {
            total: 12_000_000,
            succeeded: 1_234_567,
            failed: 89,
            tokens: 3_456_789_012,
            cost: Usd(Decimal::new(123_456_789, 4)),
            simulated: false,
        };
        let simulated = ProgressLine { simulated: true, ..line(10, 6, 1) };
        let texts = [
            describe(&ProgressLine::default(), None),
            describe(&line(0, 12, 0), Some(0.31)),
            describe(&line(10, 3, 1), Some(2.0)),
            describe(&line(10, 9, 1), Some(2.0)),
            describe(&big, Some(830.4)),
            describe(&big, Some(1.5)),
            summary(&line(10, 9, 1), Duration::from_millis(850), 0),
            summary(&line(10, 6, 1), Duration::from_secs(7_265), 5),
            summary(&big, Duration::from_secs(400_000), 0),
            summary(&ProgressLine::default(), Duration::ZERO, 0),
            describe(&simulated, Some(2.0)),
            summary(&simulated, Duration::from_secs(7), 0),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn small_amounts_of_money_do_not_vanish() {
        for (amount, text) in [(0, "US$0.00"), (1, "US$0.0000001"), (12_345, "US$0.0012"), (99_999, "US$0.01"), (12_345_678, "US$1.23")] {
            assert_eq!(money(Usd(Decimal::new(amount, 7))), text);
        }
    }

    #[test]
    fn the_pace_follows_the_last_half_minute() {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, 1_000);
        assert_eq!(pace.rate(), None);
        for second in 1..=60 {
            pace.note(Duration::from_secs(second), 1_000 + second * 100);
        }
        for second in 61..=120 {
            pace.note(Duration::from_secs(second), 7_000 + (second - 60) * 10);
        }
        assert_eq!(pace.rate(), Some(10.0));
        assert!(pace.samples.len() < 40);
        for milli in 0..10_000 {
            pace.note(Duration::from_millis(120_000 + milli), 7_600);
        }
        assert!(pace.samples.len() < 200, "calls in quick succession are not all kept");
    }
}
