//! The daemon under systemd: what it says to the manager, and what the unit asks of both.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::support::daemon::{batchd, signal, temp_dir, wait_exit};
use super::support::wait::SOON;

const PROVIDER: &str = "schema = 1\nid = \"sim\"\nname = \"Sim\"\nkind = \"simulated\"\n";

/// The next message, without pings of the watchdog.
fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4_096];
    let length = manager.recv(&mut buffer).expect("a message in time");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Reloads, and returns the message that ends the reload.
fn reload(daemon: &Child, manager: &UnixDatagram) -> String {
    signal(daemon.id(), "HUP");
    let begins = heard(manager);
    let lines: Vec<_> = begins.lines().collect();
    let [first, time, status] = lines[..] else { panic!("{begins}") };
    let micros = time.strip_prefix("MONOTONIC_USEC=").and_then(|micros| micros.parse::<u64>().ok());
    assert!(first == "RELOADING=1" && micros.is_some() && status == "STATUS=reloading", "{begins}");
    heard(manager)
}

/// With `Type=notify-reload`, a reload that does not say its end leaves the unit reloading until
/// systemd gives it up and kills the daemon.
#[test]
fn a_reload_says_when_it_begins_and_ends() {
    let dir = temp_dir();
    let manager = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a limit");
    let seeds = dir.path().join("seeds");
    std::fs::create_dir_all(seeds.join("providers")).expect("a folder");
    std::fs::write(seeds.join("providers/sim.toml"), PROVIDER).expect("a seed");
    let mut serve = batchd(dir.path());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", "data", "--catalog-dir", "seeds"]);
    serve.env("NOTIFY_SOCKET", dir.path().join("notify")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = serve.spawn().expect("batchd starts");

    let ready = heard(&manager);
    assert!(ready.starts_with("READY=1\nSTATUS=serving on http://127.0.0.1:"), "{ready}");
    assert_eq!(reload(&daemon, &manager), ready);
    std::fs::write(seeds.join("providers/sim.toml"), "broken").expect("a seed");
    let refused = reload(&daemon, &manager);
    let serving = ready.trim_end();
    let expected = format!("{serving}; not reloaded: the catalog has 1 fault: providers/sim.toml:1:");
    assert!(refused.starts_with(&expected) && refused.lines().count() == 2, "{refused}");
    std::fs::write(seeds.join("providers/sim.toml"), PROVIDER).expect("a seed");
    assert_eq!(reload(&daemon, &manager), ready);
    signal(daemon.id(), "TERM");
    assert!(heard(&manager).starts_with("STOPPING=1\n"));
    assert!(wait_exit(&mut daemon, Duration::from_secs(40)).is_some_and(|status| status.success()));
}

/// The assignments of the unit, each with its line.
fn assignments(unit: &str) -> Vec<(&str, &str)> {
    unit.lines().filter(|line| !line.starts_with(['#', '['])).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_bounds_what_the_daemon_may_do() {
    let unit = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/batchd.service")).expect("the unit");
    let assignments = assignments(&unit);
    let all = |key: &str| assignments.iter().filter(|(name, _)| *name == key).map(|(_, value)| *value).collect::<Vec<_>>();
    for (key, value) in [
        ("Type", "notify-reload"),
        ("LimitCORE", "0"),
        ("MemoryMax", "2G"),
        ("TasksMax", "1024"),
        ("PrivateUsers", "yes"),
        ("PrivateIPC", "yes"),
        ("NoExecPaths", "/"),
    ] {
        assert_eq!(all(key), [value], "{key}");
    }
    let denied = all("IPAddressDeny").join(" ");
    for network in ["169.254.0.0/16", "fe80::/10", "fd00:ec2::254"] {
        assert!(denied.split(' ').any(|each| each == network), "{network}: {denied}");
    }
    // Whatever the unit runs must be among what may be run.
    let may_run: Vec<_> = all("ExecPaths").join(" ").split(' ').map(str::to_owned).collect();
    let commands = assignments.iter().filter(|(name, _)| name.starts_with("Exec") && *name != "ExecPaths");
    let programs: Vec<_> = commands.filter_map(|(_, command)| command.split(' ').next()).collect();
    assert_eq!(programs, ["/usr/bin/batchd"]);
    assert!(programs.iter().all(|program| may_run.iter().any(|path| path == program)), "{may_run:?}");
}

/// Only where systemd is installed. A misspelt setting is ignored at run time, with a line in a log.
#[test]
fn systemd_knows_every_setting_of_the_unit() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else { return };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let number = version.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok()).expect("a version");
    let unit = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/batchd.service")).expect("the unit");
    let unit = unit.replace("/usr/bin/batchd", env!("CARGO_BIN_EXE_batchd"));
    let unit = if number < 253 { unit.replace("Type=notify-reload", "Type=notify") } else { unit };
    let dir = temp_dir();
    let path = dir.path().join("batchd.service");
    std::fs::write(&path, unit).expect("a copy");
    let told = Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("systemd-analyze runs");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let ours: Vec<_> = told.lines().filter(|line| line.contains("batchd.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
