//! `batchd demo`: the whole way once, through the HTTP API, in a minute and without any set-up.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::progress::{Display, ProgressLine};
use super::{FAILURE, INTERRUPTED, USAGE, block_on, complain, print, quiet_settings};
use crate::client::{Client, ClientError};
use crate::daemon::config::{Flags, Settings, Strings};
use crate::daemon::{Daemon, Environment, ServeError};
use crate::domain::money::Usd;

/// How often progress is polled.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `batchd demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Rows in the sample
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    /// Run the sample on this OpenAI-compatible server instead of the simulated provider
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The model to use with --upstream
    #[arg(long, value_name = "MODEL", requires = "upstream")]
    model: Option<String>,
}

/// The errors of a demonstration.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot write {path}: {reason}")]
    Write { path: String, reason: std::io::Error },
}

/// One batch of the sample.
struct Sample {
    name: &'static str,
    endpoint: &'static str,
    rows: String,
}

/// The environment of a demonstration: only the key of the server that was named.
struct DemoEnvironment(Environment);

impl Strings for DemoEnvironment {
    fn get(&self, name: &str) -> Result<Option<String>, crate::daemon::config::NotUnicode> {
        // Settings and provider keys that happen to be set must not turn a demonstration into a
        // bill.
        if name.starts_with("BATCHD_") && name != "BATCHD_UPSTREAM_API_KEY" {
            return Ok(None);
        }
        self.0.get(name)
    }
}

/// Runs the demonstration; returns the exit code.
pub(super) fn demo(args: &DemoArgs, env: Environment) -> u8 {
    let env: Environment = std::sync::Arc::new(DemoEnvironment(env));
    let folder = std::env::temp_dir().join(format!("batchd-demo-{}", std::process::id()));
    // Created exclusively: on a shared machine another user may have put a folder of that name
    // there.
    if let Err(error) = std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        return complain(&format!("cannot create {}: {error}", folder.display()), FAILURE);
    }
    let mut flags = Flags::default();
    flags.written.listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    flags.written.data_dir = Some(folder.join("data"));
    flags.written.min_free_bytes = Some(crate::daemon::config::ByteSize::bytes(0));
    flags.written.upstream = args.upstream.clone().map(|url| vec![url]);
    let (settings, _log) = match quiet_settings(&flags, &env) {
        Ok(settings) => settings,
        Err(error) => return complain(&error, USAGE),
    };
    let code = block_on(async {
        match show(args, &settings, env, &folder).await {
            Ok(code) => code,
            Err(error @ DemoError::Serve(ServeError::Start(_))) => complain(&error, USAGE),
            Err(error) => complain(&error, FAILURE),
        }
    });
    // The results stay; the store behind them was only for the demonstration.
    let _ = std::fs::remove_dir_all(folder.join("data"));
    code
}

async fn show(args: &DemoArgs, settings: &Settings, env: Environment, folder: &Path) -> Result<u8, DemoError> {
    let server = Daemon::start(settings, env).await?;
    let base = format!("http://{}/v1", server.address);
    print(&format!("batchd is listening on http://{} and stores in {}", server.address, settings.data_dir.display()));
    let shutdown = server.shutdown().clone();
    let running = server.run();
    let client = Client::new(base);
    let work = async {
        let shown = run_sample(args, &client, folder).await;
        shutdown.begin();
        shown
    };
    let (stopped, shown) = tokio::join!(running, async {
        // A signal stops the daemon; the demonstration must not continue without it.
        shutdown.drain().run_until_cancelled(work).await
    });
    stopped?;
    match shown {
        Some(Ok(())) => Ok(0),
        Some(Err(error)) => Err(error),
        None => Ok(INTERRUPTED),
    }
}

async fn run_sample(args: &DemoArgs, client: &Client, folder: &Path) -> Result<(), DemoError> {
    let samples = match &args.upstream {
        None => simulated_samples(args.rows),
        Some(url) => vec![chat_sample(args.rows, &upstream_model(args, url).await?, false)],
    };
    let mut batches = Vec::new();
    for sample in &samples {
        let file = client.upload(&format!("{}.jsonl", sample.name), &sample.rows).await?;
        let id = client.create_batch(&file, sample.endpoint).await?;
        print(&format!("{} rows for {} are batch {id}", sample.rows.lines().count(), sample.endpoint));
        batches.push(id);
    }
    let ended = wait(client, &batches, args.upstream.is_none()).await?;
    for (sample, batch) in samples.iter().zip(&ended) {
        show_results(client, sample, batch, folder).await?;
    }
    print(&format!("\nThe same with the OpenAI client, once `batchd serve` runs:\n\n{}", python(&folder.join("chat-input.jsonl"))));
    if let Some(chat) = samples.first() {
        write(&folder.join("chat-input.jsonl"), chat.rows.as_bytes())?;
    }
    Ok(())
}

async fn upstream_model(args: &DemoArgs, url: &str) -> Result<String, ClientError> {
    if let Some(model) = &args.model {
        return Ok(model.clone());
    }
    let (model, url) = match url.split_once('=') {
        Some((model, url)) if !model.contains("://") => (Some(model.to_owned()), url),
        Some(_) | None => (None, url),
    };
    if let Some(model) = model {
        return Ok(model);
    }
    if !url.starts_with("http://") {
        return Err(ClientError::Unexpected {
            url: url.to_owned(),
            reason: "its models are asked for over plain HTTP only; name one with --model".into(),
        });
    }
    let base = url.trim_end_matches('/');
    let base = if base.splitn(4, '/').count() > 3 { base.to_owned() } else { format!("{base}/v1") };
    let models = Client::new(&base).models().await?;
    let none = || ClientError::Unexpected { url: base.clone(), reason: "it lists no model; name one with --model".into() };
    models.into_iter().next().ok_or_else(none)
}

async fn wait(client: &Client, batches: &[String], simulated: bool) -> Result<Vec<Value>, ClientError> {
    let mut display = Display::stderr();
    loop {
        let mut all = Vec::new();
        for id in batches {
            all.push(client.batch(id).await?);
        }
        display.update(all.iter().fold(ProgressLine { simulated, ..ProgressLine::default() }, add));
        let ended = |batch: &Value| matches!(batch["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"));
        if all.iter().all(ended) {
            display.finish();
            return Ok(all);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn add(sum: ProgressLine, batch: &Value) -> ProgressLine {
    let count = |field: &str| batch["request_counts"][field].as_u64().unwrap_or(0);
    let cost = batch["batchd"]["cost_usd"].as_str().and_then(|cost| cost.parse().ok()).unwrap_or_default();
    ProgressLine {
        total: sum.total + count("total"),
        succeeded: sum.succeeded + count("completed"),
        failed: sum.failed + count("failed"),
        tokens: sum.tokens + batch["usage"]["total_tokens"].as_u64().unwrap_or(0),
        cost: sum.cost.plus(Usd(cost)),
        ..sum
    }
}

async fn show_results(client: &Client, sample: &Sample, batch: &Value, folder: &Path) -> Result<(), DemoError> {
    for problem in batch["errors"]["data"].as_array().into_iter().flatten() {
        print(&format!("{}: {}", sample.endpoint, problem["message"].as_str().unwrap_or_default()));
    }
    for (field, kind) in [("output_file_id", "output"), ("error_file_id", "errors")] {
        let Some(file) = batch[field].as_str() else { continue };
        let content = client.content(file).await?;
        let path = folder.join(format!("{}-{kind}.jsonl", sample.name));
        write(&path, &content)?;
        print(&format!("\n{} {kind} are in {}", sample.endpoint, path.display()));
        let text = String::from_utf8_lossy(&content);
        for line in text.lines().take(2) {
            print(&format!("  {}", if kind == "errors" { describe_failure(line) } else { shorten(line, 150) }));
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<(), DemoError> {
    let all = || -> std::io::Result<()> {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, content)
    };
    all().map_err(|reason| DemoError::Write { path: path.display().to_string(), reason })
}

/// An error line in a few words: which row, and why.
pub(super) fn describe_failure(line: &str) -> String {
    let row: Value = serde_json::from_str(line).unwrap_or_default();
    let id = row["custom_id"].as_str().unwrap_or("?");
    let error = &row["error"];
    let response = &row["response"];
    let reason = match (error["message"].as_str(), response["status_code"].as_u64()) {
        (Some(message), _) => format!("{} ({})", message, error["code"].as_str().unwrap_or("no code")),
        (None, Some(status)) => {
            let message = response["body"]["error"]["message"].as_str().map(String::from);
            format!("the provider answered {status}: {}", message.unwrap_or_else(|| response["body"].to_string()))
        }
        (None, None) => "no reason given".to_owned(),
    };
    shorten(&format!("{id}: {reason}"), 200)
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn python(input: &Path) -> String {
    format!(
        "  client = openai.OpenAI(base_url=\"http://127.0.0.1:7400/v1\", api_key=\"none\")\n  \
         file = client.files.create(file=open({:?}, \"rb\"), purpose=\"batch\")\n  \
         batch = client.batches.create(input_file_id=file.id, endpoint=\"/v1/chat/completions\", completion_window=\"24h\")",
        PathBuf::from(input)
    )
}

/// Three batches: mostly chat, some embeddings, some responses; a few rows meet a fault.
fn simulated_samples(rows: u32) -> Vec<Sample> {
    let embeddings = rows / 5;
    let responses = rows / 10;
    let mut samples = vec![chat_sample(rows - embeddings - responses, "gpt-4o-mini", true)];
    if embeddings > 0 {
        let row = |n| row(n, "/v1/embeddings", json!({ "model": "text-embedding-3-small", "input": topic(n), "dimensions": 64 }));
        samples.push(Sample { name: "embeddings", endpoint: "/v1/embeddings", rows: (0..embeddings).map(row).collect() });
    }
    if responses > 0 {
        let row = |n| row(n, "/v1/responses", json!({ "model": "gpt-4.1-mini", "input": format!("Explain {} to a child.", topic(n)) }));
        samples.push(Sample { name: "responses", endpoint: "/v1/responses", rows: (0..responses).map(row).collect() });
    }
    samples
}

fn chat_sample(rows: u32, model: &str, faults: bool) -> Sample {
    let chat = |n: u32| {
        let mut body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": format!("Write one sentence about {}.", topic(n)) }],
            "max_tokens": 60,
        });
        // Faults that make retries and the error file visible: some rows fail once, one fails for
        // good.
        let directive = match n % 100 {
            7 => Some("status=503"),
            42 => Some("cut"),
            77 => Some("status=429; retry_after=200ms"),
            99 if n == 99 => Some("refuse"),
            _ => None,
        };
        if let Some(directive) = directive.filter(|_| faults) {
            body["metadata"] = json!({ "simulate": directive });
        }
        row(n, "/v1/chat/completions", body)
    };
    Sample { name: "chat", endpoint: "/v1/chat/completions", rows: (0..rows).map(chat).collect() }
}

fn row(number: u32, url: &str, body: Value) -> String {
    format!("{}\n", json!({ "custom_id": format!("row-{number}"), "method": "POST", "url": url, "body": body }))
}

fn topic(number: u32) -> String {
    const TOPICS: [&str; 8] =
        ["the tides", "sourdough", "night trains", "glaciers", "bicycles", "the number zero", "lighthouses", "honey bees"];
    let index = usize::try_from(number).unwrap_or(0) % TOPICS.len();
    format!("{} ({number})", TOPICS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_a_line() {
        let lines = [
            r#"{"custom_id":"a","response":null,"error":{"code":"timeout","message":"no answer"}}"#,
            r#"{"custom_id":"b","response":{"status_code":400,"body":{"error":{"message":"bad model"}}},"error":null}"#,
            r#"{"custom_id":"c","response":{"status_code":502,"body":"<html>"},"error":null}"#,
            "nonsense",
        ];
        insta::assert_snapshot!(lines.map(describe_failure).join("\n"));
    }
}
