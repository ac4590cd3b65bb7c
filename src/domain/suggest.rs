//! Suggestions for an unknown name.

/// The most names suggested in place of an unknown name.
const MAX_SUGGESTIONS: usize = 3;
/// How similar a name must be to be suggested, from 0 (nothing in common) to 1 (equal).
const NEAR: f64 = 0.6;

/// The display texts of the candidates with a name similar to `asked`, ignoring case; at most
/// three, the nearest first.
pub fn nearest<'a, N: IntoIterator<Item = &'a str>>(asked: &str, candidates: impl Iterator<Item = (N, String)>) -> Vec<String> {
    let asked = asked.to_lowercase();
    let nearness = |name: &str| strsim::normalized_damerau_levenshtein(&asked, &name.to_lowercase());
    let scored = candidates.map(|(names, shown)| (names.into_iter().map(nearness).fold(0.0, f64::max), shown));
    let mut near: Vec<_> = scored.filter(|(near, _)| *near >= NEAR).collect();
    // The sort is stable: equally near names stay in the order of the seeds.
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(MAX_SUGGESTIONS).map(|(_, shown)| shown).collect()
}

/// The suggestions as a question; `None` if there are none.
pub fn did_you_mean(names: &[String]) -> Option<String> {
    let (last, first) = names.split_last()?;
    Some(match first {
        [] => format!("did you mean `{last}`?"),
        first => format!("did you mean `{}` or `{last}`?", first.join("`, `")),
    })
}
