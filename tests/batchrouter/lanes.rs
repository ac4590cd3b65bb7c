//! What reaches providers, and what happens when a lane fails: the guide to SLA and routing.

use serde_json::{Value, json};

use crate::client::{Client, amount, item, items};
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request};
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};

/// A daemon over two providers of one model: the cheap one takes Chat Completions alone and uses
/// another name for its web search; the dear one has both endpoints, in Europe.
pub struct Two {
    pub cheap: FakeUpstream,
    pub dear: FakeUpstream,
    pub seeds: Seeds,
}

impl Two {
    pub fn new(cheap: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let two = Self { cheap: FakeUpstream::start(cheap), dear: FakeUpstream::start(Reply::ok), seeds: Seeds::new() };
        let provider = |id: &str, url: &str, more: &str| {
            format!(
                "schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"{url}\"\n{more}\n[limits]\nin_flight = 8\n"
            )
        };
        two.seeds.write(
            "providers/cheap.toml",
            provider("cheap", &two.cheap.url(), "regions = [\"us\"]\n[tools]\nweb_search = \"browser_search\""),
        );
        two.seeds.write("providers/dear.toml", provider("dear", &two.dear.url(), "regions = [\"eu\"]"));
        let offering = |provider: &str, endpoints: &str, price: u32| {
            format!(
                "[[model.offering]]\nprovider = \"{provider}\"\nupstream = \"{provider}-m\"\nendpoints = [{endpoints}]\nhosted_tools = [\"web_search\"]\n\
                 [[model.offering.price]]\ninput = \"{price}\"\noutput = \"{price}\"\nsource = \"https://prices.test\"\nverified_at = 2026-01-01\n"
            )
        };
        let (chat, responses) = ("\"/v1/chat/completions\"", "\"/v1/chat/completions\", \"/v1/responses\"");
        two.seeds.write(
            "models/m.toml",
            format!(
                "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [{responses}]\n\
                 input = [\"text\", \"image\", \"document\"]\n[model.files]\ntypes = [\"image/*\"]\nmax_bytes = 1000\n{}{}",
                offering("cheap", chat, 1),
                offering("dear", responses, 3)
            ),
        );
        two
    }

    pub fn daemon(&self) -> Daemon {
        self.seeds.hasty_daemon(&[])
    }
}

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// The calls to an endpoint.
fn at(upstream: &FakeUpstream, endpoint: &str) -> Vec<Call> {
    upstream.kept().into_iter().filter(|call| call.path == endpoint).collect()
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).expect("a body")
}

/// The providers of the lanes that a quote selected.
pub fn selected(quote: &Value) -> Vec<&str> {
    let lanes = quote["quote_lanes"].as_array().expect("lanes").iter();
    lanes.filter(|lane| lane["selected"] == true).filter_map(|lane| lane["provider"].as_str()).collect()
}

#[test]
fn items_reach_the_quoted_lane_in_the_form_that_it_takes() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let items = [
        item("chat", "m"),
        json!({"customer_item_id": "text", "operation": "responses", "model": "m",
               "input": {"input": "hello", "instructions": "Be brief.", "max_output_tokens": 5, "user": "text"}}),
    ];
    let id = client.submit(&items, &json!({}));
    assert_eq!(client.ended(&id)["status"], "completed");
    let bodies: Vec<_> = at(&two.cheap, CHAT).iter().map(body).collect();
    let of = |user: &str| bodies.iter().find(|body| body["user"] == user).unwrap_or_else(|| panic!("{user}: {bodies:?}"));
    assert_eq!((&of("chat")["model"], &of("chat")["max_tokens"]), (&json!("cheap-m"), &json!(16)), "the limit under the name of the form");
    let expected = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]);
    assert_eq!((&of("text")["messages"], &of("text")["max_tokens"]), (&expected, &json!(5)), "a lane without Responses is asked in chat");
    assert_eq!(two.dear.calls(), 0);
    // Another region selects another lane, and only that lane.
    let id = client.submit(&items, &json!({ "allowed_regions": ["eu"] }));
    assert_eq!(client.ended(&id)["status"], "completed");
    assert_eq!((at(&two.dear, CHAT).len(), at(&two.dear, RESPONSES).len()), (1, 1));
}

#[test]
fn required_tools_reach_the_provider_under_its_own_name() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    for (more, expected) in [
        (json!({ "required_tools": ["web_search"] }), ("browser_search", &two.cheap, CHAT)),
        (json!({ "required_tools": ["web_search"], "allowed_regions": ["eu"] }), ("web_search", &two.dear, RESPONSES)),
    ] {
        let id = client.submit(&items(1, "m"), &more);
        assert_eq!(client.ended(&id)["status"], "completed");
        let (name, upstream, endpoint) = expected;
        let calls = at(upstream, endpoint);
        assert_eq!(body(&calls[0])["tools"], json!([{ "type": name }]));
    }
    let refused = client.post("/v1/quotes/model", &json!({ "items": items(1, "m"), "required_tools": ["calculator"] })).expect(400);
    let reasons: Vec<_> =
        refused["error"]["details"]["quote_lanes"].as_array().expect("lanes").iter().map(|lane| lane["rejection_reason"].clone()).collect();
    assert_eq!(reasons, ["tool_support", "tool_support"]);
}

#[test]
fn rows_of_a_lane_that_fails_go_to_the_next_one_within_the_ceiling_and_the_receipt_says_so() {
    let two = Two::new(|_| Reply::error(501));
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    // Without a stated ceiling, the quoted total is the ceiling, and the dear lane is above it.
    let id = client.submit(&items(3, "m"), &json!({}));
    assert_eq!(client.ended(&id)["status"], "failed", "no item succeeded");
    assert_eq!(two.dear.calls(), 0);
    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    assert_eq!((amount(&receipt["credits"]["charged"]), &receipt["credits"]["reservation_status"]), (0.0, &json!("released")));
    let row = &client.results(&id, 10)[0];
    assert_eq!((&row["status"], &row["output"], &row["error"]["provider_status"]), (&json!("failed"), &Value::Null, &json!(501)));

    let more = json!({ "max_price": { "currency": "usd", "amount": "1.00" } });
    let quote = client.quote(&json!({ "items": items(3, "m"), "max_price": "1.00" }));
    assert_eq!(selected(&quote), ["cheap"]);
    let id = client.submit(&items(3, "m"), &more);
    assert_eq!(client.ended(&id)["status"], "completed");
    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    let lane = &receipt["provider_lanes"][0];
    assert_eq!((&lane["provider"], &lane["completed_items"], &lane["taken_over_items"]), (&json!("dear"), &json!(3), &json!(3)));
    // 9 tokens read and 2 written, at 3 USD for a million each; the quote assumed 1 USD.
    assert!((amount(&lane["provider_cost"]) - 3.0 * 33e-6).abs() < 1e-9, "{lane}");
    let credits = &receipt["credits"];
    let micros = |name: &str| (amount(&credits[name]) * 1e6).round();
    assert_eq!(micros("reserved"), micros("charged") + micros("released"), "{credits}");

    // The dear lane may take over what was quoted, but not so many more items that the total
    // exceeds the ceiling.
    let quote = client.quote(&json!({ "items": items(1, "m") }));
    let one = quote["pricing_estimate"]["total"].as_str().and_then(|total| total.parse::<f64>().ok()).expect("a total");
    let quote = client.quote(&json!({ "items": items(1, "m"), "max_price": format!("{:.9}", one * 4.0) }))["quote_id"].clone();
    let lines: String = items(3, "m").iter().map(|item| format!("{item}\n")).collect();
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(lines)).expect(201);
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": file["file_id"] })).expect(202);
    let calls = two.dear.calls();
    assert_eq!(client.ended(created["batch"]["id"].as_str().expect("an id"))["status"], "failed");
    assert_eq!(two.dear.calls(), calls);

    let more = json!({ "max_price": "1.00", "provider_preferences": { "allow_fallbacks": false } });
    let id = client.submit(&items(1, "m"), &more);
    assert_eq!(client.ended(&id)["status"], "failed", "no other lane was allowed");
}

#[test]
fn the_prices_of_the_quote_hold_whatever_the_catalog_says_by_then() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let quote = client.quote(&json!({ "items": items(1, "m") }));
    two.seeds.change("models/m.toml", "input = \"1\"\noutput = \"1\"", "input = \"100\"\noutput = \"100\"");
    daemon.post("/admin/catalog/reload", &json!({})).expect(200);
    let created = client.try_create(&json!({ "quote_id": quote["quote_id"], "items": items(1, "m") })).expect(202);
    let id = created["batch"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(client.ended(&id)["status"], "completed");
    let row = &client.results(&id, 1)[0];
    assert_eq!((&row["provider"], amount(&row["cost"]["provider_cost"])), (&json!("cheap"), 11e-6), "it stays with its lane, at its price");
}

#[test]
fn files_that_items_name_travel_with_them() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let upload = |kind: &str, content: &[u8]| {
        let form = Form::default().field("purpose", "attachment").typed_file("file", "label.png", kind, content);
        client.send(Request::post("/v1/files").form(form)).expect(201)["file_id"].clone()
    };
    let image = upload("image/png", b"png");
    let look = |file: &Value| {
        json!({"customer_item_id": "look", "operation": "vision", "model": "m", "input": {"user": "look", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is on the label?"}, {"type": "input_image", "file_id": file}]}]}})
    };
    let id = client.submit(&[look(&image)], &json!({}));
    assert_eq!(client.ended(&id)["status"], "completed");
    let sent = &body(&at(&two.cheap, CHAT)[0])["messages"][0]["content"];
    assert_eq!(sent[1], json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n", "detail": "auto"}}));
    // "Accepted MIME types and the size cap for attachments are per model."
    for file in [upload("application/pdf", b"pdf"), upload("image/png", &[0; 1_001])] {
        let refused = client.post("/v1/quotes/model", &json!({ "items": [look(&file)] })).expect(400);
        assert_eq!(refused["error"]["details"]["quote_lanes"][0]["rejection_reason"], "file_unsupported");
    }
    let missing = json!({ "items": [look(&json!("file_00000000000000000000000000000007"))] });
    let refused = client.post("/v1/quotes/model", &missing).expect(400);
    assert_eq!(refused["error"]["details"]["preflight"]["issues"][0]["code"], "unknown_file");
    // The items of a file have not been checked when its batch is made.
    let pdf = upload("application/pdf", b"pdf");
    let quote = client.quote(&json!({ "items": [look(&image)] }))["quote_id"].clone();
    let input = client
        .send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(format!("{}\n", look(&pdf))))
        .expect(201);
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": input["file_id"] })).expect(202);
    let id = created["batch"]["id"].as_str().expect("an id").to_owned();
    client.ended(&id);
    let row = &client.results(&id, 1)[0];
    assert!(row["error"]["message"].as_str().is_some_and(|message| message.contains("does not take the file")), "{row}");
    // If a file is deleted before its item runs, that item ends with an error that says so.
    let quote = client.quote(&json!({ "items": [look(&image)] }))["quote_id"].clone();
    let line = format!("{}\n{}\n", look(&image), item("other", "m").to_string().replace("responses", "vision"));
    let input = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(line)).expect(201);
    daemon.delete(&format!("/openai/v1/files/{}", image.as_str().expect("an id"))).expect(200);
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": input["file_id"] })).expect(202);
    let id = created["batch"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(client.ended(&id)["counts"]["completed"], 1);
    let row = &client.results(&id, 1)[0];
    assert!(row["error"]["message"].as_str().is_some_and(|message| message.contains("there is no file")), "{row}");
}

#[test]
fn no_row_is_sent_with_a_damaged_file() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let upload = |content: &[u8]| {
        let form = Form::default().field("purpose", "attachment").typed_file("file", "label.png", "image/png", content);
        client.send(Request::post("/v1/files").form(form)).expect(201)["file_id"].as_str().expect("an id").to_owned()
    };
    let files = ["good", "bad", "short"].map(|name| (name, upload(name.as_bytes())));
    let place = |id: &str| daemon.data_dir().join("files").join(id.strip_prefix("file_").expect("the form of this dialect"));
    std::fs::write(place(&files[1].1), "BAD").expect("it can be written");
    std::fs::write(place(&files[2].1), "shor").expect("it can be written");
    let look = |(name, file): &(&str, String)| {
        json!({"customer_item_id": name, "operation": "vision", "model": "m", "input": {"user": name, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is on the label?"}, {"type": "input_image", "file_id": file}]}]}})
    };
    let id = client.submit(&files.iter().map(look).collect::<Vec<_>>(), &json!({}));
    client.ended(&id);
    let results = client.results(&id, 10);
    let errors: Vec<_> = results.iter().map(|row| row["error"]["message"].as_str().unwrap_or_default()).collect();
    let damaged = |file: &str| format!("the content of the file `{file}`, which the item names, is damaged");
    assert_eq!(errors, ["", &damaged(&files[1].1), &damaged(&files[2].1)], "{results:?}");
    assert_eq!(at(&two.cheap, CHAT).len(), 1);
    assert!(daemon.get("/metrics").text().contains("batchd_store_damaged_contents_total 2\n"));
}

#[test]
fn lines_for_messages_go_where_they_can_be_asked_and_are_answered_as_messages() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let form = Form::default().field("purpose", "attachment").typed_file("file", "label.png", "image/png", b"png");
    let image = client.send(Request::post("/v1/files").form(form)).expect(201)["file_id"].clone();
    let line = |id: &str, more: Value| {
        let content = json!([{"type": "text", "text": "What is it?"}, {"type": "image", "source": {"type": "file", "file_id": image}}]);
        let mut body =
            json!({"model": "m", "max_tokens": 5, "metadata": {"user_id": id}, "messages": [{"role": "user", "content": content}]});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"custom_id": id, "method": "POST", "url": "/v1/messages", "body": body})
    };
    let id = client.submit(&[line("a", json!({}))], &json!({}));
    assert_eq!(client.ended(&id)["status"], "completed");
    let sent = &body(&at(&two.cheap, CHAT)[0])["messages"][0]["content"];
    assert_eq!(sent[1], json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n", "detail": "auto"}}));
    assert_eq!(client.results(&id, 1)[0]["output"]["type"], "message");
    // The quote covers a sample; a line of the file asks for something that none of the quoted
    // lanes can do.
    let quote = client.quote(&json!({ "items": [line("a", json!({}))] }))["quote_id"].clone();
    let lines = format!("{}\n{}\n", line("a", json!({})), line("b", json!({"top_k": 3})));
    let input = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(lines)).expect(201);
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": input["file_id"] })).expect(202);
    let id = created["batch"]["id"].as_str().expect("an id").to_owned();
    client.ended(&id);
    let errors = &daemon.get(&format!("/openai/v1/batches/{id}")).expect(200)["errors"]["data"];
    let expected = "no lane of the quote takes what this asks of `/v1/messages`; have one like it among those that are quoted";
    assert_eq!((&errors[0]["line"], &errors[0]["message"]), (&json!(2), &json!(expected)), "{errors}");
}
