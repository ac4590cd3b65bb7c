//! Checks the code against the picture in `src/lib.rs` and against `docs/architecture.md`: which
//! module may name which, which files may name handlers, and which crates belong to one module
//! alone.
//!
//! The check is textual on purpose: it reads the source as a person would, and cannot see through
//! macros. A module that does not exist yet breaks no rule; a module that is in no rule breaks the
//! first.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, and the modules that it may name as `crate::...`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("descriptors", &[]),
    ("flow", &["domain"]),
    ("catalog", &["domain"]),
    ("quote", &["domain", "catalog"]),
    ("provider", &["domain", "descriptors"]),
    ("store", &["domain"]),
    ("webhooks", &["domain", "descriptors", "store", "provider"]),
    ("executor", &["domain", "catalog", "flow", "quote", "store", "provider"]),
    ("service", &["domain", "descriptors", "catalog", "flow", "quote", "store", "executor"]),
    ("http", &["domain", "descriptors", "catalog", "quote", "store", "executor", "webhooks", "service"]),
    ("daemon", &["domain", "descriptors", "catalog", "quote", "store", "provider", "executor", "webhooks", "service", "http"]),
    ("client", &["domain"]),
    ("cli", &["domain", "descriptors", "catalog", "daemon", "client", "store"]),
];

/// A room of `http`, and the rooms of `http` that it may name. Rooms for a stage of a request come
/// first, then dialects.
const MAY_NAME_IN_HTTP: &[(&str, &[&str])] = &[
    ("dialect", &[]),
    ("access_class", &[]),
    ("shares", &[]),
    ("state", &["layers", "request", "response", "shares"]),
    ("response", &["state", "dialect", "request", "shares"]),
    ("request", &["state", "response", "layers", "shares"]),
    ("layers", &["state", "access_class", "dialect", "request", "response", "route_table", "phaseo"]),
    ("server", &["layers", "response"]),
    ("route_table", &["state", "access_class", "response"]),
    ("ops", &["state", "access_class", "layers", "request", "response", "route_table", "admin"]),
    ("admin", &["state", "layers", "request", "response"]),
    ("openai", &["state", "dialect", "layers", "request", "response", "route_table"]),
    ("batchrouter", &["state", "dialect", "layers", "request", "response", "route_table", "admin", "ops", "openai::objects"]),
    ("phaseo", &["state", "dialect", "layers", "request", "response", "route_table", "openai::objects"]),
    ("v1", &["state", "dialect", "layers", "request", "response", "route_table", "openai", "batchrouter", "phaseo"]),
    (
        "router",
        &["state", "access_class", "layers", "response", "route_table", "ops", "admin", "openai", "batchrouter", "phaseo", "v1", "tests"],
    ),
    // Reads what strangers send as each dialect does, and answers nothing.
    ("fuzz", &["dialect", "request", "server", "batchrouter", "phaseo"]),
];

/// Files of `http` that may name handlers: each is a table of routes.
const NAME_HANDLERS: &[&str] = &["http/router.rs", "http/v1.rs", "http/openai/mod.rs", "http/batchrouter/mod.rs", "http/phaseo/mod.rs"];

/// Words of the wire that the service must not know, besides the crates that only `http` may name.
const NOT_IN_SERVICE: &[&str] = &["StatusCode", "IntoResponse", "ApiError", "Refusal", "to_value"];

/// A crate, and the only modules or files that may name it.
const OWNED: &[(&str, &[&str])] = &[
    ("sled", &["store"]),
    ("bincode", &["store"]),
    ("notify", &["catalog"]),
    ("notify_debouncer_full", &["catalog"]),
    ("hyper", &["provider", "http", "client", "webhooks"]),
    ("hyper_util", &["provider", "http", "client", "webhooks"]),
    ("hyper_rustls", &["provider", "http", "webhooks"]),
    ("rustls", &["provider", "http"]),
    ("axum", &["http"]),
    ("clap", &["cli", "daemon/config"]),
    ("sd_notify", &["daemon"]),
    ("schemars", &["catalog"]),
    ("comfy_table", &["cli"]),
    ("prometheus_client", &["http/ops"]),
    ("flate2", &["http/response", "provider/simulated", "provider/transport", "store/unpack"]),
    ("brotli_decompressor", &["provider/transport"]),
    ("tiktoken_rs", &["quote"]),
];

#[test]
fn modules_name_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    for path in rust_files(&root) {
        let file = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        violations.extend(check(&file, &fs::read_to_string(&path).unwrap()));
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_breach_is_found_wherever_it_hides() {
    let source = "//! `crate::http` may be mentioned\nuse crate::http::Server;\nuse crate::{\n    domain::id,\n    store::{self, http},\n    executor,\n};\n// use crate::cli;\nlet x = crate::daemon::run(sled::open(\"a\")); // axum::Router\npub(crate) fn f(notify: u8) -> hyper::Uri {}\nuse ::clap as c;\nuse {axum, self::clap::x};\nlet sled = super::sled::x;\n";
    let expected = [
        "src/domain/mod.rs:2: domain names http",
        "src/domain/mod.rs:5: domain names store",
        "src/domain/mod.rs:6: domain names executor",
        "src/domain/mod.rs:9: domain names daemon",
        "src/domain/mod.rs:9: domain names the crate sled",
        "src/domain/mod.rs:10: domain names the crate hyper",
        "src/domain/mod.rs:11: domain names the crate clap",
        "src/domain/mod.rs:12: domain names the crate axum",
    ];
    assert_eq!(check("domain/mod.rs", source), expected);
    assert_eq!(
        check("executor/mod.rs", "use crate::{domain, store, quote};\nuse crate::http::x;\n"),
        ["src/executor/mod.rs:2: executor names http"]
    );
    assert_eq!(check("daemon/config.rs", "use clap::Parser;\nuse sd_notify::x;"), Vec::<String>::new());
    assert_eq!(check("daemon/mod.rs", "use clap::Parser;\n"), ["src/daemon/mod.rs:1: daemon names the crate clap"]);
    assert_eq!(check("store.rs", "use sled::Db;\nuse crate::catalog;"), ["src/store.rs:2: store names catalog"]);
    assert_eq!(check("novelty/mod.rs", ""), ["src/novelty/mod.rs:1: novelty has no place in the layer rule"]);
    assert_eq!(check("lib.rs", "pub mod http;"), Vec::<String>::new());
}

#[test]
fn a_dialect_that_names_another_is_found() {
    let source = "use crate::http::openai::objects::List;\nuse crate::http::openai::files;\nuse super::super::batchrouter::error::Refusal;\nuse super::{error, openai};\nuse crate::http::{\n    state::Api,\n    openai::{objects, uploads},\n};\n";
    assert_eq!(
        check("http/phaseo/files.rs", source),
        [
            "src/http/phaseo/files.rs:2: http/phaseo names openai::files",
            "src/http/phaseo/files.rs:3: http/phaseo names batchrouter::error",
            "src/http/phaseo/files.rs:7: http/phaseo names openai::uploads",
        ],
        "`super::openai` of a file of phaseo's is phaseo's own"
    );
    assert_eq!(
        check("http/phaseo/batches/create.rs", "use super::super::super::batchrouter::quotes;\n"),
        ["src/http/phaseo/batches/create.rs:1: http/phaseo names batchrouter::quotes"]
    );
    assert_eq!(check("http/state.rs", "use super::phaseo::feed;\n"), ["src/http/state.rs:1: http/state names phaseo::feed"]);
    assert_eq!(check("http/dialect.rs", "use super::state::Api;\n"), ["src/http/dialect.rs:1: http/dialect names state::Api"]);
    assert_eq!(check("http/newcomer/mod.rs", ""), ["src/http/newcomer/mod.rs:1: http/newcomer has no place in the rule for http"]);
    assert_eq!(check("http/tests/files.rs", "use super::super::phaseo::feed;\n"), Vec::<String>::new());
}

#[test]
fn a_service_that_speaks_the_wire_is_found() {
    let source = "use axum::Json;\nfn f() -> StatusCode {}\n// StatusCode\nlet x = crate::http::y();\n";
    assert_eq!(
        check("service/orgs.rs", source),
        [
            "src/service/orgs.rs:1: service names the crate axum",
            "src/service/orgs.rs:2: service speaks of StatusCode",
            "src/service/orgs.rs:4: service names http",
        ]
    );
}

#[test]
fn handlers_that_are_named_outside_of_a_table_are_found() {
    let source = "use axum::routing::get;\n";
    assert_eq!(check("http/admin/orgs.rs", source), ["src/http/admin/orgs.rs:1: routes are made outside of a table of routes"]);
    assert_eq!(
        check("http/admin/orgs.rs", "let t = routes! {};\n"),
        ["src/http/admin/orgs.rs:1: routes are made outside of a table of routes"]
    );
    assert_eq!(check("http/openai/mod.rs", "let t = routes! {};\n"), Vec::<String>::new());
}

/// Finds the breaches of one file, named relative to `src`, in order of line.
fn check(file: &str, source: &str) -> Vec<String> {
    let module = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
    if matches!(file, "lib.rs" | "main.rs") {
        return Vec::new();
    }
    let Some((_, may_name)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
        return vec![format!("src/{file}:1: {module} has no place in the layer rule")];
    };
    let code = without_comments(source);
    let mut found = Vec::new();
    let names = names(file, &code);
    for (offset, path) in &names {
        let first = path[0].as_str();
        if first != module && !may_name.contains(&first) && MAY_NAME.iter().any(|(known, _)| *known == first) {
            found.push((*offset, format!("{module} names {first}")));
        }
    }
    for (name, owners) in OWNED {
        let owned =
            owners.iter().any(|owner| *owner == module || file.trim_end_matches(".rs") == *owner || file.starts_with(&format!("{owner}/")));
        if !owned {
            found.extend(uses_of(&code, name).map(|offset| (offset, format!("{module} names the crate {name}"))));
        }
    }
    match module {
        "http" => found.extend(check_http(file, &code, &names)),
        "service" => {
            let words = NOT_IN_SERVICE.iter().flat_map(|word| words_of(&code, word).map(move |offset| (offset, word)));
            found.extend(words.map(|(offset, word)| (offset, format!("service speaks of {word}"))));
        }
        _ => {}
    }
    let mut lines: Vec<_> = found.into_iter().map(|(offset, what)| (code[..offset].matches('\n').count() + 1, what)).collect();
    lines.sort();
    lines.dedup();
    lines.into_iter().map(|(line, what)| format!("src/{file}:{line}: {what}")).collect()
}

/// Finds the names in a file of `http` that its room may not use.
fn check_http(file: &str, code: &str, names: &[(usize, Vec<String>)]) -> Vec<(usize, String)> {
    let room = file.split('/').nth(1).unwrap_or(file).trim_end_matches(".rs");
    // The root gathers what the daemon needs; tests cover the whole.
    if matches!(room, "mod" | "tests") {
        return Vec::new();
    }
    let Some((_, may_name)) = MAY_NAME_IN_HTTP.iter().find(|(name, _)| *name == room) else {
        return vec![(0, format!("http/{room} has no place in the rule for http"))];
    };
    let mut found = Vec::new();
    for (offset, path) in names.iter().filter(|(_, path)| path[0] == "http" && path.len() > 1) {
        let (of, below) = (path[1].as_str(), path.get(2).map_or("", String::as_str));
        let is_room = MAY_NAME_IN_HTTP.iter().any(|(known, _)| *known == of);
        let may = of == room || may_name.iter().any(|name| *name == of || *name == format!("{of}::{below}"));
        if is_room && !may {
            found.push((*offset, format!("http/{room} names {of}::{below}")));
        }
    }
    if !NAME_HANDLERS.contains(&file) && file != "http/route_table.rs" {
        let made = code.match_indices("axum::routing").chain(code.match_indices("routes! {"));
        found.extend(made.map(|(offset, _)| (offset, "routes are made outside of a table of routes".to_owned())));
    }
    found
}

/// Removes the text of line comments but keeps every line, so that line numbers stay the same.
fn without_comments(source: &str) -> String {
    let code = |line: &str| {
        let start = line.match_indices("//").map(|(at, _)| at).find(|at| line[..*at].chars().next_back().is_none_or(char::is_whitespace));
        line[..start.unwrap_or(line.len())].to_owned()
    };
    source.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Finds the offsets where a word stands by itself.
fn words_of<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |at| {
        !code[..*at].chars().next_back().is_some_and(is_word) && !code[at + name.len()..].chars().next().is_some_and(is_word)
    })
}

/// Finds every path from the root of the crate that the code names, with `super` resolved and
/// groups taken apart, and the offset of its last segment.
fn names(file: &str, code: &str) -> Vec<(usize, Vec<String>)> {
    let mut own: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if own.last().is_some_and(|last| last == "mod") {
        own.pop();
    }
    let mut names = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(is_word) || code[..at].ends_with("::") {
                continue;
            }
            paths_below(code, at, &[], &own, &mut names);
        }
    }
    names.retain(|(_, path)| !path.is_empty());
    names
}

/// Collects the paths that begin at an offset, after the segments `before`; returns where the text
/// continues behind them.
fn paths_below(code: &str, at: usize, before: &[String], own: &[String], names: &mut Vec<(usize, Vec<String>)>) -> usize {
    if code[at..].starts_with('{') {
        let mut next = at + 1;
        loop {
            next += code[next..].len() - code[next..].trim_start_matches([' ', '\n', ',']).len();
            if next >= code.len() || code[next..].starts_with('}') {
                return next + 1;
            }
            let end = paths_below(code, next, before, own, names);
            // Skips text that is no path, such as `as x` or `*`.
            next = if end > next { end } else { next + code[next..].chars().next().map_or(1, char::len_utf8) };
        }
    }
    let segment = word(&code[at..]);
    let mut path = before.to_vec();
    match segment {
        "crate" | "self" => {}
        "super" if before.is_empty() => path = own[..own.len().saturating_sub(1)].to_vec(),
        "super" => _ = path.pop(),
        name => path.push(name.to_owned()),
    }
    let end = at + segment.len();
    if !segment.is_empty() && code[end..].starts_with("::") {
        return paths_below(code, end + 2, &path, own, names);
    }
    names.push((at, path));
    end
}

/// Finds where the crate is named: at the start of a path, or in a `use` or `extern crate`.
fn uses_of<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let (before, after) = (&code[..*at], &code[at + name.len()..]);
        if before.chars().next_back().is_some_and(is_word) || after.chars().next().is_some_and(is_word) {
            return false;
        }
        // `::clap` starts a path; `self::clap` continues one.
        let path_start = match before.strip_suffix("::") {
            Some(before) => !before.chars().next_back().is_some_and(|c| is_word(c) || c == '>'),
            None => true,
        };
        let statement = &before[before.rfind([';', '}']).map_or(0, |end| end + 1)..];
        let in_use =
            statement.trim_start().trim_start_matches("pub ").starts_with("use ") || statement.trim_start().starts_with("extern crate ");
        path_start && (after.starts_with("::") || (in_use && !statement.trim_end().ends_with(" as")))
    })
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the source folder is readable") {
        let path = entry.expect("the source folder is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The names of tests that `docs/architecture.md` gives for its invariants, and the paths that it
/// refers readers to.
#[test]
fn the_manual_names_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let code: String =
        ["src", "tests"].iter().flat_map(|top| rust_files(&root.join(top))).map(|file| fs::read_to_string(file).unwrap()).collect();
    let (mut tests, mut missing) = (0, Vec::new());
    for name in manual.split('`').skip(1).step_by(2) {
        let is_test = name.len() > 20 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_test {
            tests += 1;
            let there = code.contains(&format!("fn {name}("));
            missing.extend((!there).then(|| format!("no test is called {name}")));
        }
        let is_path = name.contains('/') && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c)) && !name.starts_with('/');
        if is_path && !["", "src", "src/http/phaseo"].iter().any(|below| root.join(below).join(name).exists()) {
            missing.push(format!("there is no {name}"));
        }
    }
    assert!(tests > 15 && missing.is_empty(), "{tests} tests named; {missing:?}");
}
