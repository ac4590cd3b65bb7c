//! Who may read the data directory, with a real daemon and a real run.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::daemon::{batchd, signal, temp_dir, wait_exit};
use super::support::rows;
use super::{exits, finish, run, text, write};

/// Builds the command as run by a user whose umask removes no permissions.
fn without_umask(dir: &Path, args: &[&str]) -> Command {
    let batchd = batchd(dir);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0 && exec \"$0\" \"$@\""]).arg(batchd.get_program()).args(args).current_dir(dir).stdin(Stdio::null());
    for (name, value) in batchd.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Lists everything below a folder, with its permissions.
fn modes(folder: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry")) {
        let metadata = entry.metadata().expect("its metadata");
        all.push((entry.path(), metadata.is_dir(), metadata.permissions().mode() & 0o7777));
        if metadata.is_dir() {
            all.extend(modes(&entry.path()));
        }
    }
    all
}

fn assert_private(data: &Path) {
    assert_eq!(std::fs::metadata(data).expect("its metadata").permissions().mode() & 0o7777, 0o700);
    let all = modes(data);
    assert!(all.iter().filter(|(_, is_folder, _)| !is_folder).count() >= 5, "{all:?}");
    for (path, is_folder, mode) in all {
        assert_eq!(mode, if is_folder { 0o700 } else { 0o600 }, "{mode:o} {}", path.display());
    }
}

#[test]
fn nobody_else_is_let_in_whatever_the_umask() {
    let dir = temp_dir();
    let data = dir.path().join("data");
    write(dir.path(), "in.jsonl", &rows::many(20, rows::INSTANT));
    exits(&finish(without_umask(dir.path(), &["run", "in.jsonl", "-o", "out.jsonl", "--data-dir", "data"]), None), 0);
    assert_private(&data);

    let mut daemon = without_umask(dir.path(), &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
    let mut daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("batchd starts");
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(daemon.id(), "TERM");
    let status = wait_exit(&mut daemon, Duration::from_secs(30));
    assert!(line.starts_with("listening on"), "{line}");
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert_private(&data);
}

#[test]
fn a_directory_that_cannot_be_trusted_makes_exit_code_two() {
    let dir = temp_dir();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("precious"), "precious").unwrap();
    symlink(dir.path().join("precious"), dir.path().join("data/seal.key.new")).unwrap();
    let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
    exits(&output, 2);
    let said = text(&output.stderr);
    assert!(said.contains("data/seal.key.new: it is a link where a file should be; "), "{said}");
    assert!(said.contains("others were let in"), "the permissions were repaired and it said so: {said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("precious")).unwrap(), "precious");
}
