//! The check of one provider file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::super::model::{Limits, Provider};
use super::super::schema::{Field, ProviderFile, WrittenBody, WrittenFaults, WrittenProfile, WrittenTimeouts};
use super::super::url::{parse_api_path, parse_base_url};
use super::super::vocabulary::{HostedTool, Kind, Status, slug};
use super::context::ValidateContext;
use super::shared::{check_capacity, check_limits, check_privacy};
use crate::catalog::model::{DEFAULT_CONCURRENCY, DEFAULT_MAX_RESPONSE_BYTES};
use crate::domain::batch::forwarded;
use crate::domain::endpoint::PassedPath;
use crate::domain::provider::body_edits::BodyEdits;
use crate::domain::provider::connection::{
    Api, Connection, HostAddresses, KeySource, ProviderKind, ServerConnection, SimulatedFaults, SimulatedProfile, Timeouts,
};
use crate::domain::row::priority::RowPriority;

/// Checks a provider file. `None` if faults leave too little of it.
pub(super) fn check(context: &mut ValidateContext<'_>, file: &ProviderFile) -> Option<Provider> {
    context.schema(&file.schema);
    let id = check_id(context, &file.id);
    context.required(&file.name, 0..0, "name", "the provider's name for people");
    let name = context.text(&file.name, "name");
    context.required(&file.kind, 0..0, "kind", &Kind::choices());
    let kind = context.word(&file.kind, "kind", Kind::parse, Kind::choices);
    let status = context.parse(&file.status, "status", |word| match Status::parse(word) {
        Some(status @ (Status::Active | Status::Paused | Status::Disabled)) => Ok(status),
        Some(Status::Deprecated) | None => Err("must be one of `active`, `paused`, `disabled`"),
    });
    let documentation_url = context.page(&file.documentation_url, "documentation_url");
    let notes = context.text(&file.notes, "notes");
    let regions = context.list(&file.regions, "regions", slug).unwrap_or_default();
    let tool_names = check_tools(context, file);
    let privacy = check_privacy(context, &file.privacy);
    let limits = check_limits(context, &file.limits);
    let capacity = check_capacity(context, &file.capacity).unwrap_or_default();
    let (base_url_env, (kind, replicas, key)) = match kind? {
        kind @ (Kind::OpenAi | Kind::Anthropic) => {
            (check_variable(context, &file.base_url_env, "base_url_env"), check_server(context, file, kind)?)
        }
        Kind::Simulated => (None, (check_simulated(context, file), Vec::new(), KeySource::None)),
    };
    // What a server of the operator's own has room for is found out.
    let unstated = if base_url_env.is_some() { None } else { Some(DEFAULT_CONCURRENCY) };
    let limits = Limits { in_flight: limits.in_flight.or(unstated), ..limits };
    Some(Provider {
        name: name?,
        connection: Connection { id: id?, kind, replicas, key, limits },
        is_local: is_local(context, file),
        base_url_env,
        status: status.unwrap_or(Status::Active),
        catch_all: context.flag(&file.catch_all).unwrap_or(false),
        stand_in: context.flag(&file.stand_in).unwrap_or(false),
        documentation_url,
        notes,
        regions,
        tool_names,
        privacy,
        capacity,
    })
}

/// Whether the provider is a server of the operator's own.
fn is_local(context: &ValidateContext<'_>, file: &ProviderFile) -> bool {
    file.base_url_env.is_some() || context.flag(&file.local).unwrap_or(false)
}

fn check_tools(context: &mut ValidateContext<'_>, file: &ProviderFile) -> BTreeMap<HostedTool, String> {
    let mut names = BTreeMap::new();
    for (tool, name) in &file.tools {
        let known = HostedTool::parse(tool.get_ref()).ok_or_else(|| format!("must be one of {}", HostedTool::choices()));
        let known = context.parse_value(tool, "tools", |_| known);
        if let (Some(tool), Some(name)) = (known, context.parse_value(name, "tools", |name| slug(name))) {
            names.insert(tool, name);
        }
    }
    names
}

fn check_id(context: &mut ValidateContext<'_>, field: &Field<String>) -> Option<String> {
    let stem = context.source.stem().to_owned();
    context.required(field, 0..0, "id", &format!("the file's name, {stem:?}"));
    context.parse(field, "id", |id| match slug(id)? {
        id if id == stem => Ok(id),
        _ => Err(format!("must be the file's name, {stem:?}")),
    })
}

fn check_server(context: &mut ValidateContext<'_>, file: &ProviderFile, kind: Kind) -> Option<(ProviderKind, Vec<Uri>, KeySource)> {
    context.foreign(&file.stand_in, "stand_in", kind.word());
    context.foreign(&file.profile, "profile", kind.word());
    if let Some(name) = file.models.keys().next() {
        context.fault(name.span(), format!("`models` has no meaning for a provider of kind `{kind}`; leave it out"));
    }
    let urls = check_urls(context, file);
    let api_path = context.parse(&file.api_path, "api_path", |path| parse_api_path(path));
    let body = file.body.as_ref().map_or_else(BodyEdits::default, |written| check_body(context, written.get_ref()));
    let key = check_key(context, file);
    let pass_through = context.list(&file.pass_through, "pass_through", PassedPath::list).unwrap_or_default();
    let row_priority = context.parse(&file.row_priority, "row_priority", |text| text.parse::<RowPriority>());
    let forward_headers = context.list(&file.forward_headers, "forward_headers", forwarded::check_name).unwrap_or_default();
    if let Some(list) = file.forward_headers.as_ref().filter(|list| list.get_ref().len() > forwarded::MOST) {
        context.fault(list.span(), format!("`forward_headers` may name at most {} headers", forwarded::MOST));
    }
    let ca_file = context.text(&file.ca_file, "ca_file").map(PathBuf::from);
    let max_response_bytes = context.number(&file.max_response_bytes, "max_response_bytes", 1_024..=1 << 40);
    let timeouts = file.timeouts.as_ref().map_or_else(Timeouts::default, |written| check_timeouts(context, written.get_ref()));
    // Where a hosted service can be reached says nothing about its servers.
    let is_spread = context.flag(&file.spread_addresses).unwrap_or_else(|| is_local(context, file));
    let max_waiting = context.number(&file.max_waiting, "max_waiting", 1..=i64::from(u32::MAX));
    let (base_url, replicas) = urls?;
    let connection = ServerConnection {
        api: if kind == Kind::Anthropic { Api::Anthropic } else { Api::OpenAi },
        base_url,
        addresses: if is_spread { HostAddresses::Each } else { HostAddresses::Any },
        api_path,
        body,
        timeouts,
        ca_file,
        max_response_bytes: max_response_bytes.unwrap_or(DEFAULT_MAX_RESPONSE_BYTES),
        pass_through,
        row_priority: row_priority.unwrap_or_default(),
        forward_headers,
        max_waiting: max_waiting.and_then(|most| u32::try_from(most).ok()),
    };
    Some((ProviderKind::Server(connection), replicas, key))
}

/// The first server and the further ones.
fn check_urls(context: &mut ValidateContext<'_>, file: &ProviderFile) -> Option<(Uri, Vec<Uri>)> {
    let Some(several) = file.base_urls.as_ref() else {
        context.required(&file.base_url, 0..0, "base_url", "an absolute `http` or `https` URL");
        return Some((context.parse_secret(&file.base_url, "base_url", parse_base_url)?, Vec::new()));
    };
    if file.base_url.is_some() {
        context.fault(several.span(), "`base_urls` stands beside `base_url`; a provider has one of them");
    }
    let (mut urls, mut is_good) = (Vec::new(), true);
    for written in several.get_ref() {
        // The value is not repeated: it may hold a key.
        match parse_base_url(written.get_ref()) {
            Ok(url) if urls.contains(&url) => context.fault(written.span(), "this URL of `base_urls` is listed twice"),
            Ok(url) => urls.push(url),
            Err(rule) => {
                is_good = false;
                context.fault(written.span(), format!("a URL of `base_urls` {rule}"));
            }
        }
    }
    if urls.is_empty() && is_good {
        context.fault(several.span(), "`base_urls` must have at least one URL");
    }
    if urls.is_empty() { None } else { Some((urls.remove(0), urls)) }
}

fn check_body(context: &mut ValidateContext<'_>, written: &WrittenBody) -> BodyEdits {
    const MODEL: &str = "must not name `model`; the offering's `upstream` says how the provider calls it";
    let member = |(name, value): (&String, &toml::Value)| match name.as_str() {
        "model" => Err(MODEL),
        _ => Ok((name.clone(), to_json(value).ok_or("must hold no dates and no numbers that JSON does not have")?)),
    };
    let set = written.set.as_ref().and_then(|set| {
        let members = set.get_ref().iter().map(member).collect::<Result<Vec<_>, _>>();
        // The values may be long, and are not what is wrong.
        members.map_err(|rule| context.fault(set.span(), format!("`body.set` {rule}"))).ok()
    });
    let name = |name: &str| match name {
        "model" => Err(MODEL),
        "" => Err("must name members"),
        name => Ok(name.to_owned()),
    };
    let drop = context.list(&written.drop, "body.drop", name).unwrap_or_default();
    BodyEdits::new(set.unwrap_or_default(), drop)
}

/// The same value in JSON, if there is one.
fn to_json(value: &toml::Value) -> Option<serde_json::Value> {
    Some(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(values) => values.iter().map(to_json).collect::<Option<Vec<_>>>()?.into(),
        toml::Value::Table(table) => {
            let members = table.iter().map(|(name, value)| Some((name.clone(), to_json(value)?)));
            serde_json::Value::Object(members.collect::<Option<_>>()?)
        }
    })
}

fn check_key(context: &mut ValidateContext<'_>, file: &ProviderFile) -> KeySource {
    let variable = check_variable(context, &file.api_key_env, "api_key_env");
    let path = context.text(&file.api_key_file, "api_key_file").map(PathBuf::from);
    if let (Some(_), Some(second)) = (file.api_key_env.as_ref(), file.api_key_file.as_ref()) {
        context.fault(second.span(), "`api_key_file` stands beside `api_key_env`; a provider has one of them or neither");
    }
    variable.map(KeySource::Env).or(path.map(KeySource::File)).unwrap_or(KeySource::None)
}

/// The commonest mistake is to write the value itself, which may be a key.
fn check_variable(context: &mut ValidateContext<'_>, field: &Field<String>, name: &str) -> Option<String> {
    context.parse_secret(field, name, |text| {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if first && rest { Ok(text.to_owned()) } else { Err("must be the name of an environment variable, never the key itself") }
    })
}

fn check_timeouts(context: &mut ValidateContext<'_>, written: &WrittenTimeouts) -> Timeouts {
    const LEAST: Duration = Duration::from_millis(1);
    let or = Timeouts::default();
    Timeouts {
        connect: context.duration(&written.connect, "timeouts.connect", LEAST).unwrap_or(or.connect),
        first_byte: context.duration(&written.first_byte, "timeouts.first_byte", LEAST).unwrap_or(or.first_byte),
        total: context.duration(&written.total, "timeouts.total", LEAST).unwrap_or(or.total),
    }
}

fn check_simulated(context: &mut ValidateContext<'_>, file: &ProviderFile) -> ProviderKind {
    context.foreign(&file.base_url, "base_url", "simulated");
    context.foreign(&file.base_urls, "base_urls", "simulated");
    context.foreign(&file.base_url_env, "base_url_env", "simulated");
    context.foreign(&file.api_path, "api_path", "simulated");
    context.foreign(&file.body, "body", "simulated");
    context.foreign(&file.local, "local", "simulated");
    context.foreign(&file.spread_addresses, "spread_addresses", "simulated");
    context.foreign(&file.max_waiting, "max_waiting", "simulated");
    context.foreign(&file.api_key_env, "api_key_env", "simulated");
    context.foreign(&file.api_key_file, "api_key_file", "simulated");
    context.foreign(&file.ca_file, "ca_file", "simulated");
    context.foreign(&file.pass_through, "pass_through", "simulated");
    context.foreign(&file.row_priority, "row_priority", "simulated");
    context.foreign(&file.forward_headers, "forward_headers", "simulated");
    context.foreign(&file.max_response_bytes, "max_response_bytes", "simulated");
    context.foreign(&file.timeouts, "timeouts", "simulated");
    let base = SimulatedProfile::default();
    let default = file.profile.as_ref().map_or(base, |written| check_profile(context, written.get_ref(), "profile", base));
    let models = file.models.iter().map(|(name, written)| {
        let place = format!("models.{:?}", name.get_ref());
        (name.get_ref().clone(), check_profile(context, written, &place, default))
    });
    ProviderKind::Simulated { default, models: models.collect() }
}

/// Fields that are not written are taken from `base`.
fn check_profile(context: &mut ValidateContext<'_>, written: &WrittenProfile, place: &str, base: SimulatedProfile) -> SimulatedProfile {
    let latency = context.duration(&written.latency, &format!("{place}.latency"), Duration::ZERO);
    let spread = context.parse(&written.spread, &format!("{place}.spread"), |spread| {
        if (1.0..=100.0).contains(spread) { Ok(*spread) } else { Err("must be from 1.0 to 100.0") }
    });
    let faults = match written.faults.as_ref() {
        None => base.faults,
        Some(faults) => {
            let (shares, span) = (check_faults(context, faults.get_ref(), place, base.faults), faults.span());
            let sum = shares.error + shares.rate_limit + shares.cut + shares.slow + shares.invalid_json + shares.refuse;
            // A sum of decimal shares such as 0.7 + 0.2 + 0.1 may be off by a few units in the last
            // place.
            if sum > 1.0 + 1e-9 {
                context.fault(span, format!("the shares of `{place}.faults` add up to {sum:.3}; together they must be at most 1"));
            }
            shares
        }
    };
    SimulatedProfile { latency: latency.unwrap_or(base.latency), spread: spread.unwrap_or(base.spread), faults }
}

fn check_faults(context: &mut ValidateContext<'_>, written: &WrittenFaults, place: &str, base: SimulatedFaults) -> SimulatedFaults {
    let mut share = |field: &Field<f64>, name: &str, base: f64| {
        let parsed = context.parse(field, &format!("{place}.faults.{name}"), |share| {
            if (0.0..=1.0).contains(share) { Ok(*share) } else { Err("must be a share of calls, from 0.0 to 1.0") }
        });
        parsed.unwrap_or(base)
    };
    SimulatedFaults {
        error: share(&written.error, "error", base.error),
        rate_limit: share(&written.rate_limit, "rate_limit", base.rate_limit),
        cut: share(&written.cut, "cut", base.cut),
        slow: share(&written.slow, "slow", base.slow),
        invalid_json: share(&written.invalid_json, "invalid_json", base.invalid_json),
        refuse: share(&written.refuse, "refuse", base.refuse),
    }
}
