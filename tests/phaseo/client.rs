//! The steps of a Phaseo client: one call to create, then polling, or following.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

pub use crate::support::client::{Client, TIMEOUT};
use crate::support::daemon::Daemon;
use crate::support::http::{BodyReader, Head, Request};

impl<'a> Client<'a> {
    pub fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, key: "phaseo_v1_sk_abcdefghijkl_0123456789".to_owned() }
    }

    pub fn create(&self, body: &Value) -> Value {
        self.post("/v1/batches", body).expect(200)
    }

    /// The lines of a batch's results.
    pub fn results(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/batches/{id}/results"));
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/x-ndjson")), "{}", answer.text());
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

pub fn id(batch: &Value) -> String {
    batch["id"].as_str().expect("an id").to_owned()
}

/// A chat row.
pub fn row(custom_id: &str, model: &str) -> Value {
    json!({"custom_id": custom_id, "body": {"model": model, "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 16, "user": custom_id}})
}

/// The same row as a line of a file.
pub fn line(custom_id: &str, model: &str) -> Value {
    let mut line = row(custom_id, model);
    line["method"] = json!("POST");
    line["url"] = json!("/v1/chat/completions");
    line
}

/// A batch that is followed over a WebSocket.
pub struct Socket(WebSocket<TcpStream>);

impl Socket {
    /// Connects below `/v1/async`.
    pub fn connect(client: &Client<'_>, path: &str) -> Self {
        let stream = TcpStream::connect(client.daemon.addr()).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let url = format!("ws://localhost{path}");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("authorization", format!("Bearer {}", client.key).parse().expect("a header"));
        Self(tungstenite::client(request, stream).expect("a handshake").0)
    }

    pub fn send(&mut self, message: Message) {
        self.0.send(message).expect("it is sent");
    }

    pub fn say(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// The next message that is not the protocol's own.
    pub fn next(&mut self) -> Message {
        loop {
            match self.0.read().expect("a message") {
                Message::Ping(_) => {}
                other => return other,
            }
        }
    }

    /// The next text, which must be JSON.
    pub fn told(&mut self) -> Value {
        match self.next() {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no text: {other}"),
        }
    }

    /// The code and reason of the close, which must come next.
    pub fn closed(&mut self) -> (u16, String) {
        match self.next() {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("not closed: {other}"),
        }
    }

    /// Whether a ping is answered by a pong and nothing else: there are no other pending messages.
    pub fn is_silent(&mut self) -> bool {
        self.say("ping");
        self.told() == json!({ "type": "pong" })
    }
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: String,
    pub id: String,
    pub data: Value,
}

/// A batch that is followed by server-sent events.
pub struct Events {
    pub head: Head,
    body: BufReader<BodyReader>,
}

impl Events {
    pub fn open(daemon: &Daemon, path: &str, last: Option<&str>) -> Self {
        let request = Request::get(path);
        let (head, body) = daemon.open(last.into_iter().fold(request, |request, id| request.header("last-event-id", id)));
        Self { head, body: BufReader::new(body) }
    }
}

impl Iterator for Events {
    type Item = Event;

    /// The next event; `None` when the stream has ended or was cut.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event { kind: String::new(), id: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(':').map(|(name, value)| (name, value.trim_start())) {
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
                None if !event.kind.is_empty() => return Some(event),
                // A comment.
                Some(_) | None => {}
            }
        }
    }
}
