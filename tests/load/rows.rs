//! Small chat rows through an upstream that answers at once, against what an independent load
//! generator gets out of the same upstream with the same bodies. Both use both cores.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::peers::{Server, send, wrk_posting};

/// Calls at the same time, on both sides.
const CONNECTIONS: u32 = 64;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is forty-two, as everybody knows."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}"#;

fn body(row: u32) -> String {
    format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"Question number {row}, which is somewhat longer than needed to make the row of usual size, is this one here."}}]}}"#
    )
}

pub fn run(rows: u32, seconds: u32) -> io::Result<String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let upstream = Server::answering(dir.path(), ANSWER)?;
    let url = format!("http://{}/v1/chat/completions", upstream.address);
    let before = wrk_posting(&url, &body(1_234), CONNECTIONS, seconds, dir.path())?;
    let upstream_url = format!("http://{}", upstream.address);
    let limit = CONNECTIONS.to_string();
    let daemon = Server::batchd_free(dir.path(), &["--upstream", &upstream_url, "--upstream-concurrency", &limit])?;
    let input = dir.path().join("input.jsonl");
    write_input(&input, rows)?;
    let file = upload(&daemon, &input)?;
    let idle = daemon.cpu_seconds()?;
    let started = Instant::now();
    let order = format!(r#"{{"input_file_id":"{file}","endpoint":"/v1/chat/completions","completion_window":"24h"}}"#);
    let batch = field(&send(daemon.address, "POST", "/v1/batches", "application/json", order.as_bytes())?, "id")?;
    loop {
        let answer = send(daemon.address, "GET", &format!("/v1/batches/{batch}"), "application/json", b"")?;
        match field(&answer, "status")?.as_str() {
            "completed" => break,
            "validating" | "in_progress" | "finalizing" => std::thread::sleep(Duration::from_millis(50)),
            other => return Err(io::Error::other(format!("the batch is {other}"))),
        }
    }
    let took = started.elapsed().as_secs_f64();
    let after = wrk_posting(&url, &body(1_234), CONNECTIONS, seconds, dir.path())?;
    let (rate, ceiling) = (f64::from(rows) / took, (before + after) / 2.0);
    let mut report = format!("{rows} rows, {CONNECTIONS} calls at a time, an upstream that answers at once, both cores\n");
    let _ = writeln!(
        report,
        "upstream alone {before:.0}/s before and {after:.0}/s after, batchd {rate:.0} rows/s, ratio {:.2}",
        rate / ceiling
    );
    let cpu = daemon.cpu_seconds()? - idle;
    let written = daemon.written_bytes()?;
    let _ = writeln!(
        report,
        "{:.3} CPU s per 1,000 rows, at most {} MiB resident, {} bytes written a row",
        cpu * 1_000.0 / f64::from(rows),
        daemon.peak_resident()? >> 20,
        written / u64::from(rows)
    );
    Ok(report)
}

fn write_input(path: &Path, rows: u32) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in 0..rows {
        writeln!(file, r#"{{"custom_id":"row-{row}","method":"POST","url":"/v1/chat/completions","body":{}}}"#, body(row))?;
    }
    file.flush()
}

fn upload(daemon: &Server, input: &Path) -> io::Result<String> {
    let content = fs::read(input)?;
    let mut form = b"--XX\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
        --XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"input.jsonl\"\r\n\r\n"
        .to_vec();
    form.extend_from_slice(&content);
    form.extend_from_slice(b"\r\n--XX--\r\n");
    field(&send(daemon.address, "POST", "/v1/files", "multipart/form-data; boundary=XX", &form)?, "id")
}

fn field(answer: &[u8], name: &str) -> io::Result<String> {
    let value: serde_json::Value = serde_json::from_slice(answer)?;
    value[name].as_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no `{name}` in {value}")))
}
