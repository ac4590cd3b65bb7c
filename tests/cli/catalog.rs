//! `batchd catalog`: the text that people read, and the codes that scripts decide on.

use std::fs;
use std::path::Path;

use super::support::daemon::{Daemon, temp_dir};
use super::support::upstream::FakeUpstream;
use super::{run, text};

const PROVIDER: &str = r#"schema = 1
id = "acme"
name = "Acme"
kind = "openai"
base_url = "http://acme.test"
api_key_env = "BATCHD_ACME_API_KEY"
regions = ["eu"]
[privacy]
retention_days = 30
data_collection = "deny"
training_use = false
"#;

const MODEL: &str = r#"schema = 1
[[model]]
id = "text-large"
aliases = ["large"]
name = "Acme Text Large"
family = "text"
organisation = "Acme"
released = 2026-03-01
endpoints = ["/v1/responses"]
input = ["text"]
output = ["text"]
context_window = 32768
source = "https://acme.test/models"
verified_at = 2026-06-01
[[model.offering]]
provider = "acme"
verification = "verified"
[[model.offering.price]]
input = "0.25"
output = "1"
note = "Above 10,000 tokens twice as much."
source = "https://acme.test/prices"
verified_at = 2026-06-20
[[model.offering.price]]
plan = "batch"
input = "0.125"
output = "0.5"
until = 2999-01-01
source = "https://acme.test/prices"
verified_at = 2026-06-20
"#;

fn seeds(dir: &Path, model: &str) {
    for (file, content) in [("providers/acme.toml", PROVIDER), ("models/acme.toml", model)] {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(path, content).expect("the seed can be written");
    }
}

#[test]
fn every_fault_is_told_with_its_place_and_the_exit_code_says_so() {
    let dir = temp_dir();
    seeds(&dir.path().join("good"), MODEL);
    seeds(&dir.path().join("bad"), &MODEL.replace("0.125", "-1").replace("aliases", "alaises").replace("\"acme\"", "\"acne\""));
    let good = run(dir.path(), &["catalog", "check", "good"]);
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), "good: 1 providers, 1 models, 1 offerings, no fault\n".into()));
    let bad = run(dir.path(), &["catalog", "check", "bad"]);
    assert_eq!((bad.status.code(), text(&bad.stdout)), (Some(1), String::new()));
    insta::assert_snapshot!(text(&bad.stderr));
    assert_eq!(run(dir.path(), &["catalog", "check", "nowhere"]).status.code(), Some(1));
    assert_eq!(run(dir.path(), &["catalog", "check"]).status.code(), Some(0), "the built-in seeds");
}

#[test]
fn a_model_is_shown_with_its_sources_and_with_what_is_not_established() {
    let dir = temp_dir();
    seeds(&dir.path().join("seeds"), MODEL);
    let shown = run(dir.path(), &["catalog", "show", "acme/text-large", "--catalog-dir", "seeds"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    insta::assert_snapshot!(text(&shown.stdout));
    let unknown = run(dir.path(), &["catalog", "show", "text-lage", "--catalog-dir", "seeds"]);
    assert_eq!(unknown.status.code(), Some(1));
    insta::assert_snapshot!(text(&unknown.stderr));
}

#[test]
fn the_list_tells_who_can_be_called() {
    let dir = temp_dir();
    seeds(&dir.path().join("seeds"), MODEL);
    let list = run(dir.path(), &["catalog", "list", "--catalog-dir", "seeds"]);
    insta::assert_snapshot!(text(&list.stdout));
    assert_eq!(text(&run(dir.path(), &["catalog", "list", "--catalog-dir", "seeds", "--usable"]).stdout).lines().count(), 1, "the head");
    let mut with_key = super::command(dir.path(), &["catalog", "list", "--catalog-dir", "seeds", "--usable", "--json"]);
    with_key.env("BATCHD_ACME_API_KEY", "sk-key");
    insta::assert_snapshot!(text(&super::finish(with_key, None).stdout));
    assert_eq!(run(dir.path(), &["catalog", "list", "--provider", "nobody"]).status.code(), Some(2));
}

#[test]
fn two_catalogs_are_compared_as_a_reload_would() {
    let dir = temp_dir();
    seeds(&dir.path().join("old"), MODEL);
    seeds(&dir.path().join("new"), &MODEL.replace("\"0.25\"", "\"0.30\"").replace("32768", "65536"));
    let same = run(dir.path(), &["catalog", "diff", "old", "old"]);
    assert_eq!((same.status.code(), text(&same.stdout)), (Some(0), "no difference\n".into()));
    let changed = run(dir.path(), &["catalog", "diff", "old", "new"]);
    assert_eq!(changed.status.code(), Some(1));
    insta::assert_snapshot!(text(&changed.stdout));
}

#[test]
fn what_is_exported_can_be_served_and_is_not_overwritten() {
    let dir = temp_dir();
    let export = run(dir.path(), &["catalog", "export", "copy"]);
    assert_eq!(export.status.code(), Some(0), "{}", text(&export.stderr));
    assert_eq!(run(dir.path(), &["catalog", "check", "copy"]).status.code(), Some(0));
    assert_eq!(run(dir.path(), &["catalog", "diff", "embedded", "copy"]).status.code(), Some(0));
    assert!(dir.path().join("copy/provider.schema.json").exists());
    let again = run(dir.path(), &["catalog", "export", "copy"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("give --force"), "{}", text(&again.stderr));
    assert_eq!(run(dir.path(), &["catalog", "export", "copy", "--force"]).status.code(), Some(0));
    let schema = run(dir.path(), &["catalog", "schema", "model"]);
    assert_eq!(text(&schema.stdout), fs::read_to_string(dir.path().join("copy/model.schema.json")).expect("the schema"));
}

/// An air-gapped team has a server and no seeds.
#[test]
fn a_server_is_asked_for_its_models_and_the_seeds_work() {
    let (server, dir) = (Daemon::start(), temp_dir());
    let url = format!("http://{}", server.addr());
    let found = run(dir.path(), &["catalog", "discover", &url, "--id", "box", "--into", "seeds"]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    assert_eq!(text(&found.stdout), "seeds/providers/box.toml\nseeds/models/box.toml\n");
    let daemon = Daemon::with(&["--catalog-dir", dir.path().join("seeds").to_str().expect("a plain path")]);
    let row = "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"simulated-instant\"}}\n";
    let batch = daemon.complete(row);
    // The answer came from the other daemon's API, which does not run such an operation by itself.
    assert_eq!(batch["request_counts"]["total"], 1);

    let nobody = run(dir.path(), &["catalog", "discover", "http://127.0.0.1:1", "--into", "none"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("could not connect"), "{}", text(&nobody.stderr));
    let no_list = run(dir.path(), &["catalog", "discover", &format!("{url}/v1/batches"), "--into", "none"]);
    assert_eq!(no_list.status.code(), Some(1), "{}", text(&no_list.stderr));
    let no_url = run(dir.path(), &["catalog", "discover", "gpu:8000"]);
    assert_eq!(no_url.status.code(), Some(1), "{}", text(&no_url.stderr));
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_server_whose_api_is_at_its_root_is_found_there() {
    let (upstream, dir) = (FakeUpstream::healthy(), temp_dir());
    upstream.move_to_root();
    upstream.list_models(&["m"]);
    let found = run(dir.path(), &["catalog", "discover", &upstream.url(), "--id", "box", "--into", "seeds"]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let daemon = Daemon::with(&["--catalog-dir", dir.path().join("seeds").to_str().expect("a plain path")]);
    let batch = daemon.complete(super::support::rows::many(1, "m"));
    assert_eq!(batch["request_counts"]["completed"], 1, "{batch}");
    assert_eq!(upstream.kept()[0].path, "/chat/completions");
}
