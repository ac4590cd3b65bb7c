//! Quotes against the sentences of BatchRouter's documents (guides to quotes and pricing, to SLA
//! and routing, to errors), over a small catalog in which lanes differ in one thing each.

use serde_json::json;

use super::*;
use crate::catalog::{Archive, load_archive};
use crate::domain::time::later;
use crate::service::QuoteTerms;

/// Providers in the United States and in Europe, one that runs a tool, one that is dear.
fn seeds() -> Vec<(String, String)> {
    let provider = |id: &str, region: &str, queue: u64, zdr: bool| {
        let text = format!(
            "schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"http://{id}.test\"\nregions = [\"{region}\"]\n\
             [privacy]\nzdr = {zdr}\ndata_collection = \"deny\"\ntiers = [\"standard\"]\nsource = \"https://{id}.test\"\nverified_at = 2026-05-01\n\
             [capacity]\nqueue_items = {queue}\nqueue_tokens = 1000000\n"
        );
        (format!("providers/{id}.toml"), text)
    };
    let offering = |provider: &str, price: &str, more: &str| {
        format!(
            "[[model.offering]]\nprovider = \"{provider}\"\n{more}\n[[model.offering.price]]\ninput = \"{price}\"\noutput = \"{price}\"\n\
             source = \"https://a.test\"\nverified_at = 2026-06-20\n"
        )
    };
    let model = |id: &str, offerings: &[String]| {
        format!(
            "[[model]]\nid = \"{id}\"\naliases = [\"{id}-alias\"]\nname = \"{id}\"\norganisation = \"Acme\"\nreleased = 2026-03-01\n\
             endpoints = [\"/v1/chat/completions\"]\ninput = [\"text\"]\noutput = [\"text\"]\ncontext_window = 1000\n{}",
            offerings.concat()
        )
    };
    let large = [
        offering("cheap-us", "1", ""),
        offering("tool-us", "2", "hosted_tools = [\"web_search\"]"),
        offering("dear-eu", "10", ""),
        offering("tiny-eu", "5", ""),
    ];
    let small = [offering("dear-eu", "0.5", "")];
    let unpriced = ["[[model.offering]]\nprovider = \"cheap-us\"\n".to_owned()];
    let models = format!("schema = 1\n{}{}{}", model("large", &large), model("small", &small), model("unpriced", &unpriced));
    vec![
        provider("cheap-us", "us", 1_000, false),
        provider("tool-us", "us", 1_000, false),
        provider("dear-eu", "eu", 1_000, true),
        provider("tiny-eu", "eu", 2, true),
        ("models/m.toml".to_owned(), models),
    ]
}

async fn bench() -> Bench {
    Bench::with(|api| {
        let seeds = load_archive(Archive(seeds())).unwrap_or_else(|faults| panic!("{faults}"));
        super::service(api).catalog = Arc::new(Catalog::for_tests(seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| true)));
        super::service(api).limits.quotes =
            QuoteTerms { max_items: 5, max_body_bytes: 10_000, fee: "5.9".parse().unwrap(), ..QuoteTerms::default() };
    })
    .await
}

fn item(id: &str, model: &str) -> Value {
    json!({"customer_item_id": id, "operation": "responses", "model": model,
           "input": {"messages": [{"role": "user", "content": "Say hello."}], "max_output_tokens": 100}})
}

fn large_items(ids: &[&str]) -> Vec<Value> {
    ids.iter().map(|id| item(id, "large")).collect()
}

/// A request for one item of the model `large`, with the given additional fields.
fn asking(fields: Value) -> Value {
    let mut body = json!({ "items": [item("a", "large")] });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The providers of a quote's selected lanes, and of the others with their first reason.
fn described(lanes: &Value) -> (Vec<String>, Vec<String>) {
    let text = |lane: &Value, key: &str| lane[key].as_str().unwrap_or_default().to_owned();
    let (selected, others): (Vec<_>, Vec<_>) = lanes.as_array().unwrap().iter().partition(|lane| lane["selected"] == true);
    let others = others.iter().map(|lane| format!("{} {}", text(lane, "provider"), text(lane, "rejection_reason")));
    (selected.iter().map(|lane| text(lane, "provider")).collect(), others.collect())
}

async fn selected(bench: &Bench, body: &Value) -> Vec<String> {
    let reply = bench.post("/v1/quotes/model", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    described(&reply.json()["quote_lanes"]).0
}

#[tokio::test]
async fn a_quote_has_its_documented_fields_and_can_be_read_back_by_its_owner() {
    let bench = bench().await;
    let reply = bench.post("/v1/quotes/model", &asking(json!({}))).await;
    let body = reply.json();
    insta::assert_json_snapshot!(body, {
        ".quote_id" => "[id]", ".quote_lock.quote_id" => "[id]", ".quote_lanes[1:]" => "[others]", ".quote_explanation.rejected_lanes" => "[others]",
    });
    let id = body["quote_id"].as_str().unwrap();
    assert!(id.starts_with("qlock_") && id.len() == 6 + 32, "{id}");
    let again = bench.get(&format!("/v1/quotes/{id}")).await;
    assert_eq!((again.status.as_u16(), again.json()), (200, body.clone()));
    // "Short-lived locks": ten minutes; a late reader still sees what the quote was.
    bench.pass(3_600);
    let mut expired = body.clone();
    expired["quote_lock"]["status"] = "expired".into();
    assert_eq!(bench.get(&format!("/batchrouter/v1/quotes/{id}")).await.json(), expired);
    assert_eq!(bench.api.service.store.sweep(bench.api.service.clock.now()).await.unwrap(), 0);
    bench.pass(86_400);
    bench.api.service.store.sweep(bench.api.service.clock.now()).await.unwrap();
    let gone = bench.get(&format!("/v1/quotes/{id}")).await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "quote_not_found"));
    assert_eq!(bench.post("/v1/batches/quote", &asking(json!({}))).await.status, 200, "the older name");
}

#[tokio::test]
async fn the_cheapest_eligible_lane_is_chosen_and_every_other_says_why_not() {
    let bench = bench().await;
    // "Routed across every provider offering it, cheapest eligible lane".
    assert_eq!(selected(&bench, &asking(json!({}))).await, ["cheap-us"]);
    // "Every listed tool must be supported by the lane"; "every unselected lane carries a rejection
    // reason".
    let reply = bench.post("/v1/quotes/model", &asking(json!({"required_tools": ["web_search"]}))).await.json();
    let (chosen, others) = described(&reply["quote_lanes"]);
    assert_eq!(
        (chosen, others),
        (vec!["tool-us".into()], ["cheap-us", "tiny-eu", "dear-eu"].map(|id| format!("{id} tool_support")).to_vec())
    );
    let reply = bench.post("/v1/quotes/model", &asking(json!({"allowed_regions": ["eu"]}))).await.json();
    let (chosen, others) = described(&reply["quote_lanes"]);
    assert_eq!(chosen, ["tiny-eu"]);
    assert_eq!(others, ["dear-eu not_cheapest", "cheap-us region_unavailable", "tool-us region_unavailable"]);
    // "Privacy tiers this offering satisfies"; no offering here claims more than `standard`.
    let reply = bench.post("/v1/quotes/model", &asking(json!({"privacy_tier": "hipaa"}))).await;
    let lanes = &reply.json()["error"]["details"]["quote_lanes"];
    assert_eq!((reply.status.as_u16(), &lanes[0]["rejection_reason"]), (400, &json!("privacy_tier")), "{lanes}");
    // "`global` is a wildcard".
    assert_eq!(selected(&bench, &asking(json!({"allowed_regions": ["global", "eu"]}))).await, ["cheap-us"]);
    // "Use `models` instead of `model`: the cheapest that satisfies the constraints wins".
    assert_eq!(selected(&bench, &asking(json!({"models": ["large", "small"]}))).await, ["dear-eu"]);
    assert_eq!(selected(&bench, &asking(json!({"model": "small-alias"}))).await, ["dear-eu"]);
    for preferences in [json!({"zdr": true}), json!({"only": ["tiny-eu", "dear-eu"]})] {
        assert_eq!(selected(&bench, &asking(json!({"provider_preferences": preferences}))).await, ["tiny-eu"]);
    }
    // One lane per model; several lanes if one cannot take all items.
    let three = json!({"items": [item("a", "large"), item("b", "small"), item("c", "large")]});
    assert_eq!(selected(&bench, &three).await, ["cheap-us", "dear-eu"]);
    let many = json!({"items": [item("a", "large"), item("b", "large"), item("c", "large")], "provider_preferences": {"only": ["tiny-eu", "dear-eu"]}});
    assert_eq!(selected(&bench, &many).await, ["dear-eu"], "one lane that takes all is better than a cheaper one for some");
    let options = json!({"items": [{"customer_item_id": "a", "model": "large", "model_options": ["large", "small"], "input": {"messages": [{"role": "user", "content": "x"}]}}]});
    assert_eq!(selected(&bench, &options).await, ["dear-eu"]);
}

#[tokio::test]
async fn a_tier_sets_the_deadline_from_the_moment_of_the_quote() {
    let bench = bench().await;
    let now = bench.api.service.clock.now();
    for (tier, hours) in [("standard", 24), ("flex", 48), ("priority", 4)] {
        let reply = bench.post("/v1/quotes/model", &asking(json!({"sla_tier": tier}))).await.json();
        assert_eq!(reply["sla_deadline"], format!("{:.3}", later(now, Duration::from_secs(hours * 3_600))), "{tier}");
        assert_eq!(reply["valid_until"], format!("{:.3}", later(now, Duration::from_secs(600))));
    }
}

#[tokio::test]
async fn a_quote_of_nothing_that_can_be_served_is_refused_with_all_reasons() {
    let bench = bench().await;
    let missing = json!({"items": [
        {"customer_item_id": "a", "model": "large", "input": {"messages": []}},
        {"customer_item_id": "a", "model": "largo", "input": {"messages": [{"role": "user", "content": "x"}]}},
        {"operation": "translate", "model": "large", "input": {"input": "x"}},
        {"customer_item_id": "b", "input": {"input": "x"}},
        17,
    ]});
    let refused = [
        missing,
        asking(json!({"allowed_regions": ["cn"]})),
        asking(json!({"max_price": {"currency": "usd", "amount": "0.000001"}})),
        asking(json!({"max_price": "0.000001"})),
        // The fee counts.
        asking(json!({"max_price": "0.000109"})),
        // Items that no lane can ever take are no question of capacity, whatever other reasons
        // there are.
        json!({"items": [item("a", "large"), {"customer_item_id": "b", "model": "large",
            "input": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5_000}}]}),
        json!({"items": [{"customer_item_id": "a", "model_options": vec!["large"; 300], "input": {"messages": [{"role": "user", "content": "x"}]}}]}),
        asking(
            json!({"items": [{"customer_item_id": "a", "model": "large", "input": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5_000}}]}),
        ),
    ];
    let mut texts = Vec::new();
    for body in refused {
        let reply = bench.post("/v1/quotes/model", &body).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "preflight_failed"), "{}", reply.text());
        let details = &reply.json()["error"]["details"];
        let issues = details["preflight"]["issues"].as_array().unwrap().iter().map(|issue| issue.to_string()).collect::<Vec<_>>();
        let lanes = details["quote_lanes"].as_array().into_iter().flatten().filter(|lane| lane["selected"] == false);
        let lanes = lanes.map(|lane| format!("{}: {}", lane["rejection_reason"], lane["rejection_message"])).collect::<Vec<_>>();
        texts.push([issues, lanes].concat().join("\n"));
    }
    insta::assert_snapshot!(texts.join("\n--\n"));
    // "Capacity unavailable (quote)": 503 if only capacity is in the way.
    let many = json!({"items": large_items(&["a", "b", "c"]), "provider_preferences": {"only": ["tiny-eu"]}});
    let reply = bench.post("/v1/quotes/model", &many).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "provider_capacity_unavailable"));
    assert_eq!(
        (&reply.json()["error"]["details"]["requested_items"], &reply.json()["error"]["details"]["allocated_items"]),
        (&json!(3), &json!(2))
    );
}

#[tokio::test]
async fn what_nobody_knows_is_not_shown_as_free() {
    let bench = bench().await;
    let reply = bench.post("/v1/quotes/model", &json!({"items": [item("a", "unpriced"), item("b", "large")]})).await.json();
    assert_eq!(described(&reply["quote_lanes"]).0, ["cheap-us", "cheap-us"]);
    assert_eq!((&reply["pricing_estimate"]["total"], &reply["funding_preview"]["can_fund"]), (&Value::Null, &Value::Null));
    let ceiling = bench.post("/v1/quotes/model", &json!({"items": [item("a", "unpriced")], "max_price": "1"})).await;
    assert_eq!((ceiling.status.as_u16(), ceiling.code().as_str()), (400, "preflight_failed"));
}

#[tokio::test]
async fn room_is_given_out_once_however_models_are_spelt() {
    let bench = bench().await;
    let only = json!({"only": ["tiny-eu"]});
    let two = json!({"items": [item("a", "large"), item("b", "large-alias")], "provider_preferences": only});
    assert_eq!(selected(&bench, &two).await, ["tiny-eu"], "one group");
    let mut four = large_items(&["a", "b"]);
    four.extend([item("c", "large-alias"), item("d", "large-alias")]);
    let reply = bench.post("/v1/quotes/model", &json!({"items": four, "provider_preferences": only})).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "provider_capacity_unavailable"), "{}", reply.text());
}

#[tokio::test]
async fn what_cannot_be_meant_is_an_invalid_request() {
    let bench = bench().await;
    let bodies = [
        json!([]),
        json!({}),
        json!({"items": {}}),
        json!({"items": []}),
        json!({"items": large_items(&["a", "b", "c", "d", "e", "f"])}),
        asking(json!({"routing_mode": "fastest"})),
        asking(json!({"sla_tier": "asap"})),
        asking(json!({"required_tools": ["telepathy"]})),
        asking(json!({"allowed_regions": "eu"})),
        asking(json!({"max_price": {"currency": "eur", "amount": "1"}})),
        asking(json!({"max_price": {"currency": "usd"}})),
        asking(json!({"max_price": -1})),
        asking(json!({"operation": "translate"})),
        asking(json!({"model": "m".repeat(300)})),
        asking(json!({"models": ["large", ""]})),
        asking(json!({"provider_preferences": {"zdr": "yes"}})),
    ];
    let mut texts = Vec::new();
    for body in bodies {
        let reply = bench.post("/v1/quotes/model", &body).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "invalid_request"), "{}", reply.text());
        texts.push(reply.json()["error"]["message"].as_str().unwrap().to_owned());
    }
    insta::assert_snapshot!(texts.join("\n"));
    // "Body over 20 MiB": 413 with the limit, which is smaller here.
    let reply = bench.post("/v1/quotes/model", &asking(json!({"metadata": "x".repeat(20_000)}))).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (413, "request_too_large"));
    assert_eq!(reply.json()["error"]["details"]["max_bytes"], 10_000);
    // Unknown fields are ignored.
    assert_eq!(selected(&bench, &asking(json!({"estimated_items": 9, "metadata": {"a": 1}}))).await, ["cheap-us"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_in_keeps_no_room_from_others_and_is_given_up() {
    let bench = Bench::new().await;
    let trickle = || {
        let pieces = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((Ok::<_, std::io::Error>(axum::body::Bytes::from_static(b" ")), ()))
        });
        Body::from_stream(pieces)
    };
    // Each body may become as long as the limit, 20 MiB: there would be room for six at the same time.
    let headers = [("content-type", "application/json")];
    let slow = (0..10).map(|_| bench.call("POST", "/v1/quotes/model", &headers, trickle()));
    let started = tokio::time::Instant::now();
    let replies = futures_util::future::join_all(slow).await;
    let of = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(of(400), 10, "{}", replies[0].text());
    assert!(replies[0].text().contains("took longer than 110 seconds"), "{}", replies[0].text());
    assert!(started.elapsed() < Duration::from_secs(200), "{:?}", started.elapsed());
    assert_eq!(bench.post("/v1/quotes/model", &json!({"items": [item("a", "gpt-4o-mini")]})).await.status, 200);
}

#[tokio::test]
async fn lines_of_openais_batch_input_are_items_too() {
    let bench = bench().await;
    let line = json!({"items": [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "large", "messages": [{"role": "user", "content": "x"}]}}]});
    assert_eq!(selected(&bench, &line).await, ["cheap-us"]);
}

#[tokio::test]
async fn a_quote_belongs_to_the_organisation_that_asked_for_it() {
    let bench = Bench::with(|api| api.access = Access::keys(&["alpha".into(), "beta".into()])).await;
    let body = json!({"items": [item("a", "gpt-4o-mini")]}).to_string();
    let as_key = |key: &'static str| [("authorization", key), ("content-type", "application/json")];
    let made = bench.call("POST", "/v1/quotes/model", &as_key("Bearer alpha"), body.clone()).await;
    let path = format!("/v1/quotes/{}", made.json()["quote_id"].as_str().unwrap());
    assert_eq!(bench.call("GET", &path, &as_key("Bearer alpha"), "").await.status, 200);
    assert_eq!(bench.call("GET", &path, &as_key("Bearer beta"), "").await.status, 200, "keys of the settings are one organisation's");
    let nobody = bench.call("POST", "/v1/quotes/model", &as_key("Bearer gamma"), body).await;
    assert_eq!((nobody.status.as_u16(), nobody.code().as_str()), (401, "unauthorized"));
    let wrong = bench.call("DELETE", &path, &as_key("Bearer alpha"), "").await;
    assert_eq!((wrong.status.as_u16(), wrong.json()["error"].get("type")), (405, None), "BatchRouter's envelope");
}

#[tokio::test]
async fn providers_the_fee_and_health_need_no_key() {
    let bench = bench().await;
    let keys = Bench::with(|api| {
        super::service(api).catalog = bench.api.service.catalog.clone();
        super::service(api).limits.quotes.fee = "5.90".parse().unwrap();
        api.access = Access::keys(&["alpha".into()]);
    })
    .await;
    let directory = keys.get("/v1/providers").await.json();
    assert_eq!(directory["data"].as_array().unwrap().len(), 4);
    insta::assert_json_snapshot!(directory["data"][0]);
    let fee = json!({ "currency": "usd", "data": [{ "product": "model", "fee_percent": "5.9", "basis": "provider_subtotal" }] });
    assert_eq!(keys.get("/batchrouter/v1/pricing/fees").await.json(), fee);
    assert_eq!(keys.get("/v1/health").await.json(), json!({ "status": "ok" }));
}
