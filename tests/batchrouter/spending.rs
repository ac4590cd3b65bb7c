//! What one batch may cost its organisation, whatever its items state and its provider reports.

use serde_json::{Value, json};

use crate::account::prepaid;
use crate::client::{Client, amount};
use crate::support::daemon::Daemon;
use crate::support::seeds::Seeds;
use crate::support::upstream::{FakeUpstream, Reply};

/// A model at a dollar for a million tokens read and ten for a million written, of a provider that
/// reports 100,000 written tokens whatever it is asked.
fn dear(seeds: &Seeds) -> (FakeUpstream, Daemon) {
    let answer = json!({
        "id": "x", "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 100_000, "total_tokens": 100_005},
    });
    let upstream = FakeUpstream::start(move |_| Reply::new(200, answer.to_string()));
    seeds.write(
        "providers/box.toml",
        format!("schema = 1\nid = \"box\"\nname = \"Box\"\nkind = \"openai\"\nbase_url = \"{}\"\n", upstream.url()),
    );
    seeds.write(
        "models/m.toml",
        "schema = 1\n[[model]]\nid = \"priced\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/chat/completions\"]\n\
         input = [\"text\"]\ncontext_window = 400960\n[[model.offering]]\nprovider = \"box\"\n[[model.offering.price]]\ninput = \"1\"\n\
         output = \"10\"\nsource = \"https://prices.test\"\nverified_at = 2026-01-01\n",
    );
    let daemon = seeds.daemon(&[]);
    (upstream, daemon)
}

/// Submits so many items with these members at once; returns the status of the answer, and of the
/// batch once it has ended, or the code and the message of the refusal.
fn outcome(client: &Client<'_>, count: usize, input: &Value, more: &Value) -> String {
    let item = |number: usize| {
        let mut asked = json!({"messages": [{"role": "user", "content": "hi"}]});
        asked.as_object_mut().expect("an object").extend(input.as_object().expect("an object").clone());
        json!({"customer_item_id": format!("a{number}"), "operation": "responses", "model": "priced", "input": asked})
    };
    let mut create = json!({"items": (0..count).map(item).collect::<Vec<_>>()});
    create.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let created = client.try_create(&create);
    if created.status() != 202 {
        let error = created.json()["error"].clone();
        let issue = &error["details"]["preflight"]["issues"][0];
        let told = if issue.is_null() {
            format!("{}: {}", error["code"], error["message"])
        } else {
            format!("{}: {}", issue["code"], issue["message"])
        };
        return format!("{} {}", created.status(), told.replace('"', ""));
    }
    let id = created.json()["batch"]["id"].as_str().expect("an id").to_owned();
    let counts = client.ended(&id)["counts"].clone();
    let mut codes: Vec<_> = client.results(&id, 100).iter().filter_map(|row| row["error"]["code"].as_str().map(str::to_owned)).collect();
    codes.dedup();
    let credits = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"]["credits"].clone();
    assert!(amount(&credits["charged"]) <= amount(&credits["reserved"]) && amount(&credits["overrun"]) == 0.0, "{credits}");
    format!(
        "202 {} done, {} failed {codes:?}, reserved {}, charged {}",
        counts["completed"],
        counts["failed"],
        amount(&credits["reserved"]),
        amount(&credits["charged"])
    )
}

#[test]
fn no_limit_and_no_provider_takes_an_organisation_below_zero() {
    let seeds = Seeds::new();
    let (_upstream, daemon) = dear(&seeds);
    let none = json!({});
    let most = json!({"max_price": "1.00"});
    let cases = [
        (1, json!({"max_output_tokens": 10}), &none),
        (200, json!({"max_output_tokens": 400}), &none),
        (200, json!({"max_tokens": 1_000}), &most),
        (200, json!({}), &most),
        (200, json!({}), &none),
        (1, json!({"max_output_tokens": null}), &none),
        (1, json!({"max_completion_tokens": 1, "max_tokens": 300_000}), &none),
        (1, json!({"max_output_tokens": 10, "n": 20_000}), &none),
        (1, json!({"max_output_tokens": -1}), &none),
        (1, json!({"max_output_tokens": 1e30}), &none),
        (1, json!({"max_output_tokens": "10"}), &none),
        (1, json!({"max_output_tokens": 10, "n": "100"}), &none),
        (1, json!({"max_output_tokens": 10.5}), &none),
    ];
    let told = cases.map(|(count, input, more)| {
        let (client, _) = prepaid(&daemon, "1.00");
        let told = outcome(&client, count, &input, more);
        let balance = client.get("/v1/auth/account").expect(200)["credit_balance"].clone();
        assert!(amount(&balance) >= 0.0, "{told}: {balance}");
        format!("{count} items {input}, {more}\n  {told}, balance {}", amount(&balance))
    });
    insta::assert_snapshot!(told.join("\n"));
}
