//! Brings a discovered server into a folder of seeds: as a further server of a provider that has
//! the same models, or as a provider of its own that offers the models that are there already.
//!
//! Pure, as [`super::discover`] is. What people have written stays as it is, comments included:
//! files that exist are edited in place.

use std::collections::BTreeSet;

use http::Uri;
use jiff::civil::Date;
use toml_edit::{Array, ArrayOfTables, Decor, DocumentMut, Item, Key, Table, Value, value};

use super::discover::{Discovered, SeedPlace, listed_ids, write_seeds};
use super::fault::Faults;
use super::model::{Model, Provider};
use super::seeds::{Seeds, load_archive};
use super::url::parse_base_url;
use crate::catalog::archive::{Archive, MODELS, PROVIDERS, is_seed};
use crate::domain::provider::connection::{Api, KeySource, ProviderKind, ServerConnection};

/// What became of a discovered server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// It is a provider of its own, with this id. So many of its models were in the folder.
    Alone { id: String, known: usize },
    /// It is a further server of this provider.
    Joined { id: String },
    /// It was a server of this provider before.
    Known { id: String },
}

/// Why a discovered server cannot be brought into the folder.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Faults(#[from] Faults),
    #[error("{file} exists; give --force to replace it")]
    Exists { file: String },
    #[error("{url} is a server of provider `{provider}` already, but {difference}; change its seeds, or take the URL out of them first")]
    Changed { url: String, provider: String, difference: String },
    #[error("{file} cannot be extended: {reason}")]
    Uneditable { file: String, reason: String },
}

/// Adds a server to `files`, the seeds of a folder. `id` is the provider's if it becomes one of its
/// own; `is_chosen` says that a person has chosen it, so that it joins no other provider. `force`
/// replaces the files of that provider.
///
/// # Errors
/// When the seeds have faults, or a file is in the way or cannot be edited.
pub fn merge_server(
    files: &mut Archive,
    (id, is_chosen): (&str, bool),
    place: SeedPlace<'_>,
    models: &[Discovered],
    today: Date,
    force: bool,
) -> Result<Merged, MergeError> {
    let own = [format!("{PROVIDERS}/{id}.toml"), format!("{MODELS}/{id}.toml")];
    if force && files.0.iter().any(|(name, _)| own.contains(name)) {
        return alone(files, id, place, models, today);
    }
    let seeds = seeds(files)?;
    let server = Server { url: parse_base_url(place.base_url).ok(), place, models: listed_ids(models) };
    if let Some(provider) = seeds.providers.iter().find(|provider| server.is_of(provider)) {
        let (id, url) = (provider.id().to_owned(), place.base_url.to_owned());
        return match server.difference(provider, &seeds.models) {
            None => Ok(Merged::Known { id }),
            Some(difference) => Err(MergeError::Changed { url, provider: id, difference }),
        };
    }
    let may_join = |provider: &&Provider| !is_chosen || provider.id() == id;
    let alike = seeds.providers.iter().filter(may_join).find(|provider| server.difference(provider, &seeds.models).is_none());
    if let Some(provider) = alike {
        join(files, provider.id(), place.base_url)?;
        return Ok(Merged::Joined { id: provider.id().to_owned() });
    }
    match own.into_iter().find(|own| files.0.iter().any(|(name, _)| name == own)) {
        Some(file) => Err(MergeError::Exists { file }),
        None => alone(files, id, place, models, today),
    }
}

/// The checked seeds; none of an empty folder, which is no catalog.
fn seeds(files: &Archive) -> Result<Seeds, Faults> {
    let kept: Vec<_> = files.0.iter().filter(|(name, _)| is_seed(name)).cloned().collect();
    if kept.is_empty() {
        return Ok(Seeds { providers: Vec::new(), models: Vec::new(), workflows: Vec::new(), hash: String::new() });
    }
    load_archive(Archive(kept))
}

/// What is known of the server.
struct Server<'a> {
    url: Option<Uri>,
    place: SeedPlace<'a>,
    /// Its names for its models.
    models: BTreeSet<&'a str>,
}

impl Server<'_> {
    /// Whether the provider has the server.
    fn is_of(&self, provider: &Provider) -> bool {
        let ProviderKind::Server(connection) = &provider.connection.kind else { return false };
        let mut urls = std::iter::once(&connection.base_url).chain(&provider.connection.replicas);
        provider.base_url_env.is_none() && urls.any(|url| Some(url) == self.url.as_ref())
    }

    /// What keeps the server from being one of the provider's, if anything does.
    fn difference(&self, provider: &Provider, models: &[Model]) -> Option<String> {
        let connection = match &provider.connection.kind {
            ProviderKind::Server(connection) if connection.api == Api::OpenAi && provider.base_url_env.is_none() => connection,
            ProviderKind::Server(_) | ProviderKind::Simulated { .. } => {
                return Some("that is no server of a fixed URL with OpenAI's API".to_owned());
            }
        };
        if !self.is_reached_as(connection, &provider.connection.key) {
            return Some("its key, scheme or `api_path` is another".to_owned());
        }
        let offerings = models.iter().flat_map(|model| &model.offerings).filter(|offering| offering.provider == provider.id());
        let offered: BTreeSet<_> = offerings.map(|offering| offering.upstream.as_str()).collect();
        let names = |names: Vec<&&str>| names.into_iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let (new, gone) = (self.models.difference(&offered).collect::<Vec<_>>(), offered.difference(&self.models).collect::<Vec<_>>());
        match (new.len(), gone.len()) {
            (0, 0) => None,
            (0, _) => Some(format!("it does not list {}", names(gone))),
            (_, _) => Some(format!("it lists {} besides", names(new))),
        }
    }

    fn is_reached_as(&self, connection: &ServerConnection, key: &KeySource) -> bool {
        let same_key = match (key, self.place.key_env) {
            (KeySource::None, None) => true,
            (KeySource::Env(name), Some(variable)) => name == variable,
            (KeySource::None | KeySource::Env(_) | KeySource::File(_), _) => false,
        };
        let scheme = self.url.as_ref().and_then(Uri::scheme);
        same_key && connection.base_url.scheme() == scheme && connection.api_path.as_deref() == self.place.api_path
    }
}

/// Adds a URL to a provider's.
fn join(files: &mut Archive, id: &str, url: &str) -> Result<(), MergeError> {
    let file = format!("{PROVIDERS}/{id}.toml");
    edit(files, &file, |document| {
        let table = document.as_table_mut();
        let order: Vec<_> = table.iter().map(|(key, _)| if key == ONE { SEVERAL.to_owned() } else { key.to_owned() }).collect();
        let (key, urls) = match (table.remove_entry(ONE), table.remove_entry(SEVERAL)) {
            (Some((key, Item::Value(only))), None) => (key, in_a_list(only)),
            (None, Some((key, Item::Value(Value::Array(urls))))) => (key, urls),
            _ => return Err("it has neither `base_url` nor a list of `base_urls`"),
        };
        table.insert_formatted(&Key::new(SEVERAL).with_leaf_decor(key.leaf_decor().clone()), Item::Value(Value::Array(and(urls, url))));
        let place = |key: &Key| order.iter().position(|other| other == key.get());
        table.sort_values_by(|one, _, other, _| place(one).cmp(&place(other)));
        Ok(())
    })
}

const ONE: &str = "base_url";
const SEVERAL: &str = "base_urls";

/// A list of this value alone, with a line for each that it will have.
fn in_a_list(mut only: Value) -> Array {
    let around = only.decor().clone();
    *only.decor_mut() = Decor::new("\n  ", "");
    let mut list = Array::new();
    list.push_formatted(only);
    list.set_trailing("\n");
    list.set_trailing_comma(true);
    *list.decor_mut() = around;
    list
}

/// The list with one more URL, in lines if it is in lines.
fn and(mut list: Array, url: &str) -> Array {
    // What follows the last comma, such as a comment on the URL before it.
    let after = list.trailing().as_str().unwrap_or_default().to_owned();
    let before = match after.rsplit_once('\n') {
        Some((comments, _)) => format!("{comments}\n  "),
        None => " ".to_owned(),
    };
    let mut url = Value::from(url);
    *url.decor_mut() = Decor::new(before, "");
    list.push_formatted(url);
    list.set_trailing(if after.contains('\n') { "\n" } else { "" });
    list
}

/// Makes the server a provider of its own, in place of what its files held before. Models that other
/// files have get an offering of it.
fn alone(files: &mut Archive, id: &str, place: SeedPlace<'_>, models: &[Discovered], today: Date) -> Result<Merged, MergeError> {
    let own = [format!("{PROVIDERS}/{id}.toml"), format!("{MODELS}/{id}.toml")];
    let with_own = seeds(files);
    let replaced = files.0.extract_if(.., |(name, _)| own.contains(name)).find(|(name, _)| *name == own[1]);
    // Files that are replaced may have faults.
    let there = with_own.or_else(|_| seeds(files))?;
    let replaced = replaced.and_then(|(_, text)| text.parse::<DocumentMut>().ok());
    let stays = |known: &&Model| replaced.as_ref().is_none_or(|document| place_of(document, &known.id).is_none());
    let listed = listed_ids(models);
    let (mut new, mut known, mut offered) = (Vec::new(), 0, BTreeSet::new());
    for model in models.iter().filter(|model| listed.contains(model.id.as_str())) {
        match there.models.iter().filter(stays).find(|known| is_model(known, model)) {
            None => new.push(model.clone()),
            // Two names for one model, or an offering from an earlier time.
            Some(old) if !offered.insert(&old.id) || old.offerings.iter().any(|offering| offering.provider == id) => known += 1,
            Some(old) => {
                offer(files, old, id, model)?;
                known += 1;
            }
        }
    }
    let written = write_seeds(id, place, &new, today).0.into_iter();
    files.0.extend(written.filter(|(name, _)| !new.is_empty() || *name == own[0]));
    Ok(Merged::Alone { id: id.to_owned(), known })
}

/// Whether a model of the seeds is what the server lists: by its names, or by how another server of
/// one's own calls it.
fn is_model(known: &Model, model: &Discovered) -> bool {
    let slug = super::discover::model_id(&model.id);
    let named = known.id == slug || known.aliases.contains(&slug) || known.qualified() == slug;
    named || known.offerings.iter().any(|offering| offering.upstream == model.id)
}

/// Adds an offering to a model.
fn offer(files: &mut Archive, known: &Model, provider: &str, model: &Discovered) -> Result<(), MergeError> {
    let holds = |text: &str| text.parse::<DocumentMut>().ok().is_some_and(|document| place_of(&document, &known.id).is_some());
    let file = files.0.iter().find(|(name, text)| name.starts_with(MODELS) && holds(text)).map(|(name, _)| name.clone());
    let Some(file) = file else {
        let reason = format!("`{}` is not written as `[[model]]` there", known.id);
        return Err(MergeError::Uneditable { file: MODELS.to_owned(), reason });
    };
    edit(files, &file, |document| {
        let place = place_of(document, &known.id).ok_or("the model is gone")?;
        let table = document.get_mut("model").and_then(Item::as_array_of_tables_mut).and_then(|models| models.get_mut(place));
        let offerings = table.ok_or("the model is gone")?.entry("offering").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let offerings = offerings.as_array_of_tables_mut().ok_or("an offering is not written as `[[model.offering]]`")?;
        let mut offering = Table::new();
        offering.insert("provider", value(provider));
        if model.id != known.id {
            offering.insert("upstream", value(&model.id));
        }
        if let Some(tokens) = model.context_window.filter(|tokens| Some(*tokens) != known.context_window && !model.is_trained_context) {
            offering.insert("context_window", value(i64::try_from(tokens).unwrap_or(i64::MAX)));
        }
        offering.decor_mut().set_prefix("");
        offerings.push(offering);
        Ok(())
    })
}

/// The place of a model among those of its file.
fn place_of(document: &DocumentMut, id: &str) -> Option<usize> {
    let models = document.get("model")?.as_array_of_tables()?;
    models.iter().position(|model| model.get("id").and_then(Item::as_str) == Some(id))
}

fn edit(files: &mut Archive, file: &str, change: impl FnOnce(&mut DocumentMut) -> Result<(), &'static str>) -> Result<(), MergeError> {
    let uneditable = |reason: String| MergeError::Uneditable { file: file.to_owned(), reason };
    let (_, text) = files.0.iter_mut().find(|(name, _)| name == file).ok_or_else(|| uneditable("it is not there".to_owned()))?;
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| uneditable(error.to_string()))?;
    change(&mut document).map_err(|reason| uneditable(reason.to_owned()))?;
    *text = document.to_string();
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    fn found(id: &str) -> Discovered {
        Discovered { id: id.to_owned(), owned_by: None, created: None, context_window: Some(8_192), is_trained_context: false }
    }

    fn merge(files: &mut Archive, url: &str, id: &str, models: &[Discovered]) -> Result<Merged, MergeError> {
        let place = SeedPlace { base_url: url, api_path: None, key_env: None };
        merge_server(files, (id, false), place, models, date(2026, 11, 24), false)
    }

    fn written(model: &str) -> Archive {
        let provider = "schema = 1\nid = \"a\"\nname = \"A\"\nkind = \"openai\"\nbase_url = \"http://a\" # the old one\nlocal = true\n";
        Archive(vec![("providers/a.toml".to_owned(), provider.to_owned()), ("models/a.toml".to_owned(), model.to_owned())])
    }

    const MODELS_OF_A: &str = r#"schema = 1

[[model]]   # ours
id = "llama-3"
aliases = ["llama"]
organisation = "Meta"
endpoints = ["/v1/chat/completions"]
context_window = 131072
[[model.offering]]
provider = "a"   # the fast one
[[model.offering.price]]
input = "0.1"
source = "https://a.test"
verified_at = 2026-11-24

[[model]]
id = "other"
organisation = "o"
endpoints = ["/v1/embeddings"]
"#;

    #[test]
    fn what_people_have_written_stays_when_a_server_is_added() {
        let mut files = written(MODELS_OF_A);
        let alone = merge(&mut files, "http://b", "b", &[found("llama"), found("llama-3"), found("new")]).unwrap();
        assert_eq!(alone, Merged::Alone { id: "b".to_owned(), known: 2 }, "two names of one model");
        assert_eq!(merge(&mut files, "http://c", "c", &[found("llama-3")]).unwrap(), Merged::Joined { id: "a".to_owned() });
        let shown = files.0.iter().map(|(file, text)| format!("--- {file}\n{text}"));
        insta::assert_snapshot!(shown.collect::<String>());
        load_archive(files).unwrap_or_else(|faults| panic!("{faults}"));
    }

    #[test]
    fn a_list_of_urls_is_extended_in_the_form_that_it_has() {
        for (before, after) in [
            ("base_url = 'http://a' # first", "base_urls = [\n  'http://a',\n  \"http://c\",\n] # first"),
            ("base_urls = ['http://a']", "base_urls = ['http://a', \"http://c\"]"),
            ("base_urls = [\n  'http://a', # first\n  # none\n]", "base_urls = [\n  'http://a', # first\n  # none\n  \"http://c\",\n]"),
            ("base_urls = [\n  'http://a' # first\n]", "base_urls = [\n  'http://a' # first\n, \"http://c\"]"),
        ] {
            let mut files = written(MODELS_OF_A);
            let whole = |line: &str| format!("{line}\nschema = 1\nid = 'a'\nname = 'A'\nkind = 'openai'\n");
            files.0[0].1 = whole(before);
            assert_eq!(merge(&mut files, "http://c", "c", &[found("llama-3")]).unwrap(), Merged::Joined { id: "a".to_owned() });
            assert_eq!(files.0[0].1, whole(after));
            load_archive(files).unwrap_or_else(|faults| panic!("{faults}"));
        }
    }

    #[test]
    fn what_cannot_be_edited_or_has_faults_is_refused_with_its_place() {
        let inline = "schema = 1\nmodel = [{ id = \"m\", organisation = \"o\", endpoints = [\"/v1/embeddings\"] }]\n";
        let error = |model: &str| merge(&mut written(model), "http://b", "b", &[found("m")]).unwrap_err().to_string();
        assert_eq!(error(inline), "models cannot be extended: `m` is not written as `[[model]]` there");
        assert!(error("schema = 2").contains("models/a.toml"), "{}", error("schema = 2"));
    }

    proptest! {
        #[test]
        fn any_servers_make_seeds_that_pass_the_check(lists in prop::collection::vec(prop::collection::vec("[a-c/:]{1,3}|(?s).{1,20}", 1..6), 1..5)) {
            let mut files = Archive::default();
            for (index, names) in lists.iter().enumerate() {
                let models: Vec<_> = names.iter().map(|name| found(name)).collect();
                if listed_ids(&models).is_empty() {
                    continue;
                }
                let merged = merge(&mut files, &format!("http://s{index}"), &format!("s{index}"), &models);
                prop_assert!(merged.is_ok(), "{merged:?}");
                seeds(&files).unwrap_or_else(|faults| panic!("{faults}"));
                let again = merge(&mut files, &format!("http://s{index}"), "x", &models);
                prop_assert!(matches!(again, Ok(Merged::Known { .. })), "{again:?}");
            }
        }
    }
}
