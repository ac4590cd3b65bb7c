//! `docs/settings.md`, rendered from the list of settings.

use std::fmt::Write as _;

use super::settings::{Setting, TABLE};

const PREFACE: &str = "\
# Settings

Each setting can be written in four places. The first one that has it wins:

1. the command line: `--max-rows 5000`
2. the environment: `BATCHD_MAX_ROWS=5000`; an empty variable counts as not set
3. the configuration file: `max_rows = 5000`
4. the default

The configuration file is TOML, named by `--config FILE` or by `BATCHD_CONFIG`. There is none unless
one is named, and one that is named must exist. A key that is not listed here is an error. Relative
paths start at the working directory.

Sizes are plain bytes or have a unit: `500MB`, `16MiB`, `1GiB`. Durations always have one: `500ms`,
`30s`, `5m`, `24h`, `7d`. In the file, both stand in quotes.

Secrets come from the environment, from a file that a setting names, or from a systemd credential;
never from the command line or the configuration file.

`batchd config check` reports every fault at once. `batchd config show` prints what holds and why, in
a form that can be saved as a configuration file.
";

/// The manual page of all settings, in Markdown.
pub fn manual() -> String {
    let mut page = PREFACE.to_owned();
    for setting in TABLE.iter() {
        page.push('\n');
        page.push_str(&section(setting));
    }
    page
}

fn section(setting: &Setting) -> String {
    let Setting { key, doc, placeholder, default, range: _ } = setting;
    let mut text = format!("## `{key}`\n\n{doc}\n\n");
    let mut line = |name: &str, value: &str| _ = writeln!(text, "- {name}: {value}");
    if let (Some(flag), Some(placeholder)) = (setting.flag(), placeholder) {
        line("Command line", &format!("`{flag} {placeholder}`"));
    }
    line("Environment", &format!("`{}`", setting.env()));
    if placeholder.is_some() {
        line("File", &format!("`{key}`"));
        line("Default", &default.as_deref().map_or_else(|| "none".to_owned(), code));
    }
    if let Some((low, high)) = &setting.range {
        line("Legal", &format!("{} to {}", code(low), code(high)));
    }
    text
}

/// Values as code; a default in words stays as it is.
fn code(text: &str) -> String {
    if text.contains(' ') { text.to_owned() } else { format!("`{text}`") }
}
