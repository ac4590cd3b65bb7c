//! The one list of all settings. The command line, the configuration file's schema, the environment
//! variables, the precedence, the validated [`Settings`], `config show` and `docs/settings.md` all
//! come from this list.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;

use secrecy::SecretString;

use super::ambient;
use super::choices::{AgentRegister, ClientTargets, Dollars, PriorityText, Switch, WebhookEndpoints};
use super::load::{Candidates, Effective, Sources};
use super::percent::Percent;
use super::quantity::{ByteSize, DurationText};
use super::value::{LogFormat, Refused, Value};
use crate::domain::batch::dedup::Dedup;

/// One setting, as the help text, the manual and the messages describe it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key in the configuration file.
    pub key: &'static str,
    /// The setting's purpose.
    pub doc: String,
    /// Placeholder for the value in `--help`; `None` for a secret, which has no flag and no key in
    /// the file.
    pub placeholder: Option<&'static str>,
    /// The default, as TOML or in words; `None` when the setting is absent by default.
    pub default: Option<String>,
    /// The least and the greatest legal value.
    pub range: Option<(String, String)>,
}

impl Setting {
    /// The setting's environment variable.
    pub fn env(&self) -> String {
        format!("BATCHD_{}", self.key.to_ascii_uppercase())
    }

    /// The setting's command line flag.
    pub fn flag(&self) -> Option<String> {
        self.placeholder.map(|_| format!("--{}", self.key.replace('_', "-")))
    }

    fn help(&self) -> String {
        let mut text = format!("{} [env: {}]", self.doc, self.env());
        if let Some(default) = &self.default {
            text.push_str(&format!(" [default: {}]", unquoted(default)));
        }
        if let Some((low, high)) = &self.range {
            text.push_str(&format!(" [legal: {} to {}]", unquoted(low), unquoted(high)));
        }
        text
    }
}

/// A TOML value as it is typed on a command line.
pub(super) fn unquoted(toml: &str) -> &str {
    toml.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(toml)
}

/// Every setting, in the order of the manual.
pub static TABLE: LazyLock<Vec<Setting>> = LazyLock::new(table);

/// The setting with that key. Every key comes from the list below.
pub(super) fn setting(key: &'static str) -> &'static Setting {
    TABLE.iter().find(|setting| setting.key == key).unwrap_or_else(|| unreachable!("`{key}` is not in the list of settings"))
}

/// `value`: the setting always has a value, by default the given one. `maybe`: absent unless set.
macro_rules! settings {
    (
        $( $(#[doc = $doc:literal])+ $name:ident: $kind:ident $ty:ty = $default:expr
            $(, range $low:expr, $high:expr)? $(, ambient $ambient:path)? $(, words $words:literal)?; )+
        secrets:
        $( $(#[doc = $secret_doc:literal])+ $secret:ident: $secret_ty:ty; )+
    ) => {
        /// Settings as people write them on the command line and in the configuration file.
        #[derive(Debug, Clone, Default, PartialEq, clap::Args, serde::Deserialize)]
        #[command(next_help_heading = "Settings")]
        #[serde(deny_unknown_fields)]
        pub struct Written {
            $( #[arg(long, value_name = <$ty as Value>::PLACEHOLDER, help = setting(stringify!($name)).help())]
               pub $name: Option<$ty>, )+
            $( #[arg(skip)]
               $secret: Option<Refused>, )+
        }

        /// Settings as the program uses them: complete, checked, and each with its origin. Sizes
        /// are in bytes.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: field!($kind $ty), )+
            $( $(#[doc = $secret_doc])+ pub $secret: $secret_ty, )+
            pub(super) effective: Vec<Effective>,
        }

        fn table() -> Vec<Setting> {
            vec![
                $( Setting {
                    key: stringify!($name),
                    doc: paragraph(&[$($doc),+]),
                    placeholder: Some(<$ty as Value>::PLACEHOLDER),
                    default: words!(default!($kind $ty, $default), $($words)?),
                    range: range!($($low, $high)?).map(|(low, high): ($ty, $ty)| (low.toml(), high.toml())),
                }, )+
                $( Setting {
                    key: stringify!($secret),
                    doc: paragraph(&[$($secret_doc),+]),
                    placeholder: None,
                    default: None,
                    range: None,
                }, )+
            ]
        }

        /// Decides each setting by precedence. The secrets are read later.
        pub(super) fn merge(flags: Written, file: Written, sources: &mut Sources<'_>) -> Settings {
            Settings {
                $( $name: {
                    let candidates = Candidates {
                        flag: flags.$name,
                        file: file.$name,
                        ambient: ambient!(sources, $($ambient)?),
                        default: default!($kind $ty, $default),
                        range: range!($($low, $high)?),
                    };
                    finish!($kind, sources.settle(setting(stringify!($name)), candidates), $default)
                }, )+
                $( $secret: Default::default(), )+
                effective: std::mem::take(&mut sources.effective),
            }
        }
    };
}

macro_rules! field {
    (value $ty:ty) => { <$ty as Value>::Checked };
    (maybe $ty:ty) => { Option<<$ty as Value>::Checked> };
}
macro_rules! default {
    (value $ty:ty, $default:expr) => {
        Some::<$ty>($default)
    };
    (maybe $ty:ty, $default:expr) => {{
        let none: Option<$ty> = $default;
        none
    }};
}
macro_rules! finish {
    (value, $settled:expr, $default:expr) => {
        $settled.unwrap_or_else(|| $default).checked()
    };
    (maybe, $settled:expr, $default:expr) => {
        $settled.map(Value::checked)
    };
}
macro_rules! range {
    () => {
        None
    };
    ($low:expr, $high:expr) => {
        Some(($low, $high))
    };
}
macro_rules! ambient {
    ($sources:ident,) => {
        None
    };
    ($sources:ident, $ambient:path) => {
        $ambient($sources.env)
    };
}
macro_rules! words {
    ($default:expr,) => {
        $default.map(|default| default.toml())
    };
    ($default:expr, $words:literal) => {
        Some($words.to_owned())
    };
}

settings! {
    /// The address to serve HTTP on; port 0 takes a free port. An address that other machines can
    /// reach is refused unless there is an API key.
    listen: value SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7400));

    /// The directory for everything that is stored. Created if missing; one daemon at a time.
    data_dir: value PathBuf = PathBuf::new(), ambient ambient::data_dir,
        words "the first of `$STATE_DIRECTORY`, `$XDG_STATE_HOME/batchd`, `~/.local/state/batchd`";

    /// The directory of catalog seeds: models, providers, prices. Watched for changes.
    catalog_dir: maybe PathBuf = None, words "the seeds built into the program";

    /// A provider besides those of the catalog. A list in the configuration file, repeatable on the
    /// command line, separated by commas in the environment.
    upstream: value Vec<String> = Vec::new(), words "none";

    /// What all operations of the providers of `upstream` have in common below their URLs, such as `/v2`;
    /// `/` for a server whose operations are at its root.
    upstream_api_path: maybe String = None, words "`/v1` below a URL without a path";

    /// A file that holds the API key for `upstream` and nothing else. The environment variable
    /// `BATCHD_UPSTREAM_API_KEY`, which holds the key itself, wins over it.
    upstream_api_key_file: maybe PathBuf = None, ambient ambient::upstream_api_key_file,
        words "`$CREDENTIALS_DIRECTORY/upstream_api_key` if it exists";

    /// A file of the API keys that clients may use, one a line; lines that start with `#` are
    /// skipped. The environment variable `BATCHD_API_KEYS` may hold further ones.
    api_keys_file: maybe PathBuf = None, ambient ambient::api_keys_file,
        words "`$CREDENTIALS_DIRECTORY/api_keys` if it exists";

    /// Web origins whose pages may call the API, such as `https://tools.example.com`; `*` allows
    /// every origin. A list like `upstream`.
    cors_origins: value Vec<String> = Vec::new(), words "none";

    /// Where clients reach the daemon, such as `https://batch.example.com`, if a proxy is in front:
    /// links to results begin with it.
    public_url: maybe String = None, words "`http://` and the host that a request names";

    /// Client connections at the same time; further ones wait to be accepted.
    max_connections: value u32 = 1_024, range 1, 1_000_000;

    /// Client connections at the same time from one address (for IPv6, from one network of 64 bits).
    /// Further ones are closed at once, unless one of that address makes room. Less than
    /// `max_connections` is too little for a proxy that all clients come through.
    max_connections_per_peer: maybe u32 = None, range 1, 1_000_000, words "three quarters of the places for clients, and all for loopback addresses";

    /// A second address, on which `/healthz` and `/readyz` are answered and nothing else: probes get an
    /// answer there however many clients are connected. It needs no API key and shows nothing secret.
    health_listen: maybe SocketAddr = None, words "none";

    /// How long a stop waits for running rows before it gives them up. They run again after the
    /// next start.
    drain_timeout: value DurationText = DurationText::from_secs(30), range DurationText::from_secs(0), DurationText::from_secs(3_600);

    /// The largest file that is accepted in one request.
    max_file_bytes: value ByteSize = ByteSize::gib(1), range ByteSize::kib(1), ByteSize::gib(1_024);

    /// The largest file that is put together from the parts of an upload.
    max_upload_bytes: value ByteSize = ByteSize::gib(8), range ByteSize::kib(1), ByteSize::gib(1_024);

    /// The most rows in a batch.
    max_rows: value u32 = 1_000_000, range 1, 100_000_000;

    /// The longest row of a batch's input file. A few rows are held in memory at a time.
    max_row_bytes: value ByteSize = ByteSize::mib(16), range ByteSize::kib(1), ByteSize::gib(1);

    /// The largest answer of a provider that is read; a larger one fails its row.
    max_response_bytes: value ByteSize = ByteSize::mib(64), range ByteSize::kib(1), ByteSize::gib(1);

    /// Memory for the answers of all calls together. Answers beyond 32 KiB that find none are not read
    /// on until there is some.
    answer_memory: value ByteSize = ByteSize::mib(256), range ByteSize::mib(1), ByteSize::gib(1_024);

    /// The largest recording that a row may name (`/v1/audio/transcriptions`, `/v1/audio/translations`).
    max_audio_bytes: value ByteSize = ByteSize::mib(25), range ByteSize::kib(1), ByteSize::gib(1);

    /// Memory for the recordings of all calls together, at most three quarters of it for those of one
    /// API key. Rows wait until there is some; a larger recording goes alone.
    audio_memory: value ByteSize = ByteSize::mib(128), range ByteSize::mib(1), ByteSize::gib(1_024);

    /// Which servers may be called for what rows name by a URL (`file_url`): `public` addresses, `any`,
    /// or `auto`, which is `public` and this machine itself if `listen` is a loopback address and there are
    /// neither API keys nor a `public_url`. A redirect is held to the same rule.
    file_url_targets: value ClientTargets = ClientTargets::Auto;

    /// Memory for the store's cache. The process uses about 150 MiB more than this.
    cache_bytes: value ByteSize = ByteSize::mib(32), range ByteSize::mib(1), ByteSize::gib(1_024);

    /// Below this much free space on the disk of `data_dir`, uploads are refused and no row is started.
    min_free_bytes: value ByteSize = ByteSize::mib(512), range ByteSize::bytes(0), ByteSize::gib(1_024);

    /// The store is compacted when less of it than this is in use, in percent; 0 is never.
    compact_below: value u32 = 40, range 0, 90;

    /// A store that is smaller on disk is not compacted.
    compact_from: value ByteSize = ByteSize::mib(64), range ByteSize::mib(1), ByteSize::gib(1_024);

    /// How long results may gather before they are made durable together. Longer is faster on a
    /// slow disk; each result is visible that much later.
    commit_interval: value DurationText = DurationText::from_millis(5), range DurationText::from_secs(0), DurationText::from_secs(1);

    /// Rows that are with a provider or not yet durable, over all providers. After a crash, at most
    /// this many calls are made a second time.
    in_flight_limit: value u32 = 4_096, range 1, 1_000_000;

    /// The most calls at the same time to each server of `upstream`. Fewer are made where a server
    /// does more with fewer.
    upstream_concurrency: maybe u32 = None, range 1, 100_000, words "found out for each server, up to `in_flight_limit`";

    /// What becomes of the `priority` that the body of a row asks of a provider of `upstream`:
    /// `strip` takes it out, `allow` sends it as it is, and a number is what every row gets. To
    /// vLLM, a lower number comes first.
    upstream_row_priority: value PriorityText = PriorityText::default();

    /// How long a call to a provider of `upstream` may take as a whole.
    upstream_timeout: value DurationText = DurationText::from_secs(900), range DurationText::from_millis(1), DurationText::from_secs(86_400);

    /// Attempts at a row before it fails. An attempt counts only as far as its lane was well around
    /// that time, so outages use up none.
    max_attempts: value u32 = 6, range 1, 100;

    /// Answers in a row that refuse every request, as those to a wrong key, an empty account or an
    /// unknown model, after which the rows of their lane wait.
    hold_after: value u32 = 3, range 1, 1_000;

    /// The wait before the second attempt; it doubles with each further one, and is randomised.
    retry_base: value DurationText = DurationText::from_millis(500), range DurationText::from_millis(1), DurationText::from_secs(3_600);

    /// The longest wait between two attempts, unless the provider asks for more.
    retry_cap: value DurationText = DurationText::from_secs(60), range DurationText::from_millis(1), DurationText::from_secs(86_400);

    /// How long calls in flight of a cancelled batch may still take at a hosted provider, which charges
    /// for them anyway.
    cancel_grace: value DurationText = DurationText::from_secs(30), range DurationText::from_secs(0), DurationText::from_secs(3_600);

    /// The same at the operator's own servers, which work on as long as a call is open: by default, a
    /// call is cut at once.
    cancel_grace_local: value DurationText = DurationText::from_secs(0), range DurationText::from_secs(0), DurationText::from_secs(3_600);

    /// Whether rows that make the same request share one call and its answer: `off`, the rows of a
    /// `batch`, or, with `key`, those of all batches of an organisation, whichever of its API keys
    /// made them; for the operator's own keys, those of one key. The others then cost nothing. Rows
    /// that are to be samples of one prompt must differ, or this must be off.
    dedup: value Dedup = Dedup::Off;

    /// Older answers are not given to other rows.
    dedup_max_age: value DurationText = DurationText::from_secs(86_400), range DurationText::from_secs(1), DurationText::from_secs(365 * 86_400);

    /// How long an uploaded batch file is kept when its upload names no `expires_after`.
    file_retention: maybe DurationText = None, range DurationText::from_secs(3_600), DurationText::from_secs(3_650 * 86_400),
        words "until it is deleted";

    /// How long a batch is kept after it has ended, with its results, receipt and files. An input that a client
    /// uploaded is a file by itself and stays for as long as such files do.
    batch_retention: maybe DurationText = None, range DurationText::from_secs(3_600), DurationText::from_secs(3_650 * 86_400),
        words "until it is deleted";

    /// The most items in one request that names them in its body.
    max_inline_items: value u32 = 5_000, range 1, 1_000_000;

    /// The largest body of a request that names items.
    max_inline_bytes: value ByteSize = ByteSize::mib(20), range ByteSize::kib(1), ByteSize::gib(1);

    /// How long the prices of a quote hold.
    quote_validity: value DurationText = DurationText::from_secs(600), range DurationText::from_secs(1), DurationText::from_secs(7 * 86_400);

    /// How long work of the SLA tier `standard` may take.
    sla_standard: value DurationText = DurationText::from_secs(86_400), range DurationText::from_secs(1), DurationText::from_secs(30 * 86_400);

    /// The same of the tier `flex`.
    sla_flex: value DurationText = DurationText::from_secs(2 * 86_400), range DurationText::from_secs(1), DurationText::from_secs(30 * 86_400);

    /// The same of the tier `priority`.
    sla_priority: value DurationText = DurationText::from_secs(4 * 3_600), range DurationText::from_secs(1), DurationText::from_secs(30 * 86_400);

    /// What quotes charge besides what providers charge, in percent of that.
    fee_percent: value Percent = Percent::whole(0), range Percent::whole(0), Percent::whole(1_000);

    /// Whether a caller may register an organisation of its own (BatchRouter's
    /// `agent-register`): `on`, `off`, or `auto`, which is `on` if `listen` is a loopback address and
    /// there are neither API keys nor a `public_url`. With `on`, every caller that can reach the daemon gets a key.
    agent_register: value AgentRegister = AgentRegister::Auto;

    /// What an organisation that registers itself may spend, in US dollars.
    registered_credits: maybe Dollars = None, range Dollars::whole(0), Dollars::whole(1_000_000), words "as much as it likes";

    /// Which receivers of webhooks may be called: `public` addresses by `https`, `any`, or `auto`, which is
    /// `public` and this machine itself, by `http` too, if `listen` is a loopback address and there are
    /// neither API keys nor a `public_url`.
    webhook_targets: value ClientTargets = ClientTargets::Auto;

    /// What batches of Phaseo's may name as their receiver: `managed` for webhook endpoints alone, or
    /// `any`, which is also a URL and a secret of their own.
    webhook_endpoints: value WebhookEndpoints = WebhookEndpoints::Any;

    /// Whether webhooks have the headers of Standard Webhooks besides those of their dialect: `on` or `off`.
    webhook_standard_headers: value Switch = Switch::Off;

    /// The wait before a webhook that was not taken is sent a second time; each further wait is four
    /// times as long, up to six hours, for a day. In Phaseo's form it is sent three times more, after
    /// 6, 30 and 90 times as long.
    webhook_retry_base: value DurationText = DurationText::from_secs(10), range DurationText::from_millis(1), DurationText::from_secs(3_600);

    /// What is logged: a level, or levels by module such as `info,batchd::executor=debug`.
    log: value String = "info".to_owned();

    /// How log lines look: `text`, `json` (one object a line), or `auto` (text, with colours on a terminal).
    log_format: value LogFormat = LogFormat::Auto;

    secrets:

    /// The API key for `upstream`. Wins over `upstream_api_key_file`.
    upstream_api_key: Option<SecretString>;

    /// API keys that clients may use, separated by commas, besides those of `api_keys_file`. Without
    /// any key every client is let in.
    api_keys: Vec<SecretString>;
}

/// Joins the lines of a doc comment into one line.
fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
