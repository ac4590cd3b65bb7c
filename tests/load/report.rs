//! The form of the figures: the work that was done, then a line for each measurement.

use std::fmt;

/// The target on two cores that the daemon shares with everything else.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// A figure for comparison only.
    None,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "   (target: at least {bound})"),
            Self::AtMost(bound) => write!(f, "   (target: at most {bound})"),
            Self::None => Ok(()),
        }
    }
}

/// The figures of one scenario.
pub struct Report(String);

impl Report {
    pub fn new(what: impl fmt::Display) -> Self {
        Self(format!("{what}\n"))
    }

    /// Adds a figure of ours beside its ceiling, and the ratio of the two.
    pub fn compare(&mut self, label: &str, unit: &str, ceiling: f64, ours: f64, target: Target) {
        let digits = if ceiling < 100.0 { 3 } else { 0 };
        self.line(
            label,
            format_args!("ceiling {ceiling:.digits$} {unit}, batchd {ours:.digits$} {unit}, ratio {:.3}{target}", ours / ceiling),
        );
    }

    /// Adds a figure that stands for itself.
    pub fn figure(&mut self, label: &str, figure: impl fmt::Display, target: Target) {
        self.line(label, format_args!("{figure}{target}"));
    }

    pub fn line(&mut self, label: &str, text: impl fmt::Display) {
        self.0 += &format!("  {label:<22} {text}\n");
    }
}

impl Report {
    /// Adds the figures of another report.
    pub fn append(&mut self, other: &Self) {
        self.0 += &other.0;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The median.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
