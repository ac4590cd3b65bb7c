//! `batchd config show` and `batchd config check`: the effective settings and their origins, before
//! anything is started.
//!
//! The output of `show` is a valid configuration file with the same meaning. Secrets, settings that
//! hold a password and absent settings are comments in it.

use std::io::{self, Write};

use crate::daemon::config::{ConfigError, Effective, Flags, Settings};
use crate::daemon::{Environment, StartError, load_catalog};

/// Inspect the settings.
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print the effective settings and where each comes from, as a configuration file
    Show(Flags),
    /// Check the settings and report every fault
    Check(Flags),
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Catalog(#[from] StartError),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command, with its result written to `out`.
///
/// # Errors
/// When the settings are at fault or `out` cannot be written to.
pub fn run(command: &ConfigCommand, env: Environment, out: &mut dyn Write) -> Result<(), ConfigCommandError> {
    match command {
        ConfigCommand::Show(flags) => out.write_all(show(&Settings::load(flags, &*env)?).as_bytes())?,
        ConfigCommand::Check(flags) => {
            let settings = Settings::load(flags, &*env)?;
            load_catalog(&settings, env)?;
            writeln!(
                out,
                "the settings are good; batchd would listen on {} and store in {}",
                settings.listen,
                settings.data_dir.display()
            )?;
        }
    }
    Ok(())
}

/// The effective settings as a configuration file, one a line, each with its origin.
pub fn show(settings: &Settings) -> String {
    let keys = settings.effective().iter().map(|effective| effective.setting.key.len()).max().unwrap_or(0);
    let rows: Vec<_> = settings.effective().iter().map(|effective| row(effective, keys)).collect();
    let width = rows.iter().map(|(assignment, _)| assignment.chars().count()).filter(|width| *width <= WIDEST).max().unwrap_or(0);
    rows.iter().map(|(assignment, why)| format!("{assignment:width$}  # {why}\n")).collect()
}

/// Assignments longer than this do not push the origins of all others to the right.
const WIDEST: usize = 64;

/// The assignment and its origin. A setting that cannot stand in a configuration file is a comment.
fn row(effective: &Effective, keys: usize) -> (String, String) {
    let Effective { setting, value, is_redacted, origin } = effective;
    let key = setting.key;
    let commented = keys.saturating_sub(2);
    match (value, setting.placeholder.is_some()) {
        // As an assignment it would no longer mean the same.
        (Some(value), true) if *is_redacted => (format!("# {key:commented$} = {value}"), origin.to_string()),
        (Some(value), true) => (format!("{key:keys$} = {value}"), origin.to_string()),
        (Some(words), false) => (format!("# {key:commented$} = [redacted: {words}]"), origin.to_string()),
        (None, _) => (format!("# {key:commented$} ="), format!("{origin}: {}", setting.default.as_deref().unwrap_or("none"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;

    const ENV: [(&str, &str); 5] = [
        ("HOME", "/home/ada"),
        ("BATCHD_API_KEYS", "sk-first-of-the-two,sk-second-of-the-two"),
        ("BATCHD_LISTEN", "0.0.0.0:80"),
        ("BATCHD_UPSTREAM", "https://a.example/v1, http://10.0.0.7:8000"),
        ("BATCHD_FILE_RETENTION", "30d"),
    ];

    #[test]
    fn shown_with_origins_and_without_secrets() {
        let settings = Settings::load(&Flags::default(), &HashMap::from(ENV)).unwrap();
        insta::assert_snapshot!(show(&settings));
    }

    /// A URL with a password is refused later, if at all; the settings are shown before that.
    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let env = HashMap::from([
            ("HOME", "/home/ada"),
            ("BATCHD_UPSTREAM", "https://ada:hunter2@a.example/v1, m=http://hunter2@10.0.0.7:8000, http://b.example"),
            ("BATCHD_UPSTREAM_API_PATH", "http://ada:hunter2@a.example/v1"),
        ]);
        let shown = show(&Settings::load(&Flags::default(), &env).unwrap());
        let rows: Vec<_> = shown.lines().filter(|line| line.contains("upstream  ") || line.contains("api_path")).collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
        # upstream               = ["https://[redacted]@a.example/v1", "m=http://[redacted]@10.0.0.7:8000", "http://b.example"]  # environment BATCHD_UPSTREAM
        # upstream_api_path      = "http://[redacted]@a.example/v1"  # environment BATCHD_UPSTREAM_API_PATH
        "#);
        assert!(!shown.contains("hunter2"), "{shown}");
        let refused = HashMap::from([
            ("HOME", "/home/ada"),
            ("BATCHD_PUBLIC_URL", "https://ada:hunter2@a.example"),
            ("BATCHD_CORS_ORIGINS", "https://ada:hunter2@b.example"),
            ("BATCHD_LISTEN", "http://ada:hunter2@127.0.0.1:80"),
        ]);
        let faults = Settings::load(&Flags::default(), &refused).unwrap_err().to_string();
        assert!(!faults.contains("hunter2") && faults.matches("[redacted]@").count() == 3, "{faults}");
    }

    #[test]
    fn what_is_shown_is_a_configuration_file_of_the_same_meaning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("batchd.toml");
        let shown = show(&Settings::load(&Flags::default(), &HashMap::from(ENV)).unwrap());
        std::fs::write(&path, &shown).unwrap();
        let env = HashMap::from([("BATCHD_API_KEYS", "sk-first-of-the-two,sk-second-of-the-two")]);
        let again = Settings::load(&Flags { config: Some(path), ..Flags::default() }, &env).unwrap();
        let values = |text: &str| text.lines().map(|line| line.rsplit_once("  #").unwrap().0.to_owned()).collect::<Vec<_>>();
        assert_eq!(values(&show(&again)), values(&shown));
    }

    #[test]
    fn a_check_names_what_would_be_used() {
        let mut out = Vec::new();
        run(&ConfigCommand::Check(Flags::default()), Arc::new(HashMap::from([("HOME", "/home/ada")])), &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @"the settings are good; batchd would listen on 127.0.0.1:7400 and store in /home/ada/.local/state/batchd");
    }

    #[test]
    fn each_command_says_what_it_does() {
        let command = <ConfigCommand as clap::Subcommand>::augment_subcommands(clap::Command::new("config"));
        let about = |name| command.find_subcommand(name).unwrap().get_about().unwrap().to_string();
        assert_eq!(about("check"), "Check the settings and report every fault");
        assert_eq!(about("show"), "Print the effective settings and where each comes from, as a configuration file");
    }
}
