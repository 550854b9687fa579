//! "Did you mean": the known word that a misspelt one is nearest to.

/// The candidate that the word was probably meant to be, or `None` if none is near.
///
/// Letter case and `-` for `_` are forgiven; otherwise the words must agree for the most part.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = word.to_ascii_lowercase().replace('-', "_");
    // The distance grows with the square of the length: a word longer than every setting cannot be near one.
    if plain.len() > 64 {
        return None;
    }
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score =
            strsim::jaro_winkler(&plain, candidate).max(strsim::normalized_damerau_levenshtein(&plain, candidate));
        if best.is_none_or(|(known, _)| score > known) {
            best = Some((score, candidate));
        }
    }
    best.filter(|(score, _)| *score > 0.85).map(|(_, candidate)| candidate.to_owned())
}

/// The words "did you mean X?" if there is a candidate.
pub(super) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    did_you_mean(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}
