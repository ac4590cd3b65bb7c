//! Settings from end to end: precedence, origins, faults, secrets, the manual.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use secrecy::ExposeSecret;

use super::load::parse_file;
use super::*;
use crate::domain::provider::connection::KeySource;

/// Has an own description, as every command has.
#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

fn flags(args: &[&str]) -> Flags {
    Program::try_parse_from(std::iter::once(&"batchd").chain(args)).unwrap().flags
}

fn load(args: &[&str], env: &[(&'static str, &'static str)]) -> Result<Settings, ConfigError> {
    let mut env: HashMap<_, _> = env.iter().copied().collect();
    env.entry("HOME").or_insert("/home/ada");
    Settings::load(&flags(args), &env)
}

fn faults(args: &[&str], env: &[(&'static str, &'static str)]) -> String {
    load(args, env).unwrap_err().to_string()
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batchd.toml");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn nothing_needs_to_be_set() {
    let settings = load(&[], &[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(settings.data_dir, Path::new("/home/ada/.local/state/batchd"));
    assert_eq!((settings.max_file_bytes, settings.cache_bytes), (1 << 30, 32 << 20));
    assert_eq!(settings.commit_interval, Duration::from_millis(5));
    assert_eq!((settings.catalog_dir.as_ref(), settings.file_retention), (None, None));
    assert!(settings.api_keys.is_empty() && settings.upstream.is_empty());
    assert!(settings.effective().iter().all(|effective| effective.origin == Origin::Default));
    assert_eq!(settings.effective().len(), TABLE.len());
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let (_folder, path) = file("max_rows = 1\nmax_attempts = 1\nmax_connections = 1\nmax_row_bytes = 2048\nretry_cap = \"2m\"\n");
    let args = ["--config", &path, "--max-rows", "3", "--upstream", "a", "--upstream", "b"];
    let settings = load(&args, &[("BATCHD_MAX_ROWS", "2"), ("BATCHD_MAX_ATTEMPTS", "2"), ("BATCHD_UPSTREAM", "c,d")]).unwrap();
    assert_eq!((settings.max_rows, settings.origin("max_rows")), (3, Origin::Flag));
    assert_eq!((settings.max_attempts, settings.origin("max_attempts")), (2, Origin::Env("BATCHD_MAX_ATTEMPTS".to_owned())));
    assert_eq!((settings.max_connections, settings.origin("max_connections")), (1, Origin::File(PathBuf::from(&path))));
    assert_eq!((settings.max_row_bytes, settings.retry_cap), (2_048, Duration::from_secs(120)));
    assert_eq!(settings.upstream, ["a", "b"]);
    assert_eq!(settings.origin("log"), Origin::Default);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let settings = load(&[], &[("BATCHD_LISTEN", ""), ("BATCHD_API_KEYS", ""), ("BATCHD_CONFIG", "")]).unwrap();
    assert_eq!(settings.origin("listen"), Origin::Default);
}

#[test]
fn the_data_directory_follows_systemd_then_the_user() {
    let of = |env: &[(&'static str, &'static str)]| {
        let settings = load(&[], env).unwrap();
        (settings.data_dir.display().to_string(), settings.origin("data_dir").to_string())
    };
    let xdg = ("XDG_STATE_HOME", "/xdg");
    assert_eq!(of(&[xdg]), ("/xdg/batchd".to_owned(), "environment XDG_STATE_HOME".to_owned()));
    assert_eq!(of(&[xdg, ("STATE_DIRECTORY", "/var/lib/batchd:/var/lib/b")]).0, "/var/lib/batchd");
    assert_eq!(of(&[("STATE_DIRECTORY", "/a"), ("BATCHD_DATA_DIR", "/b")]).0, "/b");
    let nowhere = Settings::load(&Flags::default(), &HashMap::new()).unwrap_err().to_string();
    assert_eq!(
        nowhere,
        "data_dir = \"\" (default): must name a directory; none of STATE_DIRECTORY, XDG_STATE_HOME and HOME names one either"
    );
}

#[test]
fn faults_of_the_file_are_named_with_their_place() {
    let cases = [
        "listen = \"127.0.0.1:1\"\nmax_row = 3\n",
        "max_rows = \"many\"\n",
        "\n  drain_timeout = 30\n",
        "drain_timeout = \"30\"\n",
        "max_file_bytes = -1\n",
        "log_format = \"xml\"\n",
        "listen = \n",
        "api_keys = [\"sk-live-secret\"]\n",
        "upstream_api_key = \"sk-live-secret\"\n",
        "[server]\nport = 1\n",
    ];
    let report: Vec<_> = cases.iter().map(|text| parse_file(Path::new("batchd.toml"), text).unwrap_err().to_string()).collect();
    assert!(report.iter().all(|line| !line.contains("secret\"")));
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn a_named_file_must_exist() {
    let expected = "cannot read the configuration file /nowhere/batchd.toml: No such file or directory (os error 2)";
    assert_eq!(faults(&["--config", "/nowhere/batchd.toml"], &[]), expected);
    assert_eq!(faults(&[], &[("BATCHD_CONFIG", "/nowhere/batchd.toml")]), expected);
}

#[test]
fn every_fault_is_reported_at_once() {
    let env = [
        ("BATCHD_LISTEN", "[::]:80"),
        ("BATCHD_MAX_ROWS", "0"),
        ("BATCHD_MAX_ATTEMPTS", "six"),
        ("BATCHD_RETRY_BASE", "5m"),
        ("BATCHD_COMMIT_INTERVAL", "2s"),
        ("BATCHD_CORS_ORIGINS", "https://ok.example,https://no.example/path"),
        ("BATCHD_UPSTREAM_API_KEY", "two words"),
        ("BATCHD_API_KEYS_FILE", "/nowhere/keys"),
        ("BATCHD_LOG", "loud=very"),
        ("BATCHD_LOG_FORMAT", "xml"),
    ];
    insta::assert_snapshot!(faults(&["--cache-bytes", "1kB"], &env));
}

#[test]
fn an_address_that_others_can_reach_needs_a_key() {
    for address in ["127.0.0.1:0", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        load(&["--listen", address], &[]).unwrap();
    }
    for address in ["0.0.0.0:80", "192.168.1.4:7400", "[::]:80"] {
        assert!(faults(&["--listen", address], &[]).contains("BATCHD_API_KEYS"), "{address}");
        load(&["--listen", address], &[("BATCHD_API_KEYS", "sk-0123456789abc")]).unwrap();
        // One that can be found by trying is no key there.
        let short = faults(&["--listen", address], &[("BATCHD_API_KEYS", "sk-0123456789abc,sk-0123456789ab")]);
        assert!(short.contains("key 2 of 2 has fewer than 16 characters") && !short.contains("sk-"), "{short}");
    }
    load(&["--listen", "127.0.0.1:0"], &[("BATCHD_API_KEYS", "sk-one")]).unwrap();
}

#[test]
fn keys_are_read_again_from_the_same_places() {
    let (_folder, path) = file("sk-one\n");
    let path: &'static str = path.leak();
    let env = HashMap::from([("BATCHD_API_KEYS", "sk-env")]);
    let settings = load(&["--api-keys-file", path], &[("BATCHD_API_KEYS", "sk-env")]).unwrap();
    let read =
        || -> Result<Vec<_>, String> { Ok(settings.read_keys_again(&env)?.iter().map(|key| key.expose_secret().to_owned()).collect()) };
    assert_eq!(read(), Ok(vec!["sk-one".to_owned(), "sk-env".to_owned()]));
    std::fs::write(path, "sk-two\nsk-three\n").unwrap();
    assert_eq!(read(), Ok(vec!["sk-two".to_owned(), "sk-three".to_owned(), "sk-env".to_owned()]));
    std::fs::write(path, "# none\n").unwrap();
    assert!(read().unwrap_err().ends_with("holds no key"));
}

#[test]
fn the_listener_of_probes_is_another_one_and_may_be_reached_without_keys() {
    load(&["--health-listen", "0.0.0.0:7401"], &[]).unwrap();
    load(&["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"], &[]).unwrap();
    assert!(faults(&["--health-listen", "127.0.0.1:7400"], &[]).contains("must differ from `listen`"));
}

#[test]
fn keys_come_from_the_environment_and_from_files() {
    let (folder, path) = file("# ours\nsk-one\n\n  sk-two  \n");
    let path: &'static str = path.leak();
    let settings = load(&["--api-keys-file", path], &[("BATCHD_API_KEYS", "sk-three, sk-one")]).unwrap();
    let keys: Vec<_> = settings.api_keys.iter().map(|key| key.expose_secret().to_owned()).collect();
    assert_eq!(keys, ["sk-one", "sk-two", "sk-three"]);
    assert!(!format!("{settings:?}").contains("sk-"), "secrets are not printed");

    std::fs::write(folder.path().join("api_keys"), "sk-four\n").unwrap();
    std::fs::write(folder.path().join("upstream_api_key"), "up-1\n").unwrap();
    let credentials: &'static str = folder.path().to_str().unwrap().to_owned().leak();
    let settings = load(&[], &[("CREDENTIALS_DIRECTORY", credentials)]).unwrap();
    assert_eq!(settings.api_keys[0].expose_secret(), "sk-four");
    assert_eq!(settings.upstream_api_key.as_ref().unwrap().expose_secret(), "up-1");
    assert_eq!(settings.origin("api_keys_file"), Origin::Env("CREDENTIALS_DIRECTORY".to_owned()));

    let settings = load(&[], &[("CREDENTIALS_DIRECTORY", credentials), ("BATCHD_UPSTREAM_API_KEY", "up-2")]).unwrap();
    assert_eq!(settings.upstream_api_key.unwrap().expose_secret(), "up-2");
}

#[test]
fn a_file_without_keys_does_not_open_the_daemon() {
    let (_folder, path) = file("# none yet\n");
    assert!(faults(&["--api-keys-file", &path], &[]).ends_with("holds no key"));
}

#[test]
fn provider_keys_are_read_from_where_the_connection_says() {
    let (_folder, path) = file("sk-file\n");
    let env = HashMap::from([("KEY", "sk-env"), ("EMPTY", ""), ("BAD", "a\nb")]);
    let read = |source| resolve_key(&source, &env).map(|key| key.map(|key| key.expose_secret().to_owned()));
    assert_eq!(read(KeySource::None), Ok(None));
    assert_eq!(read(KeySource::Env("KEY".to_owned())), Ok(Some("sk-env".to_owned())));
    assert_eq!(read(KeySource::File(PathBuf::from(path))), Ok(Some("sk-file".to_owned())));
    let reason = |source| read(source).unwrap_err().to_string();
    assert_eq!(reason(KeySource::Env("EMPTY".to_owned())), "the environment variable EMPTY is not set or empty");
    let bad = "the environment variable BAD holds a key with characters other than visible ASCII, or more than one line";
    assert_eq!(reason(KeySource::Env("BAD".to_owned())), bad);
    let missing = "the key file /nowhere/key cannot be read: No such file or directory (os error 2)";
    assert_eq!(reason(KeySource::File(PathBuf::from("/nowhere/key"))), missing);
}

#[test]
fn secrets_are_not_flags() {
    for flag in ["--api-keys", "--upstream-api-key"] {
        assert!(Program::try_parse_from(["batchd", flag, "sk-secret"]).is_err());
    }
}

#[test]
fn the_help_names_the_environment_and_the_default() {
    let help = <Program as clap::CommandFactory>::command().term_width(100).render_long_help().to_string();
    insta::assert_snapshot!(help);
}

#[test]
fn the_manual_lists_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    if std::env::var_os("BATCHD_UPDATE_DOCS").is_some() {
        std::fs::write(&path, manual()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page == manual(), "docs/settings.md is out of date; run the tests with BATCHD_UPDATE_DOCS=1 to write it again");
}
