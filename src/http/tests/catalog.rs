//! The two public views of the catalog against the sentences of the documents they follow, over a
//! small catalog that has one of everything.

use super::*;
use crate::catalog::{Archive, Snapshot, load_archive};

const PROVIDERS: [(&str, &str); 3] = [
    (
        "providers/acme.toml",
        r#"
schema = 1
id = "acme"
name = "Acme"
kind = "openai"
base_url = "http://acme.test"
documentation_url = "https://acme.test/docs"
notes = "A note."
regions = ["us", "eu"]
[privacy]
retention_days = 0
zdr = true
data_collection = "deny"
training_use = false
tiers = ["standard"]
terms_url = "https://acme.test/privacy"
source = "https://acme.test/privacy"
verified_at = 2026-05-01
[capacity]
queue_items = 4000
queue_tokens = 2097152
"#,
    ),
    (
        "providers/keyless.toml",
        r#"
schema = 1
id = "keyless"
name = "No key here"
kind = "openai"
base_url = "http://keyless.test"
api_key_env = "KEYLESS_API_KEY"
"#,
    ),
    (
        "providers/zeta.toml",
        r#"
schema = 1
id = "zeta"
name = "Zeta"
kind = "openai"
base_url = "http://zeta.test"
"#,
    ),
];

const MODELS: &str = r#"
schema = 1
[[model]]
id = "text-large"
aliases = ["large"]
name = "Acme Text Large"
family = "acme/text"
organisation = "Acme"
released = 2026-03-01
endpoints = ["/v1/responses", "/v1/chat/completions"]
input = ["text", "image"]
output = ["text"]
context_window = 32768
max_input_tokens = 28672
max_output_tokens = 4096
[model.files]
types = ["image/*"]
max_bytes = 1000
[[model.offering]]
provider = "acme"
hosted_tools = ["calculator"]
runtime_capabilities = ["tools"]
verification = "verified"
[[model.offering.price]]
input = "0.250"
output = "1"
cached_input = "0.025"
image = "0.04"
source = "https://acme.test/prices"
verified_at = 2026-06-20
[[model.offering.price]]
plan = "batch"
input = "0.125"
output = "0.5"
source = "https://acme.test/prices"
verified_at = 2026-06-19
[[model.offering]]
provider = "zeta"
upstream = "zeta-text"
endpoints = ["/v1/chat/completions"]
hosted_tools = ["web_search"]
[[model.offering]]
provider = "keyless"

[[model]]
id = "embedder"
name = "alpha embedder"
organisation = "Zeta"
released = 2026-06-01
endpoints = ["/v1/embeddings"]
input = ["text"]
output = ["embedding"]
[[model.offering]]
provider = "zeta"
status = "paused"
[[model.offering]]
provider = "acme"
context_window = 8192
[[model.offering.price]]
input = "0.02"
source = "https://acme.test/prices"
verified_at = 2026-06-18

[[model]]
id = "other/old"
name = "Old"
organisation = "Acme"
released = 2026-06-01
deprecated = 2026-11-24
endpoints = ["/v1/responses"]
[[model.offering]]
provider = "acme"

[[model]]
id = "unserved"
organisation = "Acme"
released = 2026-08-01
endpoints = ["/v1/responses"]
[[model.offering]]
provider = "keyless"

[[model]]
id = "second"
name = "Beta"
organisation = "Acme"
released = 2026-06-01
endpoints = ["/v1/responses"]
[[model.offering]]
provider = "acme"
"#;

fn snapshot(models: &str) -> Snapshot {
    let files = PROVIDERS.iter().map(|(file, text)| (*file, *text)).chain([("models/m.toml", models)]);
    let archive = Archive(files.map(|(file, text)| (file.to_owned(), text.to_owned())).collect());
    let seeds = load_archive(archive).unwrap_or_else(|faults| panic!("{faults}"));
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
}

async fn bench() -> Bench {
    Bench::with(|api| super::service(api).catalog = Arc::new(Catalog::for_tests(snapshot(MODELS)))).await
}

fn slugs(reply: &Reply, key: &str) -> Vec<String> {
    reply.json()["data"].as_array().unwrap().iter().map(|model| model[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn batchrouter_shows_every_documented_field() {
    let reply = bench().await.get("/v1/catalog/models").await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (200, "*"));
    let body = reply.json();
    // "In the docs' example equals the distinct providers present"; prices were last compared in
    // June.
    assert_eq!((&body["provider_count"], &body["pricing_updated_at"]), (&Value::from(3), &Value::from("2026-06-20T00:00:00Z")));
    assert_eq!(slugs(&reply, "slug"), ["text-large", "embedder", "other/old", "unserved", "second"]);
    insta::assert_json_snapshot!(body["data"][0]);
}

#[tokio::test]
async fn batchrouters_filters_are_checked_and_combined_with_and() {
    let bench = bench().await;
    let ask = async |query: &str| slugs(&bench.get(&format!("/v1/catalog/models?{query}")).await, "slug");
    assert_eq!(ask("operation=embeddings").await, ["embedder"]);
    assert_eq!(ask("operation=vision").await, ["text-large"]);
    assert_eq!(ask("operation=responses&provider=zeta").await, ["text-large"]);
    assert_eq!(ask("provider=keyless").await, ["text-large", "unserved"]);
    assert_eq!(ask("hosted_tool=calculator").await, ["text-large"]);
    // Provider and tool must be those of the same offering.
    assert_eq!(ask("hosted_tool=calculator&provider=zeta").await, Vec::<String>::new());
    assert_eq!(ask("operation=embeddings&hosted_tool=calculator").await, Vec::<String>::new());
    // An unknown provider matches nothing, an empty value is no filter, and unknown parameters are
    // ignored.
    assert_eq!(bench.get("/v1/catalog/models?provider=nobody").await.json()["provider_count"], 0);
    assert_eq!(ask("provider=&colour=red").await.len(), 5);
    // Filters select models; their offerings stay whole.
    let filtered = bench.get("/v1/catalog/models?provider=zeta&operation=responses").await.json();
    assert_eq!(filtered["data"][0]["provider_offerings"].as_array().unwrap().len(), 3);
    for (query, param) in
        [("operation=fly", "operation"), ("hosted_tool=hammer", "hosted_tool"), ("operation=vision&operation=vision", "operation")]
    {
        let refused = bench.get(&format!("/v1/catalog/models?{query}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str(), refused.header("access-control-allow-origin")),
            (400, "invalid_request", "*")
        );
        assert_eq!(refused.json()["error"]["details"]["param"], param);
    }
}

#[tokio::test]
async fn batchrouters_catalog_is_public_and_nothing_else_is() {
    let bench = Bench::with(|api| {
        super::service(api).catalog = Arc::new(Catalog::for_tests(snapshot(MODELS)));
        api.access = Access::keys(&["key".into()]);
    })
    .await;
    for path in ["/v1/catalog/models", "/batchrouter/v1/catalog/models"] {
        assert_eq!(bench.call("GET", path, &[("origin", "https://page.example"), ("host", "batch.example")], "").await.status, 200);
        let preflight = bench.call("OPTIONS", path, &[("origin", "https://page.example")], "").await;
        assert_eq!((preflight.status.as_u16(), preflight.header("access-control-allow-methods")), (204, "GET, HEAD, OPTIONS"));
    }
    for path in
        ["/v1/batches/models", "/v1/batches/capabilities", "/v1/data/models", "/admin/catalog/history", "/metrics", "/readyz?verbose"]
    {
        assert_eq!(bench.get(path).await.status, 401, "{path}");
        assert_eq!(bench.call("GET", path, &[("authorization", "Bearer key")], "").await.status, 200, "{path}");
    }
    assert_eq!(bench.get("/readyz").await.json(), serde_json::json!({ "status": "ready" }));
}

#[tokio::test]
async fn phaseo_lists_what_a_batch_can_use_the_newest_first() {
    let bench = bench().await;
    let reply = bench.get("/v1/batches/models").await;
    assert_eq!((reply.header("cache-control"), &reply.json()["object"]), ("no-store", &Value::from("list")));
    // Ordered by release, then by name without regard to case; neither the deprecated model nor the
    // model without a usable provider is listed.
    assert_eq!(slugs(&reply, "model"), ["zeta/embedder", "acme/second", "acme/text-large"]);
    let body = reply.json();
    assert!(body.get("has_more").is_none() && body.get("first_id").is_none());
    insta::assert_json_snapshot!(body["data"][2]);
    // A paused offering does not count among a model's providers.
    assert_eq!(body["data"][0]["providers"].as_array().unwrap().len(), 1);
    for model in body["data"].as_array().unwrap() {
        for entry in [model].into_iter().chain(model["providers"].as_array().unwrap()) {
            assert_eq!(entry["supported_params"], entry["supported_parameters"]);
            assert_eq!(entry["supported_params_detail"], entry["supported_parameters_detail"]);
        }
        assert_eq!(model["pricing"]["meters"].as_object().unwrap().len(), 21);
    }
    for alias in ["/v1/batch/models", "/phaseo/v1/batches/models"] {
        assert_eq!(bench.get(alias).await.json(), body);
    }
}

#[tokio::test]
async fn phaseos_params_pick_provider_entries_by_name_or_alias() {
    let bench = bench().await;
    let count = async |query: &str| bench.get(&format!("/v1/batches/models?{query}")).await.json()["data"].as_array().unwrap().len();
    for all in [
        "params=",
        "params=request_endpoint,window",
        "params=endpoint&params=completion_window",
        "params=%20window%20,,",
        "params=nothing,endpoint",
        "limit=1",
    ] {
        assert_eq!(count(all).await, 3, "{all}");
    }
    // Unknown names are no error, names are case-sensitive, and a list of only unknown names
    // matches nothing.
    for none in ["params=temperature", "params=Endpoint", "params=WINDOW,ENDPOINT"] {
        assert_eq!(count(none).await, 0, "{none}");
    }
}

#[tokio::test]
async fn phaseos_capabilities_are_those_of_usable_providers() {
    let body = bench().await.get("/v1/batches/capabilities").await.json();
    insta::assert_json_snapshot!(body);
}

#[tokio::test]
async fn phaseos_client_learns_the_life_of_a_model_under_the_name_it_asks_for() {
    let bench = bench().await;
    let ask = async |id: &str| bench.get(&format!("/v1/data/models?model_id={id}&limit=1")).await.json()["models"].clone();
    for (id, status) in [("acme/text-large", "active"), ("large", "active"), ("other/old", "deprecated")] {
        let models = ask(id).await;
        assert_eq!((&models[0]["model_id"], &models[0]["status"]), (&Value::from(id), &Value::from(status)));
    }
    assert_eq!(ask("nobody/nothing").await, serde_json::json!([]));
    let page = bench.get("/v1/data/models?limit=2").await.json();
    assert_eq!((page["models"].as_array().unwrap().len(), &page["total"]), (2, &Value::from(5)));
}

#[tokio::test]
async fn a_view_is_rendered_once_and_its_tag_names_its_bytes() {
    let bench = bench().await;
    let paths = ["/v1/catalog/models", "/v1/batches/models", "/v1/batches/capabilities", "/v1/models", "/v1/models/large"];
    for path in paths.into_iter().chain(["/v1/data/models?model_id=large&limit=1"]) {
        let mut tags = Vec::new();
        for coding in ["", "gzip", "zstd"] {
            let reply = bench.call("GET", path, &[("accept-encoding", coding)], "").await;
            assert_eq!((reply.status.as_u16(), reply.header("content-encoding"), reply.header("vary")), (200, coding, "accept-encoding"));
            let tag = reply.header("etag").to_owned();
            assert!(tag.starts_with('"'), "strong");
            let again = bench.call("GET", path, &[("accept-encoding", coding), ("if-none-match", &format!("\"x\", W/{tag}"))], "").await;
            assert_eq!((again.status.as_u16(), again.body.len(), again.header("etag")), (304, 0, tag.as_str()));
            tags.push(tag);
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 3, "each coding has bytes of its own");
    }
    // A new catalog changes the answer at once.
    let before = bench.get("/v1/models").await;
    bench.api.service.catalog.replace(snapshot(&MODELS.replace("id = \"second\"", "id = \"third\"")));
    let after = bench.get("/v1/models").await;
    assert_ne!(before.header("etag"), after.header("etag"));
    assert!(after.text().contains("\"third\"") && !after.text().contains("\"second\""));
}

#[tokio::test]
async fn a_provider_that_takes_every_model_does_not_offer_it() {
    let catch_all = PROVIDERS[0].1.replace("[privacy]", "catch_all = true\n[privacy]");
    let files = [("providers/acme.toml", catch_all.as_str()), PROVIDERS[1], PROVIDERS[2], ("models/m.toml", MODELS)];
    let archive = Archive(files.map(|(file, text)| (file.to_owned(), text.to_owned())).into());
    let seeds = load_archive(archive).unwrap_or_else(|faults| panic!("{faults}"));
    let snapshot = seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false);
    let bench = Bench::with(|api| super::service(api).catalog = Arc::new(Catalog::for_tests(snapshot))).await;
    let body = bench.get("/v1/catalog/models").await.json();
    let unserved = body["data"].as_array().unwrap().iter().find(|model| model["slug"] == "unserved").unwrap();
    assert_eq!((&unserved["provider"], &unserved["is_available"]), (&Value::from("keyless"), &Value::from(false)));
}

#[tokio::test]
async fn the_public_catalog_stays_public_where_other_origins_are_listed() {
    let origins = crate::http::Origins::of(vec!["https://tools.example".into()]);
    let bench = Bench::with(|api| api.access = Access::keys(&["key".into()]).with_origins(origins)).await;
    let preflight = async |path: &str, origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "GET"), ("access-control-request-headers", "if-none-match")];
        bench.call("OPTIONS", path, &headers, "").await.header("access-control-allow-origin").to_owned()
    };
    assert_eq!(preflight("/v1/catalog/models", "https://page.example").await, "https://page.example");
    assert_eq!(preflight("/v1/batches", "https://page.example").await, "");
    assert_eq!(preflight("/v1/batches", "https://tools.example").await, "https://tools.example");
    let read = bench.call("GET", "/v1/catalog/models", &[("origin", "https://page.example")], "").await;
    assert_eq!((read.status.as_u16(), read.headers.get_all("access-control-allow-origin").iter().count()), (200, 1));
}

#[tokio::test]
async fn however_many_ask_at_once_a_view_is_made_once() {
    let bench = bench().await;
    let made = std::sync::atomic::AtomicU32::new(0);
    let made = Arc::new(made);
    let asks = (0..50).map(|_| {
        let (api, made) = (bench.api.clone(), made.clone());
        async move {
            let build = move |_: &Snapshot| {
                made.fetch_add(1, Ordering::Relaxed);
                crate::http::response::views::Template::of(&"x")
            };
            crate::http::response::views::respond(&api, "test", &axum::http::HeaderMap::new(), "no-store", build).await.unwrap().status()
        }
    });
    assert!(futures_util::future::join_all(asks).await.iter().all(|status| *status == 200));
    assert_eq!(made.load(Ordering::Relaxed), 1);
}
