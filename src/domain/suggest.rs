//! What was probably meant by a name that nobody knows.

/// Names suggested in place of an unknown one.
const MAX_SUGGESTIONS: usize = 3;
/// From 0 (nothing in common) to 1 (the same), how near a name must be to be suggested.
const NEAR: f64 = 0.6;

/// What those candidates stand for one of whose names is nearest to `asked`, whatever the case; at most
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

/// The suggestions as a question; `None` without any.
pub fn did_you_mean(names: &[String]) -> Option<String> {
    let (last, first) = names.split_last()?;
    Some(match first {
        [] => format!("did you mean `{last}`?"),
        first => format!("did you mean `{}` or `{last}`?", first.join("`, `")),
    })
}
