//! Tells a person whose rows are simulated that they are, and what would make them real.

use crate::catalog::Snapshot;
use crate::daemon::config::Strings;
use crate::domain::provider::connection::KeySource;

/// The most models and variables that are named.
const NAMED: usize = 3;

/// The lines to show before the rows of these models run; none if something real is configured.
pub(super) fn notice<'a>(catalog: &Snapshot, models: impl Iterator<Item = &'a str>, env: &dyn Strings) -> Vec<String> {
    if !catalog.is_simulated() {
        return Vec::new();
    }
    let mut lines = vec![
        "SIMULATED: no provider is configured. Every answer is made up and nothing is charged: prices show what the first".to_owned(),
        "  listed provider of each model would charge. For real answers:".to_owned(),
    ];
    let (mut told, mut more) = (Vec::new(), false);
    let mut unused = Vec::new();
    for model in models {
        let Some(offering) = catalog.model(model).and_then(|known| known.offerings.first()) else { continue };
        let Some(provider) = catalog.provider(&offering.provider).filter(|provider| provider.is_real()) else { continue };
        if told.iter().any(|(id, _)| id == provider.id()) {
            continue;
        }
        if told.len() == NAMED {
            more = true;
            continue;
        }
        told.push((provider.id().to_owned(), format!("    {model} from {}: {}", provider.name, provider.remedy())));
        unused.extend(deliberately_unused(&provider.connection.key, env));
    }
    lines.extend(told.into_iter().map(|(_, line)| line));
    if more {
        lines.push("    other models: see `batchd catalog list`".to_owned());
    }
    lines.push("    a server of your own: --upstream URL".to_owned());
    lines.extend(unused);
    lines
}

/// A laptop often has a key set for another program. It is not used, and its owner is told so.
fn deliberately_unused(key: &KeySource, env: &dyn Strings) -> Option<String> {
    let KeySource::Env(ours) = key else { return None };
    let theirs = ours.strip_prefix("BATCHD_")?;
    // A value that is not Unicode is set, too.
    let is_set = !matches!(env.filled(theirs), Ok(None));
    is_set.then(|| format!("  {theirs} is set and deliberately not used; to use that key, set {ours}=\"${theirs}\""))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::daemon::config::NotUnicode;

    struct Variables(HashMap<&'static str, &'static str>);

    impl Strings for Variables {
        fn get(&self, name: &str) -> Result<Option<String>, NotUnicode> {
            Ok(self.0.get(name).map(|value| (*value).to_owned()))
        }
    }

    fn told(models: &[&str], variables: &[(&'static str, &'static str)], has_key: bool) -> String {
        let catalog = crate::catalog::load_embedded().unwrap();
        let catalog = catalog.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| has_key);
        notice(&catalog, models.iter().copied(), &Variables(variables.iter().copied().collect())).join("\n")
    }

    #[test]
    fn a_person_learns_what_would_make_it_real() {
        let all = ["gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5", "grok-4", "mistral-large-latest", "not-known"];
        let texts = [
            told(&["simulated-fast"], &[("OPENAI_API_KEY", "sk-x")], false),
            told(&["gpt-4o-mini"], &[("OPENAI_API_KEY", "sk-x"), ("ANTHROPIC_API_KEY", "sk-y")], false),
            told(&["gpt-4o-mini"], &[("OPENAI_API_KEY", "")], false),
            told(&all, &[], false),
        ];
        insta::assert_snapshot!(texts.join("\n--\n"));
        assert!(!texts.concat().contains("sk-"), "a key is never shown");
        assert_eq!(told(&all, &[("OPENAI_API_KEY", "sk-x")], true), "");
    }
}
