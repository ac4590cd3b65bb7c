//! Uploaded content that has changed since its upload: the daemon reports the damage and never
//! serves such content as if it were good.

use std::path::PathBuf;

use serde_json::json;

use crate::support::api::id_of;
use crate::support::daemon::Daemon;
use crate::support::http::{self, Request};
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

/// The path of the only content of this size.
fn place(daemon: &Daemon, bytes: usize) -> PathBuf {
    let files = daemon.data_dir().join("files").read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found = files.filter(|path| path.metadata().expect("a file").len() == bytes as u64);
    let place = found.next().expect("the content");
    assert!(found.next().is_none(), "two of {bytes} bytes");
    place
}

/// Changes a digit in the middle of the content, which stays valid JSON.
fn flip(daemon: &Daemon, bytes: usize) {
    let path = place(daemon, bytes);
    let mut content = std::fs::read(&path).expect("the content");
    let middle = content.len() / 2;
    let digit = content[middle..].iter().position(u8::is_ascii_digit).expect("a digit") + middle;
    content[digit] = if content[digit] == b'0' { b'1' } else { b'0' };
    std::fs::write(path, content).expect("it can be written");
}

fn cut(daemon: &Daemon, bytes: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(place(daemon, bytes)).expect("the content");
    file.set_len(bytes as u64 - 1).expect("it can be cut");
}

fn found(daemon: &Daemon) -> u64 {
    let metrics = daemon.get("/metrics").text();
    let count = metrics.lines().find_map(|line| line.strip_prefix("batchd_store_damaged_contents_total "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
}

#[test]
fn a_download_of_damaged_content_never_ends_well() {
    let daemon = Daemon::start();
    // Contents of a single piece, of several pieces, and of a whole number of pieces.
    for bytes in [1_000, 1_000_000, 4 * (256 << 10)] {
        let content: Vec<u8> = (0..bytes).map(|n| b'0' + (n % 10) as u8).collect();
        let file = daemon.upload(&content);
        let path = format!("/v1/files/{file}/content");
        assert!(daemon.content(&file) == content);
        let before = found(&daemon);
        flip(&daemon, bytes);
        match http::send(daemon.addr(), Request::get(&path)) {
            Ok(answer) => {
                assert_eq!((bytes, answer.header("x-should-retry")), (1_000, Some("false")), "{}", answer.text());
                assert_eq!(answer.error_code(500), "file_damaged");
                assert!(answer.text().contains(&format!("the content of the file `{file}` is damaged: its bytes are not")));
                let told = http::send(daemon.addr(), Request::get(&format!("/phaseo{path}"))).expect("an answer").expect(500);
                assert_eq!((&told["error"], &told["reason"]), (&json!("gateway_error"), &json!("file_damaged")), "{told}");
            }
            Err(_) => assert!(bytes > 1_000, "a small file is an error before anything is answered"),
        }
        assert!(found(&daemon) > before);
        let part = daemon.send(Request::get(&path).header("range", "bytes=0-99"));
        assert_eq!((part.status(), &part.body[..]), (206, &content[..100]), "of a range only the size is known");
        cut(&daemon, bytes);
        for request in [Request::get(&path), Request::get(&path).header("range", "bytes=0-99"), Request::get(&format!("/phaseo{path}"))] {
            let answer = daemon.send(request);
            assert_eq!(answer.status(), 500, "{}", answer.text());
            let says = format!("it has {} bytes on the disk, and had {bytes} when it was uploaded", bytes - 1);
            assert!(answer.text().contains("file_damaged") && answer.text().contains(&says), "{}", answer.text());
        }
        let log = std::fs::read_to_string(daemon.dir().join("stderr.log")).expect("the log");
        let told = |line: &str| line.contains(" ERROR ") && line.contains(&file) && line.contains("the content of a file is damaged");
        assert!(log.lines().any(told), "{log}");
        // The next content must be the only one of its size.
        daemon.delete(&format!("/v1/files/{file}")).expect(200);
    }
}

#[test]
fn a_batch_of_a_damaged_file_fails_and_says_why() {
    let daemon = Daemon::start();
    // Longer than the daemon reads at once.
    let many_faults = "nonsense 0\n".repeat(60_000);
    let duplicates = rows::many(1, rows::INSTANT).repeat(3);
    for (content, damage) in [
        (rows::many(40, rows::INSTANT), flip as fn(&Daemon, usize)),
        (rows::many(41, rows::INSTANT), cut),
        // Damage may cause any further faults.
        (many_faults, flip),
        (duplicates, flip),
        (format!("{}\n\n\n0\n", rows::many(1, rows::INSTANT)), flip),
    ] {
        let file = daemon.upload(&content);
        damage(&daemon, content.len());
        let batch = daemon.wait_ended(&daemon.create(&file), wait::A_WHILE);
        assert_eq!(batch["status"], "failed", "{batch}");
        let problems = batch["errors"]["data"].as_array().expect("problems");
        assert_eq!((problems.len(), &problems[0]["code"]), (1, &json!("input_damaged")), "{batch}");
        assert!(problems[0]["message"].as_str().is_some_and(|text| text.contains(&file)), "{batch}");
    }
    assert_eq!(found(&daemon), 5);
}

#[test]
fn whatever_reads_all_of_a_damaged_file_says_so() {
    let upstream = FakeUpstream::start(|call| if call.row.ends_with('3') { Reply::error(400) } else { Reply::ok(call) });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let content = rows::many(40, "m");
    let batch = daemon.complete(&content);
    let file = batch["input_file_id"].as_str().expect("an id");
    daemon.get(&format!("/v1/files/{file}/cost-estimate")).expect(200);
    flip(&daemon, content.len());
    assert_eq!(daemon.get(&format!("/v1/files/{file}/cost-estimate")).error_code(500), "file_damaged");
    assert_eq!(daemon.post_empty(&format!("/v1/batches/{}/retry", id_of(&batch))).error_code(500), "file_damaged");
    let quoted = daemon.post("/phaseo/v1/batches", &json!({ "input_file_id": file })).expect(500);
    assert_eq!(quoted["reason"], "file_damaged", "{quoted}");
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"].as_array().map(Vec::len), Some(1), "no batch was made");
    assert_eq!(daemon.data_dir().join("spool").read_dir().expect("a folder").count(), 0);
}
