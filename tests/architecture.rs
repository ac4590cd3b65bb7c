//! Holds the code to the picture in `src/lib.rs`: which module may name which, and which crates
//! belong to one module alone.
//!
//! Textual on purpose: it reads the source as anybody would, and cannot see through macros or
//! `super::super`. A module that does not exist yet breaks no rule.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, and what it may name as `crate::...`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("descriptors", &[]),
    ("catalog", &["domain"]),
    ("provider", &["domain", "descriptors"]),
    ("store", &["domain"]),
    ("route", &["domain", "catalog"]),
    ("executor", &["domain", "catalog", "route", "store", "provider"]),
    ("http", &["domain", "descriptors", "catalog", "route", "store", "executor"]),
    ("courier", &["domain", "descriptors", "store", "provider"]),
    ("daemon", &["domain", "descriptors", "catalog", "route", "store", "provider", "executor", "courier", "http"]),
    ("client", &["domain"]),
    ("cli", &["domain", "descriptors", "catalog", "daemon", "client"]),
];

/// A crate, and the only modules or files that may name it.
const OWNED: &[(&str, &[&str])] = &[
    ("sled", &["store"]),
    ("bincode", &["store"]),
    ("notify", &["catalog"]),
    ("notify_debouncer_full", &["catalog"]),
    ("hyper", &["provider", "http", "client", "courier"]),
    ("hyper_util", &["provider", "http", "client", "courier"]),
    ("hyper_rustls", &["provider", "http", "courier"]),
    ("rustls", &["provider", "http"]),
    ("axum", &["http"]),
    ("clap", &["cli", "daemon/config"]),
    ("sd_notify", &["daemon"]),
    ("schemars", &["catalog"]),
    ("comfy_table", &["cli"]),
    ("prometheus_client", &["http"]),
    ("flate2", &["http"]),
    ("tiktoken_rs", &["route"]),
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
        check("executor/mod.rs", "use crate::{domain, store, route};\nuse crate::http::x;\n"),
        ["src/executor/mod.rs:2: executor names http"]
    );
    assert_eq!(check("daemon/config.rs", "use clap::Parser;\nuse sd_notify::x;"), Vec::<String>::new());
    assert_eq!(check("daemon/mod.rs", "use clap::Parser;\n"), ["src/daemon/mod.rs:1: daemon names the crate clap"]);
    assert_eq!(check("store.rs", "use sled::Db;\nuse crate::catalog;"), ["src/store.rs:2: store names catalog"]);
    assert_eq!(check("novelty/mod.rs", ""), ["src/novelty/mod.rs:1: novelty has no place in the layer rule"]);
    assert_eq!(check("lib.rs", "pub mod http;"), Vec::<String>::new());
}

/// The breaches of one file, named relative to `src`, in order of line.
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
    for (offset, name) in crate_names(&code) {
        if name != module && !may_name.contains(&name) && MAY_NAME.iter().any(|(known, _)| *known == name) {
            found.push((offset, format!("{module} names {name}")));
        }
    }
    for (name, owners) in OWNED {
        let owned =
            owners.iter().any(|owner| *owner == module || file.trim_end_matches(".rs") == *owner || file.starts_with(&format!("{owner}/")));
        if !owned {
            found.extend(uses_of(&code, name).map(|offset| (offset, format!("{module} names the crate {name}"))));
        }
    }
    let mut lines: Vec<_> = found.into_iter().map(|(offset, what)| (code[..offset].matches('\n').count() + 1, what)).collect();
    lines.sort();
    lines.dedup();
    lines.into_iter().map(|(line, what)| format!("src/{file}:{line}: {what}")).collect()
}

/// Line comments replaced by nothing, so that offsets keep their line.
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

/// Every first name after `crate::`, in groups too, with its offset.
fn crate_names(code: &str) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    for (at, mark) in code.match_indices("crate::") {
        let start = at + mark.len();
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        if !code[start..].starts_with('{') {
            names.push((start, word(&code[start..])));
            continue;
        }
        let (mut depth, mut expects_name) = (0, false);
        for (index, character) in code[start..].char_indices() {
            match character {
                '{' => {
                    depth += 1;
                    expects_name = depth == 1;
                }
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' => expects_name = depth == 1,
                _ if expects_name && is_word(character) => {
                    names.push((start + index, word(&code[start + index..])));
                    expects_name = false;
                }
                _ => {}
            }
        }
    }
    names
}

/// Where the crate is named: at the start of a path, or in a `use` or `extern crate`.
fn uses_of<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let (before, after) = (&code[..*at], &code[at + name.len()..]);
        if before.chars().next_back().is_some_and(is_word) || after.chars().next().is_some_and(is_word) {
            return false;
        }
        // `::clap` starts a path; `self::clap` goes on with one.
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
