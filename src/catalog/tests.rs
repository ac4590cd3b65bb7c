//! The catalog as a whole: what its users see of seeds, upstreams, keys and routes.

use std::fs;

use jiff::civil::{Date, date};

use super::fault::Source;
use super::seeds::from_sources;
use super::*;
use crate::domain::endpoint::Endpoint;
use crate::domain::provider::connection::{Connection, HostAddresses, KeySource, ProviderKind};

/// The day on which the tests take place, whatever the calendar says.
const TODAY: Date = date(2026, 11, 24);

fn no_key(_: &Connection) -> bool {
    false
}

fn key_of<'a>(variable: &'a str) -> impl Fn(&Connection) -> bool + 'a {
    move |connection| connection.key == KeySource::Env(variable.to_owned())
}

fn seeds(files: &[(&str, &str)]) -> Result<Seeds, Faults> {
    from_sources(files.iter().map(|(file, text)| Source { file: (*file).into(), text: (*text).into() }).collect())
}

fn with(upstreams: &[&str], has_key: bool) -> Seeds {
    let key = if has_key { KeySource::Env(UPSTREAM_KEY_ENV.to_owned()) } else { KeySource::None };
    let options = UpstreamOptions { key, ..UpstreamOptions::default() };
    load_embedded().unwrap().with_upstreams(&Upstreams::parse(upstreams).unwrap(), &options)
}

fn route(snapshot: &Snapshot, model: &str) -> String {
    match snapshot.resolve(model) {
        Ok(Route { provider, upstream, price, model }) => {
            format!(
                "{provider} {upstream} as {model} at {:?}/{:?}",
                price.input.map(|p| p.to_string()),
                price.output.map(|p| p.to_string())
            )
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_built_in_seeds_are_sound_and_cover_every_operation() {
    let seeds = load_embedded().unwrap_or_else(|faults| panic!("{faults}"));
    for endpoint in Endpoint::HOSTED {
        assert!(seeds.models.iter().any(|model| model.family.as_deref() != Some("simulated") && model.endpoints.contains(&endpoint)));
    }
    let from_disk = load_dir(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/catalog-seed"))).unwrap();
    assert_eq!(from_disk, seeds);
    assert_eq!(seeds.hash.len(), 64);
}

#[test]
fn every_built_in_model_says_where_its_facts_come_from() {
    let snapshot = load_embedded().unwrap().into_snapshot(TODAY, &no_key);
    let (mut models, mut priced, mut batch) = (0, 0, 0);
    for model in snapshot.all_models().iter().filter(|model| model.family.as_deref() != Some("simulated")) {
        assert!(model.evidence.is_some() && model.released.is_some() && !model.offerings.is_empty(), "{}", model.id);
        models += 1;
        for rates in model.offerings.iter().map(|offering| &offering.rates) {
            priced += usize::from(!rates.all().is_empty());
            batch += usize::from(rates.all().iter().any(|rate| rate.plan == Plan::Batch));
        }
    }
    assert!(models >= 80 && priced >= 80 && batch >= 30 && snapshot.providers().count() >= 14, "{models} {priced} {batch}");
    // Without keys the offerings are listed, but none of their providers is called.
    assert!(snapshot.all_models().iter().flat_map(|model| snapshot.offers(model)).all(|offer| offer.usable != offer.provider.is_real()));
}

#[test]
fn no_built_in_seed_uses_a_variable_that_a_client_would_have_set() {
    for provider in load_embedded().unwrap().providers {
        match provider.connection.key {
            KeySource::Env(name) => assert!(name.starts_with("BATCHD_"), "{name}"),
            KeySource::File(_) | KeySource::None => {
                let url = provider.base_url_env.as_deref();
                assert!(!provider.is_real() || url.is_some_and(|name| name.starts_with("BATCHD_")), "{}", provider.id());
            }
        }
    }
}

#[test]
fn every_fault_of_every_file_is_reported_with_its_place() {
    let report = seeds(&[
        ("providers/a.toml", "schema = 2\nid = \"b\"\nname = \" \"\nkind = \"openai\"\nbase_url = \"ftp://x\"\napi_path = \"v1/\"\nstatus = \"deprecated\"\nregions = [\"EU\", \"us\", \"us\"]\ncatch_all = true\nstand_in = true\napi_key_env = \"sk-123\"\napi_key_file = \"/run/key\"\n[body]\nset = { model = \"m\" }\ndrop = [\"\", \"model\"]\n[timeouts]\nconnect = \"ten\"\ntotal = \"-1s\"\n[limits]\nin_flight = 0\n[privacy]\nretention_days = -1\ndata_collection = \"maybe\"\nterms_url = \"here\"\nsource = \"https://a\"\n"),
        ("providers/c.toml", "kind = \"simulated\"\ncatch_all = true\nbase_url = \"http://user:secret@x\"\napi_path = \"\"\nlocal = true\nspread_addresses = true\nmax_waiting = 4\nbody = { set = { at = 2026-01-01 } }\n[profile]\nspread = 0.5\nfaults = { error = 0.7, cut = 0.6, slow = -0.1 }\n[models.m]\nlatency = \"48h\"\nfautls = {}\n"),
        ("providers/d.toml", "schema = 1\nid = \"d\"\nname = \"D\"\nkind = \"openai\"\nbase_url = \"http://d\"\nmax_waiting = 0\n[body]\nset = { at = [2026-01-01] }\n"),
        ("providers/e.toml", "schema = 1\nid = \"e\"\nname = \"E\"\nkind = \"grpc\"\n"),
        ("models/m.toml", "schema = 1\n[[model]]\nid = \"no spaces\"\naliases = [\"x\", \"x\"]\norganisation = \"o\"\nreleased = \"2024-01-01\"\nendpoints = [\"/v1/chat\", \"/v1/responses\", \"/v1/responses\"]\ncontext_window = -1\ninput = [\"smell\"]\n[model.files]\ntypes = [\"PDF\"]\n[[model.offering]]\nprovider = \"z\"\n[[model.offering.price]]\nplan = \"cheap\"\ninput = \"-1\"\noutput = \"1e3\"\nimage = \"0,5\"\nsource = \"price list\"\n"),
        ("models/n.toml", "schema = 1\n[[model]]\nid = \"x\"\nendpoints = []\n[[model.offering]]\nprovider = \"a\"\n[[model.offering]]\nprovider = \"a\"\nretired = 2026-01-01T00:00:00Z\nprice = [{}]\n[[model]]\n"),
        ("models/o.toml", ""),
        ("models/p.toml", "schema = \n[[model]\n"),
    ])
    .unwrap_err()
    .to_string();
    assert!(!report.contains("sk-123") && !report.contains("secret"), "a report goes to the log");
    insta::assert_snapshot!(report);
}

#[test]
fn a_folder_is_read_without_what_editors_leave_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load_dir(&dir.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none: cannot be read"), "{missing}");
    let empty = load_dir(dir.path()).unwrap_err().to_string();
    assert!(empty.contains("holds no seed"), "{empty}");

    fs::create_dir(dir.path().join("providers")).unwrap();
    let file = |name: &str, text: &[u8]| fs::write(dir.path().join("providers").join(name), text).unwrap();
    file("a.toml", b"schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"simulated\"\n");
    file(".a.toml.swp", b"rubbish");
    file(".#a.toml", b"rubbish");
    file("a.toml~", b"rubbish");
    let first = load_dir(dir.path()).unwrap();
    assert_eq!(first.providers.len(), 1);
    file("a.toml", b"schema = 1\nid = \"a\"\nname = \"B\"\nkind = \"simulated\"\n");
    assert_ne!(load_dir(dir.path()).unwrap().hash, first.hash);
    file("b.toml", b"\xff");
    assert!(load_dir(dir.path()).unwrap_err().to_string().contains("providers/b.toml: byte 1 is not UTF-8"));
}

#[test]
fn with_nothing_configured_the_stand_in_serves_known_models_at_their_listed_price() {
    let snapshot = load_embedded().unwrap().into_snapshot(TODAY, &no_key);
    let models = ["gpt-4o-mini", "openai/gpt-4o", "sora-2", "simulated-fast", "gpt4o-mini", "gpt-4.1-nan", "zzz"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    assert!(snapshot.models().any(|model| model.id == "gpt-4o-mini" && model.owned_by == "OpenAI" && model.created == 1_721_260_800));
    assert!(snapshot.models().any(|model| model.id == "simulated-flaky"));
    assert_eq!(snapshot.connections().count(), 1);
}

#[test]
fn beside_a_real_provider_the_stand_in_answers_only_for_its_own_models() {
    let snapshot = with(&["llama=http://localhost:8000"], false).into_snapshot(TODAY, &no_key);
    assert!(!snapshot.is_simulated());
    let models = ["gpt-4o-mini", "sora-2", "simulated-fast", "gpt-4"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    assert!(snapshot.models().all(|model| model.id.starts_with("simulated-") || model.id == "llama"));

    let snapshot = load_embedded().unwrap().into_snapshot(TODAY, &key_of("BATCHD_OPENAI_API_KEY"));
    assert_eq!(route(&snapshot, "openai/gpt-4o"), "openai gpt-4o as gpt-4o at Some(\"2.5\")/Some(\"10\")");
    assert!(snapshot.models().all(|model| model.id != "o4-mini"), "retired");
}

#[test]
fn a_model_is_routed_only_to_where_its_endpoint_may_be_served() {
    let provider = |id: &str, url: &str| format!("schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"{url}\"\n");
    let offering = |provider: &str, more: &str| format!("[[model.offering]]\nprovider = \"{provider}\"\n{more}\n");
    let model = |id: &str, endpoints: &str, offerings: &[String]| {
        let offerings = offerings.concat();
        format!("[[model]]\nid = \"{id}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [{endpoints}]\n{offerings}")
    };
    let price = "price = [{ input = \"1\", source = \"http://p\", verified_at = 2026-01-01 }]";
    let (chat, vectors) = ("\"/v1/chat/completions\"", "\"/v1/embeddings\"");
    let models = [
        "schema = 1\n".to_owned(),
        model(
            "two",
            &format!("{chat}, \"/v1/responses\""),
            &[offering("first", &format!("endpoints = [{chat}]\n{price}")), offering("second", price)],
        ),
        model("vectors", vectors, &[offering("first", price)]),
        model("own", chat, &[offering("own", "")]),
        model("free", chat, &[offering("first", "")]),
    ];
    let files = [
        ("providers/first.toml", provider("first", "https://first.example")),
        ("providers/second.toml", provider("second", "https://second.example")),
        ("providers/own.toml", provider("own", "http://localhost:8000") + "base_url_env = \"OWN\"\n"),
        ("models/m.toml", models.concat()),
    ];
    let seeds = seeds(&files.each_ref().map(|(file, text)| (*file, text.as_str()))).unwrap_or_else(|faults| panic!("{faults}"));
    let seeds = seeds.with_urls(&|_| Some("http://localhost:9000".to_owned())).unwrap();
    let snapshot = seeds.with_upstreams(&Upstreams::parse(&["http://gpu:8000"]).unwrap(), &UpstreamOptions::default());
    let snapshot = snapshot.into_snapshot(TODAY, &no_key);
    let at =
        |model, endpoint| snapshot.resolve_at(model, endpoint).map_or_else(|error| error.to_string(), |route| route.provider.to_owned());
    assert_eq!(at("two", Endpoint::ChatCompletions), "first");
    assert_eq!(at("two", Endpoint::Responses), "second");
    assert_eq!(
        at("two", Endpoint::Completions),
        "the model `two` does not serve `/v1/completions`; it serves `/v1/responses`, `/v1/chat/completions`"
    );
    assert!(at("vectors", Endpoint::ChatCompletions).contains("it serves `/v1/embeddings`"));
    assert_eq!(at("own", Endpoint::Completions), "own", "its software may serve what the model is for");
    assert_eq!(at("free", Endpoint::Responses), "first", "nobody charges for what is one's own");
    assert!(at("own", Endpoint::Embeddings).contains("does not serve `/v1/embeddings`"));
    assert_eq!(at("anything", Endpoint::Embeddings), "upstream", "nothing is known of the model");
}

#[test]
fn upstreams_override_the_seeds() {
    let upstreams = ["http://gpu:8000/v1/", "llama=http://gpu:8000/v1", "gpt-4o=https://proxy", "openai/gpt-4.1=http://other"];
    let snapshot = with(&upstreams, false).into_snapshot(TODAY, &key_of("BATCHD_OPENAI_API_KEY"));
    let models = ["anything/At-All", "llama", "gpt-4o", "openai/gpt-4o", "openai/gpt-4.1", "gpt-4.1", "o4-mini"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    let ids: Vec<_> = snapshot.connections().map(|connection| connection.id.as_str()).collect();
    assert_eq!(ids, ["openai", "simulated", "upstream", "upstream-2", "upstream-3"]);
    assert!(snapshot.models().all(|model| model.id != "o4-mini"), "nobody is known to have it");
    assert_ne!(snapshot.hash(), load_embedded().unwrap().hash);
    match &snapshot.provider("upstream").unwrap().connection.kind {
        ProviderKind::Server(connection) => assert_eq!(connection.base_url, "http://gpu:8000/v1"),
        ProviderKind::Simulated { .. } => panic!("simulated"),
    }
}

#[test]
fn an_upstream_with_a_missing_key_is_not_used_and_says_so() {
    let snapshot = with(&["llama=http://gpu:8000"], true).into_snapshot(TODAY, &no_key);
    assert!(snapshot.resolve("gpt-4o").is_err(), "a real server is configured, so nothing is stood in for");
    assert_eq!(snapshot.resolve("simulated-fast").unwrap().provider, "simulated");
    assert_eq!(
        route(&snapshot, "llama"),
        "the model `llama` is known, but no provider of it can be used here: upstream (set BATCHD_UPSTREAM_API_KEY)"
    );
}

#[test]
fn an_upstream_is_a_url_or_a_model_and_a_url() {
    for text in ["http://localhost:8000", "hf.co/a/b:Q4_K_M=http://localhost:8000/v1", "a=b=https://host", "/models/x.gguf=http://h"] {
        assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
    }
    let bad = ["", "llama", "llama=", "=http://host", "llama=localhost:8000", "http://key@host", "m=http://h/?a=http://b", "ftp://h"];
    let report: Vec<_> = bad.iter().map(|text| format!("{text:?}: {}", text.parse::<Upstream>().unwrap_err())).collect();
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn servers_given_for_the_same_models_are_one_provider() {
    let snapshot = with(&["http://a", "m=http://b", "http://c", "m=http://d", "n=http://b", "m=http://b"], false);
    let snapshot = snapshot.into_snapshot(TODAY, &|_| true);
    let servers = |model: &str| {
        let connection = &snapshot.provider(snapshot.resolve(model).unwrap().provider).unwrap().connection;
        let urls = connection.servers().map(|server| match server.kind {
            ProviderKind::Server(server) => server.base_url.to_string(),
            ProviderKind::Simulated { .. } => "simulated".to_owned(),
        });
        format!("{} {:?}", connection.id, urls.collect::<Vec<_>>())
    };
    assert_eq!(servers("m"), r#"upstream-2 ["http://b/", "http://d/"]"#);
    assert_eq!(servers("n"), r#"upstream-3 ["http://b/"]"#);
    assert_eq!(servers("anything"), r#"upstream ["http://a/", "http://c/"]"#);
}

#[test]
fn the_cheapest_offering_wins_and_the_first_written_among_equals() {
    let provider = |id: &str| format!("schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"http://{id}\"\n");
    let offering =
        |provider: &str, price: &str| format!("[[model.offering]]\nprovider = \"{provider}\"\nupstream = \"at-{provider}\"\n{price}\n");
    let price = |input: &str, output: &str| {
        format!("price = [{{ input = \"{input}\", output = \"{output}\", source = \"http://p\", verified_at = 2026-01-01 }}]")
    };
    let text =
        ["schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n".to_owned()]
            .into_iter()
            .chain([
                offering("a", ""),
                offering("b", &price("1", "3")),
                offering("c", &price("2", "1.5")),
                offering("d", &price("3", "0.5")),
            ]);
    let text: String = text.collect();
    let providers = ["a", "b", "c", "d"].map(|id| (format!("providers/{id}.toml"), provider(id)));
    let mut files: Vec<_> = providers.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
    files.push(("models/m.toml", &text));
    let seeds = seeds(&files).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(route(&seeds.clone().into_snapshot(TODAY, &no_key), "m"), "c at-c as m at Some(\"2\")/Some(\"1.5\")");
    let without_c = Seeds { providers: seeds.providers.iter().filter(|p| p.id() != "c").cloned().collect(), ..seeds };
    assert_eq!(route(&without_c.into_snapshot(TODAY, &no_key), "m"), "d at-d as m at Some(\"3\")/Some(\"0.5\")");
}

#[test]
fn readers_keep_their_snapshot_and_subscribers_learn_of_the_next() {
    let catalog = Catalog::for_tests(load_embedded().unwrap().into_snapshot(TODAY, &no_key));
    let versions = catalog.subscribe();
    let before = catalog.current();
    let faults = seeds(&[("models/m.toml", "x = 1")]).unwrap_err();
    catalog.refuse(faults.clone(), jiff::Timestamp::UNIX_EPOCH);
    assert!(std::sync::Arc::ptr_eq(&before, &catalog.current()) && !versions.has_changed().unwrap());
    assert_eq!(catalog.standing().refused.unwrap().0, faults);

    let next = load_embedded().unwrap().into_snapshot(TODAY, &key_of("BATCHD_OPENAI_API_KEY"));
    assert!(!next.equals(&before));
    let accepted = Accepted { version: 2, ..catalog.standing().accepted };
    catalog.publish(next, accepted);
    assert!(versions.has_changed().unwrap() && before.resolve("gpt-4o").unwrap().provider == "simulated");
    assert_eq!((catalog.current().resolve("gpt-4o").unwrap().provider, catalog.standing().refused), ("openai", None));
}

#[test]
fn prices_and_offerings_come_and_go_by_date() {
    let provider = "schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"openai\"\nbase_url = \"http://a\"\n";
    let model = "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n\
        [[model.offering]]\nprovider = \"a\"\nretired = 2026-09-01\n\
        [[model.offering.price]]\ninput = \"1\"\nuntil = 2026-06-01\nsource = \"https://p\"\nverified_at = 2026-01-01\n\
        [[model.offering.price]]\ninput = \"2\"\nfrom = 2026-06-01\nsource = \"https://p\"\nverified_at = 2026-01-01\n\
        [[model.offering.price]]\nplan = \"batch\"\ninput = \"0.5\"\nsource = \"https://p\"\nverified_at = 2026-01-01\n";
    let seeds = seeds(&[("providers/a.toml", provider), ("models/m.toml", model)]).unwrap_or_else(|faults| panic!("{faults}"));
    let on = |day| seeds.clone().into_snapshot(day, &no_key);
    let price = |day| on(day).resolve("m").map(|route| route.price.input.unwrap().to_string()).map_err(|error| error.to_string());
    assert_eq!(price(date(2026, 5, 31)), Ok("1".into()));
    assert_eq!(price(date(2026, 6, 1)), Ok("2".into()));
    assert_eq!(
        price(date(2026, 9, 1)),
        Err("the model `m` is known, but no provider of it can be used here: a (ended it on 2026-09-01)".into())
    );
    let changes = [date(2026, 5, 1), date(2026, 6, 1), date(2026, 9, 1)].map(|day| on(day).next_change());
    assert_eq!(changes, [Some(date(2026, 6, 1)), Some(date(2026, 9, 1)), None]);
    assert!(on(date(2026, 7, 1)).equals(&on(date(2026, 8, 1))) && !on(date(2026, 5, 1)).equals(&on(date(2026, 7, 1))));
}

#[test]
fn a_provider_whose_url_is_the_operators_is_used_once_that_is_known() {
    let provider = "schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"openai\"\ncatch_all = true\nbase_url = \"http://localhost:8000\"\nbase_url_env = \"A_URL\"\n";
    let seeds = || seeds(&[("providers/a.toml", provider)]).unwrap();
    let with = |url: &str| seeds().with_urls(&|name| (name == "A_URL").then(|| url.to_owned()));
    assert_eq!(seeds().into_snapshot(TODAY, &no_key).connections().count(), 0);
    let snapshot = with("http://gpu:8000").unwrap().into_snapshot(TODAY, &no_key);
    assert_eq!(route(&snapshot, "anything"), "a anything as anything at None/None");
    assert_ne!(snapshot.hash(), seeds().hash);
    let fault = with("gpu:8000?key=secret").unwrap_err().to_string();
    assert!(fault.contains("providers/a.toml: the environment variable A_URL must be") && !fault.contains("secret"), "{fault}");
}

#[test]
fn addresses_of_a_name_are_servers_if_the_servers_are_ones_own() {
    for (keys, expected) in [
        ("", HostAddresses::Any),
        ("local = true", HostAddresses::Each),
        ("base_url_env = \"OWN\"", HostAddresses::Each),
        ("local = true\nspread_addresses = false", HostAddresses::Any),
        ("spread_addresses = true", HostAddresses::Each),
    ] {
        let provider =
            format!("schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"openai\"\nbase_url = \"http://a.test\"\nmax_waiting = 4\n{keys}\n");
        let snapshot = seeds(&[("providers/a.toml", &provider)]).unwrap().into_snapshot(TODAY, &no_key);
        let ProviderKind::Server(server) = &snapshot.provider("a").unwrap().connection.kind else { panic!("not a server") };
        assert_eq!((server.addresses, server.max_waiting), (expected, Some(4)), "{keys:?}");
    }
}

#[test]
fn a_hosted_service_is_not_sent_what_somebody_else_was_to_get() {
    let provider =
        |id: &str, more: &str| format!("schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"http://{id}\"\n{more}\n");
    let model = "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n[[model.offering]]\nprovider = \"own\"\n";
    let stand_in = "schema = 1\nid = \"sim\"\nname = \"S\"\nkind = \"simulated\"\nstand_in = true\n";
    let build = |own: &str, hosted: &str| {
        let files = [
            ("providers/own.toml", provider("own", own)),
            ("providers/hosted.toml", provider("hosted", hosted)),
            ("providers/sim.toml", stand_in.to_owned()),
            ("models/m.toml", model.to_owned()),
        ];
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
        seeds(&files).unwrap_or_else(|faults| panic!("{faults}")).into_snapshot(TODAY, &no_key)
    };
    let disabled = build("status = \"disabled\"", "catch_all = true");
    assert_eq!(route(&disabled, "m"), "the model `m` is known, but no provider of it can be used here: own (disabled in its seed)");
    assert_eq!(disabled.resolve("unheard-of").unwrap().provider, "hosted");
    // An operator who has just disabled the last real server does not get simulated answers either.
    let none_left = build("status = \"disabled\"", "api_key_env = \"NO_KEY\"");
    assert!(!none_left.is_simulated() && none_left.resolve("m").is_err());
    assert!(build("api_key_env = \"NO_KEY\"", "api_key_env = \"NO_KEY\"").is_simulated());
}

#[test]
fn a_diff_tells_what_a_reload_would_change() {
    let provider = |limit: u32| {
        format!("schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"openai\"\nbase_url = \"http://a\"\n[limits]\nin_flight = {limit}\n")
    };
    let model = |id: &str, price: &str| {
        format!(
            "schema = 1\n[[model]]\nid = \"{id}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n[[model.offering]]\nprovider = \"a\"\n{price}"
        )
    };
    let price = |input: &str| format!("price = [{{ input = \"{input}\", source = \"http://p\", verified_at = 2026-01-01 }}]\n");
    let build = |files: &[(&str, String)]| {
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
        seeds(&files).unwrap_or_else(|faults| panic!("{faults}")).into_snapshot(TODAY, &no_key)
    };
    let old = build(&[
        ("providers/a.toml", provider(8)),
        ("models/m.toml", model("m", &price("1"))),
        ("models/gone.toml", model("gone", &price("1"))),
    ]);
    let new = build(&[
        ("providers/a.toml", provider(16)),
        ("models/m.toml", format!("{}status = \"disabled\"\n", model("m", &price("2")))),
        ("models/new.toml", model("new", "")),
    ]);
    let changes = diff(&old, &new);
    insta::assert_snapshot!(format!("{changes}\n{}", changes.details.join("\n")));
    assert!(diff(&new, &new).is_empty());
}

#[test]
fn the_shipped_json_schemas_are_those_of_this_build() {
    for (file, text) in schemas() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("catalog-seed").join(file);
        if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
            fs::write(&path, &text).unwrap();
        }
        let shipped = fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == text, "write {file} with `batchd catalog schema --into catalog-seed`");
    }
}

mod mutated {
    use super::*;
    use proptest::prelude::*;

    const PROVIDER: &str = include_str!("../../catalog-seed/providers/simulated.toml");
    const MODEL: &str = include_str!("../../catalog-seed/models/simulated.toml");

    proptest! {
        #[test]
        fn a_mutated_seed_gives_seeds_or_faults(text in prop_oneof![Just(PROVIDER), Just(MODEL)], at: prop::sample::Index, put in "[\\[\\]{}=\"'.,#\\n0-9a-z-]{0,3}", cut in 0usize..40) {
            let mut characters: Vec<char> = text.chars().collect();
            let start = at.index(characters.len());
            let end = (start + cut).min(characters.len());
            characters.splice(start..end, put.chars());
            let text: String = characters.into_iter().collect();
            for file in ["providers/simulated.toml", "models/a.toml"] {
                if let Err(faults) = seeds(&[(file, &text)]) {
                    prop_assert!(!faults.as_slice().is_empty() && faults.as_slice().iter().all(|fault| fault.place.is_some()));
                }
            }
        }

        #[test]
        fn any_text_is_an_upstream_or_an_error(text in "\\PC{0,60}") {
            if let Ok(upstream) = text.parse::<Upstream>() {
                prop_assert_eq!(upstream.to_string().parse::<Upstream>(), Ok(upstream));
            }
        }
    }
}
