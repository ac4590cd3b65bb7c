//! Logs: one subscriber for the process, on standard error. Panics are logged like every other
//! event.
//!
//! Under systemd the journal stamps each line itself, so text lines carry no time there. Metrics
//! are not here; `http` serves them from the parts that keep the counts.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::config::{LogFormat, Settings, Strings};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`log` is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("cannot install the logger: {0}")]
    Install(#[from] TryInitError),
}

/// Installs the logger and the panic hook, once per process, before anything else is started.
///
/// # Errors
/// When the filter is malformed or there already is a logger.
///
/// A separate thread writes the lines: a stalled reader of the log costs lines, not the daemon. A
/// caller that holds the returned guard until the end loses no line that there was room for.
pub fn init(settings: &Settings, env: &dyn Strings) -> Result<WorkerGuard, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let look = Look::of(settings.log_format, std::io::stderr().is_terminal(), is_journal(env), env);
    let subscriber = tracing_subscriber::registry().with(filter);
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match look {
        Look::Json => subscriber.with(layer.json().flatten_event(true)).try_init()?,
        Look::Text { colours, times: true } => subscriber.with(layer.with_ansi(colours)).try_init()?,
        Look::Text { colours, times: false } => subscriber.with(layer.with_ansi(colours).without_time()).try_init()?,
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Json,
    Text { colours: bool, times: bool },
}

impl Look {
    fn of(format: LogFormat, terminal: bool, journal: bool, env: &dyn Strings) -> Self {
        let plain = matches!(env.filled("NO_COLOR"), Ok(Some(_)));
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Text { colours: false, times: !journal },
            LogFormat::Auto => Self::Text { colours: terminal && !plain, times: !journal },
        }
    }
}

/// `true` if standard error goes to the journal. systemd names the device and inode of its stream,
/// and a child that inherits the variable may have been redirected since.
fn is_journal(env: &dyn Strings) -> bool {
    let Ok(Some(stream)) = env.filled("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = info.location().map(ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = matches!(backtrace.status(), std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name(),
        location,
        backtrace,
        reason = info.payload_as_str().unwrap_or("a panic without a text"),
        "internal fault"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn colours_only_on_a_terminal_and_times_only_outside_the_journal() {
        let none = HashMap::new();
        let of = |format, terminal, journal| Look::of(format, terminal, journal, &none);
        assert_eq!(of(LogFormat::Auto, true, false), Look::Text { colours: true, times: true });
        assert_eq!(of(LogFormat::Auto, false, true), Look::Text { colours: false, times: false });
        assert_eq!(of(LogFormat::Text, true, false), Look::Text { colours: false, times: true });
        assert_eq!(of(LogFormat::Json, true, true), Look::Json);
        let plain = HashMap::from([("NO_COLOR", "1")]);
        assert_eq!(Look::of(LogFormat::Auto, true, false, &plain), Look::Text { colours: false, times: true });
    }

    #[test]
    fn an_inherited_journal_stream_is_not_ours() {
        assert!(!is_journal(&HashMap::from([("JOURNAL_STREAM", "0:0")])));
        assert!(!is_journal(&HashMap::new()));
    }
}
