//! Drives a daemon with the published Rust client of Phaseo. `PHASEO_BASE_URL` and `PHASEO_API_KEY`
//! come from the environment. Prints a line that starts with "OK" when every check held.

use std::collections::HashMap;
use std::time::Duration;

use phaseo::client::{Client, Response, Transport};
use phaseo::{Phaseo, operations};
use serde_json::{Value, json};

const MODEL: &str = "batchd/simulated-instant";

/// Reads over a bare socket: the client leaves the transport to its user.
struct Plain;

impl Transport for Plain {
    fn request(&self, method: &str, url: &str, body: Option<&str>, headers: &HashMap<String, String>) -> Result<Response, String> {
        use std::io::{Read as _, Write as _};
        let rest = url.strip_prefix("http://").ok_or("only http is spoken here")?;
        let (host, path) = rest.split_at(rest.find('/').ok_or("no path")?);
        let body = body.unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut socket = std::net::TcpStream::connect(host).map_err(|error| error.to_string())?;
        socket.write_all(format!("{head}\r\n{body}").as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        Ok(Response { status, body: body.to_owned() })
    }
}

/// Both halves of the client: the writer and the reader.
struct Clients {
    writer: Phaseo,
    reader: Client<Plain>,
}

impl Clients {
    fn read(&self, operation: impl Fn(&Client<Plain>) -> Result<Response, String>) -> Value {
        let answer = operation(&self.reader).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.writer.post(path, body).expect("an answer");
        if path == "/batches" {
            assert!(answer.request_id.as_deref().is_some_and(|id| Some(id) == answer.body["request_id"].as_str()), "{answer:?}");
        }
        answer.body
    }

    /// Returns a batch once it has ended.
    fn ended(&self, created: &Value) -> (Value, Path) {
        let path = Path::from([("batch_id".to_owned(), created["id"].as_str().expect("an id").to_owned())]);
        let mut batch = Value::Null;
        for _ in 0..600 {
            batch = self.read(|reader| operations::retrieveBatch(reader, &path, None));
            if ["completed", "failed", "cancelled", "expired"].iter().any(|end| batch["status"] == *end) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        (batch, path)
    }

    /// Returns the row ids of a batch that has completed two rows; every view of the batch must
    /// agree on them.
    fn done(&self, created: &Value) -> Vec<String> {
        let (batch, path) = self.ended(created);
        assert_eq!((&batch["status"], &batch["request_counts"]["completed"]), (&json!("completed"), &json!(2)), "{batch}");
        let rows = self.read(|reader| operations::listBatchRequests(reader, &path, None));
        let ids = |rows: &Value| rows["custom_id"].as_str().expect("an id").to_owned();
        let listed: Vec<_> = rows["data"].as_array().expect("rows").iter().map(ids).collect();
        let results = operations::retrieveBatchResults(&self.reader, &path, None).expect("results");
        let told = results.body.lines().map(|line| ids(&serde_json::from_str(line).expect("a line")));
        assert_eq!((results.status, told.collect::<Vec<_>>()), (200, listed.clone()), "{}", results.body);
        // A batch that has ended stays as it is.
        assert_eq!(self.post(&format!("/batches/{}/cancel", path["batch_id"]), &json!({}))["status"], "completed");
        listed
    }
}

type Path = HashMap<String, String>;

fn main() {
    let base = std::env::var("PHASEO_BASE_URL").expect("PHASEO_BASE_URL");
    let key = std::env::var("PHASEO_API_KEY").expect("PHASEO_API_KEY");
    let mut reader = Client::new(base, Plain);
    reader.headers.insert("Authorization".to_owned(), format!("Bearer {key}"));
    let clients = Clients { writer: Phaseo::from_env().expect("a client"), reader };

    let models = clients.read(|reader| operations::listBatchModels(reader, &Path::new(), None));
    assert!(models["data"].as_array().expect("models").iter().any(|model| model["model"] == MODEL), "{models}");

    let prompts = clients.post("/batches", &json!({ "model": MODEL, "prompts": ["One?", "Two?"], "max_tokens": 32 }));
    assert_eq!(clients.done(&prompts), ["request-1", "request-2"]);
    let say = |more: Value| {
        let mut body = json!({ "model": MODEL, "max_tokens": 16, "messages": [{ "role": "user", "content": "hello" }] });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        body
    };
    let row = |id: &str| json!({ "custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": say(json!({})) });
    assert_eq!(clients.done(&clients.post("/batches", &json!({ "requests": [row("a"), row("b")] }))), ["a", "b"]);
    let lines = format!("{}\n{}\n", row("c"), row("d"));
    let file = clients.post("/files", &json!({ "purpose": "batch", "file": lines }));
    assert_eq!(clients.done(&clients.post("/batches", &json!({ "input_file_id": file["id"] }))), ["c", "d"]);

    let slow = json!({ "body": say(json!({ "metadata": { "simulate": "latency=20s" } })) });
    let running = clients.post("/batches", &json!({ "requests": [slow] }));
    clients.post(&format!("/batches/{}/cancel", running["id"].as_str().expect("an id")), &json!({}));
    assert_eq!(clients.ended(&running).0["status"], "cancelled");
    let listed = clients.read(|reader| operations::listBatches(reader, &Path::new(), None));
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(4), "{listed}");

    let refused = clients.writer.post("/batches", &json!({ "model": MODEL })).expect_err("no rows");
    assert_eq!(refused.status, Some(400));
    assert!(refused.message.contains("a batch has one of"), "{refused}");
    assert_eq!(refused.body.expect("a body")["reason"], "missing_batch_input");
    println!("OK phaseo {}", env!("CARGO_PKG_NAME"));
}
