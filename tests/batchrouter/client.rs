//! The steps of a BatchRouter client: quote, submit with its own idempotency key, poll, read.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

pub use crate::support::client::{Client, TIMEOUT};
use crate::support::daemon::Daemon;
use crate::support::http::{Request, Response};

/// A chat item, in the form that the documents show.
pub fn item(id: &str, model: &str) -> Value {
    json!({"customer_item_id": id, "operation": "responses", "model": model,
           "input": {"messages": [{"role": "user", "content": "Label the sentiment: great, it broke again."}], "max_output_tokens": 16, "user": id}})
}

pub fn items(count: usize, model: &str) -> Vec<Value> {
    (0..count).map(|n| item(&format!("item-{n}"), model)).collect()
}

impl<'a> Client<'a> {
    pub fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, key: "br_live_0123456789abcdef01234567".to_owned() }
    }

    pub fn quote(&self, body: &Value) -> Value {
        self.post("/v1/quotes/model", body).expect(200)
    }

    /// Creates a batch under its own idempotency key.
    pub fn try_create(&self, body: &Value) -> Response {
        static KEYS: AtomicU32 = AtomicU32::new(0);
        self.create_as(&format!("order-{:08}", KEYS.fetch_add(1, Ordering::Relaxed)), body)
    }

    pub fn create_as(&self, key: &str, body: &Value) -> Response {
        self.send(Request::post("/v1/batches").header("idempotency-key", key).json(body))
    }

    /// Quotes items, creates their batch, and returns the batch's id.
    pub fn submit(&self, items: &[Value], more: &Value) -> String {
        let mut asked = json!({ "items": items });
        asked.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let quote = self.quote(&asked);
        let created = self.try_create(&json!({ "quote_id": quote["quote_id"], "items": items })).expect(202);
        created["batch"]["id"].as_str().expect("an id").to_owned()
    }

    /// Reads every result, page by page.
    pub fn results(&self, id: &str, limit: usize) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/batches/{id}/results?limit={limit}{cursor}")).expect(200);
            rows.extend(page["data"].as_array().expect("an array").clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => {
                    assert_eq!(page["has_more"], false);
                    return rows;
                }
            }
        }
    }
}

/// An amount of money.
pub fn amount(money: &Value) -> f64 {
    assert_eq!(money["currency"], "usd", "{money}");
    money["amount"].as_str().expect("a decimal string").parse().expect("a decimal")
}
