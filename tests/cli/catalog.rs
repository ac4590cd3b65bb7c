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

fn discover(dir: &Path, args: &[&str]) -> std::process::Output {
    run(dir, &[&["catalog", "discover", "--into", "seeds"], args].concat())
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join("seeds").join(file)).expect("the seed")
}

#[test]
fn a_second_server_with_the_same_models_becomes_a_server_of_the_first_ones_provider() {
    let (one, two, three, dir) = (FakeUpstream::healthy(), FakeUpstream::healthy(), FakeUpstream::healthy(), temp_dir());
    for server in [&one, &two, &three] {
        server.list_models(&["m", "org/n"]);
    }
    assert_eq!(discover(dir.path(), &[&one.url()]).status.code(), Some(0));
    let id = one.url().trim_start_matches("http://").replace(':', "-");
    let provider = format!("providers/{id}.toml");
    // What a person has added stays.
    let edited =
        format!("{}[limits]\nin_flight = 3   # as measured\n", read(dir.path(), &provider).replace("schema = 1", "# ours\nschema = 1"));
    fs::write(dir.path().join("seeds").join(&provider), &edited).unwrap();
    let models = read(dir.path(), &format!("models/{id}.toml"));

    let joined = discover(dir.path(), &[&two.url(), &format!("{}/", three.url())]);
    assert_eq!(joined.status.code(), Some(0), "{}", text(&joined.stderr));
    assert_eq!(text(&joined.stdout), format!("seeds/{provider}\n"), "one file is changed");
    assert!(
        text(&joined.stderr).contains(&format!("2 models of {}, which is now one of the servers of `{id}`", two.url())),
        "{}",
        text(&joined.stderr)
    );
    assert_eq!(read(dir.path(), &format!("models/{id}.toml")), models);
    let urls = format!("base_urls = [\n  \"{}\",\n  \"{}\",\n  \"{}\",\n]\n", one.url(), two.url(), three.url());
    let expected = edited.replace(&format!("base_url = \"{}\"\n", one.url()), &urls);
    assert_eq!(read(dir.path(), &provider), expected);

    let known = discover(dir.path(), &[&two.url()]);
    assert_eq!((known.status.code(), text(&known.stdout)), (Some(0), String::new()), "nothing is changed");
    two.list_models(&["m"]);
    let changed = discover(dir.path(), &[&two.url()]);
    assert_eq!(changed.status.code(), Some(1));
    assert!(text(&changed.stderr).contains("it does not list `org/n`"), "{}", text(&changed.stderr));

    let daemon = Daemon::with(&["--catalog-dir", dir.path().join("seeds").to_str().expect("a plain path")]);
    daemon.complete(super::support::rows::many(60, "m"));
    let calls = [&one, &two, &three].map(FakeUpstream::calls);
    assert!(calls.iter().all(|calls| *calls > 0) && calls.iter().sum::<u64>() == 60, "{calls:?}");
}

#[test]
fn a_server_that_has_a_part_of_the_models_offers_them_as_another_provider() {
    let (one, two, dir) = (FakeUpstream::healthy(), FakeUpstream::healthy(), temp_dir());
    one.list_models(&["m", "n"]);
    two.list_models(&["n", "o"]);
    let both = discover(dir.path(), &[&one.url(), &two.url()]);
    assert_eq!(both.status.code(), Some(0), "{}", text(&both.stderr));
    let [first, second] = [&one, &two].map(|server| server.url().trim_start_matches("http://").replace(':', "-"));
    let (models, more) = (read(dir.path(), &format!("models/{first}.toml")), read(dir.path(), &format!("models/{second}.toml")));
    assert!(
        models.contains(&format!("[[model.offering]]\nprovider = \"{first}\"\n[[model.offering]]\nprovider = \"{second}\"\n")),
        "{models}"
    );
    assert_eq!((models.matches("[[model]]").count(), more.matches("[[model]]").count()), (2, 1), "{models}{more}");
    let checked = run(dir.path(), &["catalog", "check", "seeds"]);
    assert_eq!(text(&checked.stdout), "seeds: 2 providers, 3 models, 4 offerings, no fault\n");

    // The same server again, replaced: what it offers of others' models stays as it was.
    let again = discover(dir.path(), &[&two.url(), "--force"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert_eq!(read(dir.path(), &format!("models/{first}.toml")), models);
    // A name of one's own keeps a server apart, and one that is taken is not replaced.
    let three = FakeUpstream::healthy();
    three.list_models(&["m", "n"]);
    assert_eq!(discover(dir.path(), &[&three.url(), "--id", "apart"]).status.code(), Some(0));
    assert!(read(dir.path(), "providers/apart.toml").contains(&three.url()));
    let four = FakeUpstream::healthy();
    four.list_models(&["z"]);
    let taken = discover(dir.path(), &[&four.url(), "--id", "apart"]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("providers/apart.toml exists; give --force"), "{}", text(&taken.stderr));
}
