//! The catalog as a whole: what its users see of seeds, upstreams, keys and routes.

use std::fs;

use super::fault::Source;
use super::seeds::from_sources;
use super::*;
use crate::domain::connection::{Connection, KeySource, ProviderKind};
use crate::domain::endpoint::Endpoint;

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
    let options = UpstreamOptions { has_key, ..UpstreamOptions::default() };
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
    for endpoint in Endpoint::ALL {
        assert!(seeds.models.iter().any(|model| model.family.as_deref() != Some("simulated") && model.endpoints.contains(&endpoint)));
    }
    let from_disk = load_dir(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/catalog-seed"))).unwrap();
    assert_eq!(from_disk, seeds);
    assert_eq!(seeds.hash.len(), 64);
}

#[test]
fn no_built_in_seed_uses_a_variable_that_a_client_would_have_set() {
    for provider in load_embedded().unwrap().providers {
        match provider.connection.key {
            KeySource::Env(name) => assert!(name.starts_with("BATCHD_"), "{name}"),
            KeySource::File(_) | KeySource::None => assert!(!provider.is_real(), "{}", provider.id()),
        }
    }
}

#[test]
fn every_fault_of_every_file_is_reported_with_its_place() {
    let report = seeds(&[
        ("providers/a.toml", "schema = 2\nid = \"b\"\nname = \" \"\nkind = \"openai\"\nbase_url = \"ftp://x\"\nconcurrency = 0\ncatch_all = true\nstand_in = true\napi_key_env = \"sk-123\"\napi_key_file = \"/run/key\"\n[timeouts]\nconnect = \"ten\"\ntotal = \"-1s\"\n"),
        ("providers/c.toml", "kind = \"simulated\"\ncatch_all = true\nbase_url = \"http://user:secret@x\"\n[profile]\nspread = 0.5\nfaults = { error = 0.7, cut = 0.6, slow = -0.1 }\n[models.m]\nlatency = \"48h\"\nfautls = {}\n"),
        ("providers/e.toml", "schema = 1\nid = \"e\"\nname = \"E\"\nkind = \"grpc\"\n"),
        ("models/m.toml", "schema = 1\n[[model]]\nid = \"no spaces\"\naliases = [\"x\", \"x\"]\norganisation = \"o\"\ncreated = \"2024-01-01\"\nendpoints = [\"/v1/chat\", \"/v1/responses\", \"/v1/responses\"]\ncontext_window = -1\n[[model.offering]]\nprovider = \"z\"\n[model.offering.price]\ninput = \"-1\"\noutput = \"1e3\"\nimage = \"0,5\"\nsource = \"price list\"\n"),
        ("models/n.toml", "schema = 1\n[[model]]\nid = \"x\"\nendpoints = []\n[[model.offering]]\nprovider = \"a\"\n[[model.offering]]\nprovider = \"a\"\nretired = 2026-01-01T00:00:00Z\nprice = {}\n[[model]]\n"),
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
    assert!(missing.contains("none/providers: cannot be read"), "{missing}");
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
    let snapshot = load_embedded().unwrap().into_snapshot(&no_key);
    let models = ["gpt-4o-mini", "openai/gpt-4o", "sora-2", "simulated-fast", "gpt4o-mini", "gpt-4.1-nan", "zzz"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    assert!(snapshot.models().any(|model| model.id == "gpt-4o-mini" && model.owned_by == "OpenAI" && model.created == 1_721_088_000));
    assert!(snapshot.models().any(|model| model.id == "simulated-flaky"));
    assert_eq!(snapshot.connections().count(), 1);
}

#[test]
fn beside_a_real_provider_the_stand_in_answers_only_for_its_own_models() {
    let snapshot = with(&["llama=http://localhost:8000"], false).into_snapshot(&no_key);
    assert!(!snapshot.is_simulated());
    let models = ["gpt-4o-mini", "sora-2", "simulated-fast", "gpt-4"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    assert!(snapshot.models().all(|model| model.id.starts_with("simulated-") || model.id == "llama"));

    let snapshot = load_embedded().unwrap().into_snapshot(&key_of("BATCHD_OPENAI_API_KEY"));
    assert_eq!(route(&snapshot, "openai/gpt-4o"), "openai gpt-4o as gpt-4o at Some(\"2.5\")/Some(\"10\")");
    assert!(snapshot.models().all(|model| model.id != "o4-mini"), "retired");
}

#[test]
fn upstreams_override_the_seeds() {
    let upstreams = ["http://gpu:8000/v1/", "llama=http://gpu:8000/v1", "gpt-4o=https://proxy", "openai/gpt-4.1=http://other"];
    let snapshot = with(&upstreams, false).into_snapshot(&key_of("BATCHD_OPENAI_API_KEY"));
    let models = ["anything/At-All", "llama", "gpt-4o", "openai/gpt-4o", "openai/gpt-4.1", "gpt-4.1", "o4-mini"];
    insta::assert_snapshot!(models.map(|model| route(&snapshot, model)).join("\n"));
    let ids: Vec<_> = snapshot.connections().map(|connection| connection.id.as_str()).collect();
    assert_eq!(ids, ["openai", "simulated", "upstream", "upstream-2", "upstream-3"]);
    assert!(snapshot.models().all(|model| model.id != "o4-mini"), "nobody is known to have it");
    assert_ne!(snapshot.hash(), load_embedded().unwrap().hash);
    match &snapshot.connection("upstream").unwrap().kind {
        ProviderKind::OpenAi(connection) => assert_eq!(connection.base_url, "http://gpu:8000/v1"),
        ProviderKind::Simulated { .. } => panic!("simulated"),
    }
}

#[test]
fn an_upstream_with_a_missing_key_is_not_used_and_says_so() {
    let snapshot = with(&["llama=http://gpu:8000"], true).into_snapshot(&no_key);
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
    let mut report: Vec<_> = bad.iter().map(|text| format!("{text:?}: {}", text.parse::<Upstream>().unwrap_err())).collect();
    for pair in [["http://a", "http://b"], ["m=http://a", "m=http://b"]] {
        report.push(Upstreams::parse(&pair).unwrap_err().to_string());
    }
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn the_cheapest_offering_wins_and_the_first_written_among_equals() {
    let provider = |id: &str| format!("schema = 1\nid = \"{id}\"\nname = \"P\"\nkind = \"openai\"\nbase_url = \"http://{id}\"\n");
    let offering =
        |provider: &str, price: &str| format!("[[model.offering]]\nprovider = \"{provider}\"\nupstream = \"at-{provider}\"\n{price}\n");
    let price = |input: &str, output: &str| {
        format!("price = {{ input = \"{input}\", output = \"{output}\", source = \"http://p\", verified_at = 2026-01-01 }}")
    };
    let text =
        ["schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\ncreated = 2026-01-01\nendpoints = [\"/v1/responses\"]\n".to_owned()]
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
    assert_eq!(route(&seeds.clone().into_snapshot(&no_key), "m"), "c at-c as m at Some(\"2\")/Some(\"1.5\")");
    let without_c = Seeds { providers: seeds.providers.iter().filter(|p| p.id() != "c").cloned().collect(), ..seeds };
    assert_eq!(route(&without_c.into_snapshot(&no_key), "m"), "d at-d as m at Some(\"3\")/Some(\"0.5\")");
}

#[test]
fn a_reload_with_a_fault_leaves_the_last_good_snapshot() {
    let catalog = Catalog::new(load_embedded().unwrap().into_snapshot(&no_key));
    let versions = catalog.subscribe();
    let before = catalog.current();
    assert!(catalog.reload(|| seeds(&[("models/m.toml", "x = 1")]).map(|seeds| seeds.into_snapshot(&no_key))).is_err());
    assert_eq!(catalog.reload(|| Ok(load_embedded()?.into_snapshot(&no_key))), Ok(None));
    assert!(std::sync::Arc::ptr_eq(&before, &catalog.current()) && !versions.has_changed().unwrap());
    let changed = catalog.reload(|| Ok(load_embedded()?.into_snapshot(&key_of("BATCHD_OPENAI_API_KEY"))));
    assert_eq!(changed, Ok(Some(2)));
    assert!(versions.has_changed().unwrap() && before.resolve("gpt-4o").unwrap().provider == "simulated");
    assert_eq!(catalog.current().resolve("gpt-4o").unwrap().provider, "openai");
}

mod mutated {
    use super::*;
    use proptest::prelude::*;

    const PROVIDER: &str = include_str!("../../catalog-seed/providers/simulated.toml");
    const MODEL: &str = include_str!("../../catalog-seed/models/openai-media.toml");

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
