//! Inputs, and batches from creation to end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::client;

const CHAT: &str = "/v1/chat/completions";
/// How often a batch is looked at in the beginning, and how often later. Each look costs the daemon
/// a connection.
const FIRST_LOOKS: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(50);
/// How long the beginning lasts: without it, a short run would be measured too coarsely.
const BEGINNING: f64 = 2.0;

/// An answer of the usual size.
pub const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is forty-two, as everybody knows."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}"#;

/// The body of a row of the usual size.
pub fn small_body(row: u64) -> String {
    small_body_for("m", row)
}

/// The body of a row of the usual size, for a given model.
pub fn small_body_for(model: &str, row: u64) -> String {
    let question = format!("Question number {row}, which is somewhat longer than needed to make the row of usual size, is this one here.");
    body(model, "load", &question)
}

/// The body of a row. Our upstreams tell rows apart by the model and by the user, the `mark`.
pub fn body(model: &str, mark: &str, question: &str) -> String {
    format!(r#"{{"model":"{model}","user":"{mark}","messages":[{{"role":"user","content":"{question}"}}]}}"#)
}

/// Wraps a body into the line of a row.
pub fn line(row: u64, body: &str) -> String {
    format!(r#"{{"custom_id":"row-{row}","method":"POST","url":"{CHAT}","body":{body}}}"#)
}

/// Writes a file of rows with these bodies, and uploads it; returns its id.
pub fn upload(daemon: SocketAddr, dir: &Path, rows: u64, body: impl Fn(u64) -> String) -> io::Result<String> {
    let path = dir.join("input.jsonl");
    let mut file = BufWriter::new(File::create(&path)?);
    for row in 0..rows {
        writeln!(file, "{}", line(row, &body(row)))?;
    }
    file.flush()?;
    client::upload(daemon, &path)
}

/// Creates a batch of a file; returns its id.
pub fn create(daemon: SocketAddr, file: &str) -> io::Result<String> {
    let order = json!({ "input_file_id": file, "endpoint": CHAT, "completion_window": "24h" });
    client::text_field(&client::post_json(daemon, "/v1/batches", &order)?, "id")
}

/// Creates an urgent batch; returns its id, or `None` if the daemon does not know urgent batches.
pub fn create_urgent(daemon: SocketAddr, file: &str) -> io::Result<Option<String>> {
    let order = json!({ "input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "priority": "urgent" });
    match client::post_json(daemon, "/v1/batches", &order) {
        Ok(batch) => Ok(Some(client::text_field(&batch, "id")?)),
        Err(error) if error.to_string().contains("unknown_parameter") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The state of a batch at a moment.
pub struct Look {
    pub status: String,
    pub done: u64,
    /// The id of the batch's output file, once it exists.
    pub output: Option<String>,
}

impl Look {
    pub fn is_validated(&self) -> bool {
        self.status != "validating"
    }

    pub fn has_ended(&self) -> bool {
        self.status == "completed"
    }
}

/// Looks at a batch.
///
/// # Errors
/// Also if the batch ended other than completed, or a row failed: figures of such a batch mean
/// nothing.
pub fn look(daemon: SocketAddr, batch: &str) -> io::Result<Look> {
    let object = client::get_json(daemon, &format!("/v1/batches/{batch}"))?;
    let status = client::text_field(&object, "status")?;
    let counts = &object["request_counts"];
    let known = matches!(status.as_str(), "validating" | "in_progress" | "finalizing" | "completed");
    if !known || counts["failed"].as_u64() != Some(0) {
        return Err(io::Error::other(format!("the batch went wrong: {object}")));
    }
    Ok(Look { status, done: counts["completed"].as_u64().unwrap_or(0), output: object["output_file_id"].as_str().map(str::to_owned) })
}

/// Waits until a batch is as wanted, looking at it every `pause`.
pub fn wait(daemon: SocketAddr, batch: &str, pause: Duration, wanted: impl Fn(&Look) -> bool) -> io::Result<Look> {
    loop {
        let look = look(daemon, batch)?;
        if wanted(&look) {
            return Ok(look);
        }
        std::thread::sleep(pause);
    }
}

/// The course of a batch.
pub struct Run {
    rows: u64,
    /// From its creation to the end of its validation, in seconds.
    pub validation: f64,
    /// From its creation to its end, in seconds.
    pub took: f64,
    /// Seconds since the creation, and the rows that were done by then.
    samples: Vec<(f64, u64)>,
    pub output: Option<String>,
}

impl Run {
    /// Creates a batch and follows it to its end.
    pub fn follow(daemon: SocketAddr, file: &str, rows: u64) -> io::Result<Self> {
        let started = Instant::now();
        let batch = create(daemon, file)?;
        let mut run = Self { rows, validation: f64::NAN, took: f64::NAN, samples: Vec::new(), output: None };
        loop {
            let look = look(daemon, &batch)?;
            let now = started.elapsed().as_secs_f64();
            if look.is_validated() && run.validation.is_nan() {
                run.validation = now;
            }
            run.samples.push((now, look.done));
            if look.has_ended() {
                (run.took, run.output) = (now, look.output);
                return Ok(run);
            }
            std::thread::sleep(if now < BEGINNING { FIRST_LOOKS } else { LOOK });
        }
    }

    /// Rows a second from creation to end.
    pub fn whole_rate(&self) -> f64 {
        self.rows as f64 / self.took
    }

    /// Rows a second from the moment a tenth of the rows were done until nine tenths were.
    pub fn steady_rate(&self) -> f64 {
        let (low, high) = (self.rows / 10, self.rows - self.rows / 10);
        (high - low) as f64 / (self.reached(high) - self.reached(low))
    }

    /// The time at which this many rows were done, in seconds since the creation, interpolated
    /// between two looks.
    fn reached(&self, done: u64) -> f64 {
        let next = self.samples.iter().position(|(_, so_far)| *so_far >= done).unwrap_or(self.samples.len() - 1);
        let ((from, before), (to, after)) = (self.samples[next.saturating_sub(1)], self.samples[next]);
        let share = (done.saturating_sub(before)) as f64 / after.saturating_sub(before).max(1) as f64;
        from + (to - from) * share
    }
}
