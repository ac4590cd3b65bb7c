//! A model server on loopback that follows a script.
//!
//! It is written on bare sockets, so that it can cut, reset, stall and lie, and so that it costs
//! little beside the daemon under test (tens of thousands of calls a second). HTTP/1.1 with
//! keep-alive.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::wait::{SOON, poll};

/// Calls that are kept in full.
const KEPT: usize = 2_000;

/// Lower-case hexadecimal HMAC-SHA256, as receivers of messages compute it.
pub fn hmac_sha256(secret: &[u8], text: &[u8]) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    aws_lc_rs::hmac::sign(&key, text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One incoming call.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The `"user"` of the body, by which the tests tell rows apart.
    pub row: String,
    /// 1 for the first call of this row.
    pub attempt: u32,
    pub at: Instant,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether the daemon asks if the server is there, or how busy it is. That is answered, and not
    /// recorded.
    fn is_probe(&self) -> bool {
        ["/models", "/props", "/metrics"].iter().any(|end| self.path.ends_with(end)) && self.body.is_empty()
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Answer,
    /// Announces the whole body, sends half of it, then closes.
    Cut,
    /// Resets the connection before any byte of an answer.
    Reset,
    /// Never answers.
    Stall,
    /// Sends the body in small pieces.
    Drip(Duration),
}

/// How to answer a call.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    deed: Deed,
}

impl Reply {
    /// An answer with this status and body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.into(), delay: Duration::ZERO, deed: Deed::Answer }
    }

    /// A good answer to any of the operations.
    pub fn ok(call: &Call) -> Self {
        let body = match call.path.as_str() {
            "/v1/embeddings" => r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.25,-0.5]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#.to_owned(),
            "/v1/messages" => r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":2}}"#.to_owned(),
            "/v1/responses" => r#"{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hello"}]}],"usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5}}"#.to_owned(),
            _ => format!(
                r#"{{"id":"chatcmpl-{}","object":"chat.completion","created":1790000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"hello"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}}}"#,
                call.row
            ),
        };
        Self::new(200, body)
    }

    /// An error in OpenAI's form.
    pub fn error(status: u16) -> Self {
        Self::new(status, format!(r#"{{"error":{{"message":"scripted {status}","type":"server_error","param":null,"code":"scripted"}}}}"#))
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    #[must_use]
    pub fn cut(mut self) -> Self {
        self.deed = Deed::Cut;
        self
    }

    #[must_use]
    pub fn drip(mut self, pause: Duration) -> Self {
        self.deed = Deed::Drip(pause);
        self
    }

    pub fn reset() -> Self {
        Self { deed: Deed::Reset, ..Self::new(200, "") }
    }

    pub fn stall() -> Self {
        Self { deed: Deed::Stall, ..Self::new(200, "") }
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Scripted\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

#[derive(Default)]
struct Record {
    /// What it lists.
    models: Vec<String>,
    /// It lists its models at its root, not below `/v1`.
    is_at_root: bool,
    /// By row: the number of calls, and the idempotency key of the first call.
    rows: HashMap<String, (u32, Option<String>)>,
    calls: u64,
    answered: u64,
    changed_keys: u64,
    in_flight: u32,
    most_in_flight: u32,
    kept: Vec<Call>,
}

struct Shared {
    script: Box<dyn Fn(&Call) -> Reply + Send + Sync>,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A running upstream; it stops when dropped.
pub struct FakeUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl FakeUpstream {
    /// Answers every call according to `script`, which receives the number of the row's attempt.
    pub fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("upstream").enable_all().build().expect("a runtime");
        let shared = Arc::new(Shared { script: Box::new(script), record: Mutex::default() });
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let addr = listener.local_addr().expect("its address");
        runtime.spawn(accept(listener, shared.clone()));
        Self { addr, shared, runtime: Some(runtime) }
    }

    /// Answers every call with a good answer.
    pub fn healthy() -> Self {
        Self::start(Reply::ok)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it lists as its models from now on.
    pub fn list_models(&self, models: &[&str]) {
        self.shared.record().models = models.iter().map(|id| (*id).to_owned()).collect();
    }

    /// Lists its models at its root alone, as a server does whose API is there.
    pub fn move_to_root(&self) {
        self.shared.record().is_at_root = true;
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.shared.record().calls
    }

    /// Answers sent to the last byte so far.
    pub fn answered(&self) -> u64 {
        self.shared.record().answered
    }

    /// Calls of one row so far.
    pub fn calls_of(&self, row: &str) -> u32 {
        self.shared.record().rows.get(row).map_or(0, |(calls, _)| *calls)
    }

    /// Distinct rows seen so far.
    pub fn rows(&self) -> usize {
        self.shared.record().rows.len()
    }

    /// Calls whose idempotency key is missing or differs from the row's first key.
    pub fn changed_keys(&self) -> u64 {
        self.shared.record().changed_keys
    }

    /// The most calls that were open at one moment.
    pub fn most_in_flight(&self) -> u32 {
        self.shared.record().most_in_flight
    }

    /// The first calls, in full.
    pub fn kept(&self) -> Vec<Call> {
        self.shared.record().kept.clone()
    }

    /// Waits until at least `least` calls were made, and returns the calls.
    pub fn called(&self, least: usize) -> Vec<Call> {
        let enough = || Some(self.kept()).filter(|calls| calls.len() >= least);
        poll(SOON, enough).unwrap_or_else(|| panic!("{} calls of {least}: {:?}", self.kept().len(), self.kept()))
    }

    /// The first calls of one row, in full.
    pub fn kept_of(&self, row: &str) -> Vec<Call> {
        self.kept().into_iter().filter(|call| call.row == row).collect()
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        // A client that disconnects is part of every test.
                        let _ = serve(stream, &shared).await;
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        let Some(call) = read_call(&mut stream, &mut buffer, shared).await? else { return Ok(()) };
        if call.is_probe() {
            if shared.record().is_at_root && call.path != "/models" {
                let nothing = Reply::error(404);
                stream.write_all(&[nothing.head().as_bytes(), &nothing.body].concat()).await?;
                continue;
            }
            let models = shared.record().models.iter().map(|id| format!(r#"{{"id":"{id}","object":"model"}}"#)).collect::<Vec<_>>();
            let list = Reply::new(200, format!(r#"{{"object":"list","data":[{}]}}"#, models.join(",")));
            stream.write_all(&[list.head().as_bytes(), &list.body].concat()).await?;
            continue;
        }
        let flight = Flight::begin(shared);
        let reply = (shared.script)(&call);
        if !reply.delay.is_zero() {
            tokio::time::sleep(reply.delay).await;
        }
        let head = reply.head();
        match reply.deed {
            Deed::Answer => {
                let mut bytes = head.into_bytes();
                bytes.extend_from_slice(&reply.body);
                stream.write_all(&bytes).await?;
            }
            Deed::Cut => {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&reply.body[..reply.body.len() / 2]).await?;
                return stream.shutdown().await;
            }
            Deed::Reset => return stream.set_zero_linger(),
            Deed::Stall => {
                // Stalls until the client gives up.
                let mut rest = [0; 64];
                while stream.read(&mut rest).await? > 0 {}
                return Ok(());
            }
            Deed::Drip(pause) => {
                stream.write_all(head.as_bytes()).await?;
                for piece in reply.body.chunks(16) {
                    tokio::time::sleep(pause).await;
                    stream.write_all(piece).await?;
                }
            }
        }
        drop(flight);
        shared.record().answered += 1;
    }
}

/// Counts a call while it is open.
struct Flight<'a>(&'a Shared);

impl<'a> Flight<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut record = shared.record();
        record.in_flight += 1;
        record.most_in_flight = record.most_in_flight.max(record.in_flight);
        Self(shared)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.record().in_flight -= 1;
    }
}

/// Reads one request; `None` if the client closed between requests.
async fn read_call(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> io::Result<Option<Call>> {
    let head_end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end + 4);
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned())).collect();
    let field = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let body = if field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        read_chunks(stream, buffer).await?
    } else {
        let length = field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        take(stream, buffer, length).await?
    };

    let row = marker(&body);
    let key = field("idempotency-key").map(str::to_owned);
    let mut call = Call { path, headers, body, row, attempt: 0, at: Instant::now() };
    if call.is_probe() {
        return Ok(Some(call));
    }
    let row = call.row.clone();
    let mut record = shared.record();
    record.calls += 1;
    let seen = record.rows.entry(row).or_insert_with(|| (0, key.clone()));
    seen.0 += 1;
    call.attempt = seen.0;
    let changed = key.is_none() || seen.1 != key;
    record.changed_keys += u64::from(changed);
    if record.kept.len() < KEPT {
        record.kept.push(call.clone());
    }
    Ok(Some(call))
}

async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            if let Some(end) = find(buffer, b"\r\n") {
                break end;
            }
            if stream.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line: Vec<u8> = buffer.drain(..line_end + 2).collect();
        let digits = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(digits.trim(), 16).map_err(io::Error::other)?;
        body.extend_from_slice(&take(stream, buffer, size).await?);
        take(stream, buffer, 2).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The value of `"user"`, found without parsing: the body must pass byte for byte, whatever it
/// contains.
fn marker(body: &[u8]) -> String {
    const KEY: &[u8] = b"\"user\":\"";
    let Some(start) = find(body, KEY).map(|at| at + KEY.len()) else { return String::new() };
    let end = body[start..].iter().position(|b| *b == b'"').map_or(body.len(), |n| start + n);
    String::from_utf8_lossy(&body[start..end]).into_owned()
}
