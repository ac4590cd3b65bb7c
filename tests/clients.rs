//! The official OpenAI SDKs, the published Phaseo SDKs, and the libraries that verify webhooks,
//! unmodified, against the daemon.
//!
//! The SDKs are installed once below the target directory, from `clients/*requirements.txt`,
//! `clients/package.json` and `clients/phaseo`. Where Python or
//! Node is missing, the test says so and passes, unless `CI=true`.

#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use support::daemon::{Daemon, wait_exit};
use support::wait;

/// Covers downloading and unpacking on a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const SCRIPT_LIMIT: Duration = Duration::from_secs(180);

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A folder below the target directory, wherever that directory is.
fn installed(language: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    target.join("clients").join(language)
}

#[expect(clippy::disallowed_methods, reason = "CI is not a setting of the daemon")]
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED: {what} was not tested: {why}");
    assert!(!in_ci(), "{line}; CI must test it");
    wait::say(&line);
}

/// Runs the command to its end within `limit`; returns its output if it failed.
fn succeed(command: &mut Command, limit: Duration, log: &Path) -> Result<(), String> {
    let output = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let spawned = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
    let mut child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
    let status = wait_exit(&mut child, limit);
    let said = std::fs::read_to_string(log).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}\n{said}")),
        None => Err(format!("not done within {limit:?}\n{said}")),
    }
}

/// Tests run at the same time, and some need the same packages: only one test installs at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Runs `install` unless it has succeeded before with the same `requirement`.
fn install_once(dir: &Path, requirement: &str, install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let _one = INSTALLING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let marker = dir.join("installed");
    if std::fs::read_to_string(&marker).is_ok_and(|done| done == requirement) {
        return Ok(());
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|error| error.to_string())?;
    }
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    install()?;
    std::fs::write(&marker, requirement).map_err(|error| error.to_string())
}

/// Runs the script against a fresh daemon; its last line must be `OK`.
fn check(language: &str, dir: &Path, command: &mut Command) {
    check_against(&Daemon::start(), language, dir, command);
}

fn check_against(daemon: &Daemon, language: &str, dir: &Path, command: &mut Command) {
    let log = dir.join("script.log");
    command.current_dir(daemon.dir()).env("OPENAI_BASE_URL", daemon.base_url()).env("OPENAI_API_KEY", "test-key");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"] {
        command.env_remove(name);
    }
    if let Err(said) = succeed(command, SCRIPT_LIMIT, &log) {
        panic!("{language} client: {said}");
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("OK "), "{language} client did not reach its end:\n{said}");
    wait::say(&format!("clients: {language}: {last}"));
}

/// Creates a virtual environment with the packages of a requirements file; otherwise returns why
/// there is none.
fn python_with(requirements_file: &str, dir: &Path) -> Result<PathBuf, String> {
    let requirements = std::fs::read_to_string(scripts().join(requirements_file)).expect("the requirements");
    let version = Command::new("python3").args(["-c", "import sys, venv, ensurepip; print(sys.version)"]).output();
    let version = match version {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => return Err(format!("python3: {error}")),
    };
    let python = dir.join("venv/bin/python");
    install_once(dir, &format!("{requirements}{version}"), || {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(dir.join("venv")), INSTALL_LIMIT, &dir.join("venv.log"))?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(scripts().join(requirements_file));
        succeed(&mut pip, INSTALL_LIMIT, &dir.join("pip.log"))
    })?;
    Ok(python)
}

#[test]
fn the_python_sdk_works_unmodified() {
    let dir = installed("python");
    match python_with("requirements.txt", &dir) {
        Ok(python) => check("python", &dir, Command::new(&python).arg(scripts().join("openai_client.py"))),
        Err(why) => skip("the Python SDK", &why),
    }
}

/// The SDK brings a package named `gen`, and so has an environment of its own.
#[test]
fn the_phaseo_python_sdk_works_unmodified() {
    let dir = installed("phaseo");
    match python_with("phaseo_requirements.txt", &dir) {
        Ok(python) => {
            let daemon = Daemon::start();
            let script = scripts().join("phaseo_client.py");
            check_against(&daemon, "phaseo", &dir, Command::new(&python).arg(script).arg(daemon.base_url()));
        }
        Err(why) => skip("the Phaseo SDK", &why),
    }
}

/// The crate's dependencies are not part of the daemon's own tree: the client is built separately.
#[test]
fn the_phaseo_rust_crate_works_unmodified() {
    let dir = installed("phaseo-rust");
    std::fs::create_dir_all(&dir).expect("a folder");
    let manifest = scripts().join("phaseo/Cargo.toml");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(dir.join("target"));
    if let Err(why) = succeed(&mut build, INSTALL_LIMIT, &dir.join("build.log")) {
        return skip("the Phaseo crate", &why);
    }
    let daemon = Daemon::start();
    let mut client = Command::new(dir.join("target/debug/phaseo-client"));
    client.env("PHASEO_BASE_URL", daemon.base_url()).env("PHASEO_API_KEY", "phaseo_v1_sk_abcdefghijkl_a-secret");
    check_against(&daemon, "phaseo-rust", &dir, &mut client);
}

/// Creates a folder with the packages for Node; otherwise returns why there is none.
fn node_modules() -> Result<PathBuf, String> {
    let version = match Command::new("node").arg("--version").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => return Err(format!("node: {error}")),
    };
    let lock = std::fs::read_to_string(scripts().join("package-lock.json")).expect("package-lock.json");
    let dir = installed("node");
    install_once(&dir, &format!("{lock}{version}"), || {
        for name in ["package.json", "package-lock.json"] {
            std::fs::copy(scripts().join(name), dir.join(name)).map_err(|error| error.to_string())?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir);
        succeed(&mut npm, INSTALL_LIMIT, &dir.join("npm.log"))
    })?;
    Ok(dir)
}

#[test]
fn the_node_sdk_works_unmodified() {
    match node_modules() {
        Ok(dir) => {
            // Node looks for modules beside the script, so the script goes beside the modules.
            let script = dir.join("openai_client.mjs");
            std::fs::copy(scripts().join("openai_client.mjs"), &script).expect("a copy of the script");
            check("node", &dir, Command::new("node").arg(&script));
        }
        Err(why) => skip("the Node SDK", &why),
    }
}

/// Secrets of webhooks mean the same key to every library that verifies messages.
#[test]
fn messages_verify_with_the_libraries_of_their_receivers() {
    let daemon = || Daemon::with(&["--webhook-standard-headers", "on"]);
    let dir = installed("webhooks");
    match python_with("webhook_requirements.txt", &dir) {
        Ok(python) => check_against(&daemon(), "webhooks", &dir, Command::new(&python).arg(scripts().join("webhook_client.py"))),
        Err(why) => skip("verifying messages in Python", &why),
    }
    match node_modules() {
        Ok(modules) => {
            let script = modules.join("webhook_client.mjs");
            std::fs::copy(scripts().join("webhook_client.mjs"), &script).expect("a copy of the script");
            // The other test of these modules may be writing its log beside them.
            std::fs::create_dir_all(&dir).expect("a folder");
            check_against(&daemon(), "webhooks in node", &dir, Command::new("node").arg(&script));
        }
        Err(why) => skip("verifying messages in Node", &why),
    }
}

/// Each example of the manual is in the README verbatim, and prints this text at its end.
const EXAMPLES: [(&str, &[&str]); 5] = [
    ("first.sh", &["\"completed\":2", "\"custom_id\":\"trains\""]),
    ("first.py", &["completed", "tides Simulated answer to \"Why are there tides?\""]),
    ("first.mjs", &["completed", "trains Simulated answer to \"What is a night train?\""]),
    ("first_batchrouter.sh", &["ticket-7", "Simulated answer"]),
    ("first_phaseo.py", &["completed", "Simulated answer to \"What is a night train?\""]),
];

#[test]
fn the_examples_run_and_are_those_of_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let daemon = Daemon::start();
    for (name, said) in EXAMPLES {
        let example = std::fs::read_to_string(root.join("docs/examples").join(name)).expect("the example");
        assert!(readme.contains(&example), "docs/examples/{name} is not in the README");
        let program = match name {
            "first.py" => python_with("requirements.txt", &installed("python")),
            "first_phaseo.py" => python_with("phaseo_requirements.txt", &installed("phaseo")),
            "first.mjs" => node_modules().map(|_| PathBuf::from("node")),
            _ => match Command::new("curl").arg("--version").output() {
                Ok(_) => Ok(PathBuf::from("sh")),
                Err(error) => Err(format!("curl: {error}")),
            },
        };
        let program = match program {
            Ok(program) => program,
            Err(why) => {
                skip(name, &why);
                continue;
            }
        };
        let beside = if name == "first.mjs" { installed("node") } else { daemon.dir().to_owned() };
        let script = beside.join(name);
        let here = example.replace("http://127.0.0.1:7400", &format!("http://{}", daemon.addr()));
        std::fs::write(&script, here).expect("a copy of the example");
        let log = daemon.dir().join("example.log");
        let done = succeed(Command::new(program).arg(&script).current_dir(daemon.dir()), SCRIPT_LIMIT, &log);
        let told = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(done.is_ok() && said.iter().all(|text| told.contains(text)), "docs/examples/{name}: {done:?}\n{told}");
    }
}
