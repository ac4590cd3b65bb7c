//! Drives a daemon with the published Rust client of Phaseo. `PHASEO_BASE_URL` and `PHASEO_API_KEY` come from the
//! environment. Prints a line that starts with "OK" when everything held.

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

fn main() {
    let base = std::env::var("PHASEO_BASE_URL").expect("PHASEO_BASE_URL");
    let key = std::env::var("PHASEO_API_KEY").expect("PHASEO_API_KEY");
    let client = Phaseo::from_env().expect("a client");
    let mut reader = Client::new(base, Plain);
    reader.headers.insert("Authorization".to_owned(), format!("Bearer {key}"));
    let read = |answer: Result<Response, String>| {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")
    };

    let models = read(operations::listBatchModels(&reader, &HashMap::new(), None));
    assert!(models["data"].as_array().expect("models").iter().any(|model| model["model"] == MODEL), "{models}");

    let created = client.post("/batches", &json!({ "model": MODEL, "prompts": ["One?", "Two?"], "max_tokens": 32 })).expect("a batch");
    assert!(created.request_id.as_deref().is_some_and(|id| Some(id) == created.body["request_id"].as_str()), "{created:?}");
    let id = created.body["id"].as_str().expect("an id").to_owned();
    let path = HashMap::from([("batch_id".to_owned(), id.clone())]);
    let mut batch = Value::Null;
    for _ in 0..600 {
        batch = read(operations::retrieveBatch(&reader, &path, None));
        if batch["status"] == "completed" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((&batch["status"], &batch["request_counts"]["completed"]), (&json!("completed"), &json!(2)), "{batch}");
    let rows = read(operations::listBatchRequests(&reader, &path, None));
    assert_eq!(rows["data"].as_array().map(Vec::len), Some(2));
    let results = operations::retrieveBatchResults(&reader, &path, None).expect("results");
    assert_eq!((results.status, results.body.lines().count()), (200, 2), "{}", results.body);
    assert!(read(operations::listBatches(&reader, &HashMap::new(), None))["data"].as_array().is_some_and(|batches| !batches.is_empty()));
    // One that has ended stays as it is.
    let cancelled = client.post(&format!("/batches/{id}/cancel"), &json!({})).expect("the batch");
    assert_eq!(cancelled.body["status"], "completed");
    let refused = client.post("/batches", &json!({ "model": MODEL })).expect_err("no rows");
    assert_eq!(refused.status, Some(400));
    assert!(refused.message.contains("a batch has one of"), "{refused}");
    assert_eq!(refused.body.expect("a body")["reason"], "missing_batch_input");
    println!("OK phaseo {}", env!("CARGO_PKG_NAME"));
}
