//! The known word that somebody probably meant.

/// The word of `known` that needs the fewest changes to become it, if those are few.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    /// So many letters tell which word is meant, though it has more.
    const PART: usize = 4;
    // A third of the letters wrong is still a slip; more is another word.
    let tolerated = (word.chars().count() / 3).max(1);
    let letters = |text: &str| text.replace('_', "").to_lowercase();
    let part = letters(word);
    // `call_id` is `max_call_id`, rather than any other word.
    let is_part = |of: &str| part.len() >= PART && letters(of).contains(&part);
    let far = |candidate: &str| match distance(word, candidate) {
        distance if distance > tolerated && is_part(candidate) => tolerated,
        distance => distance,
    };
    known
        .into_iter()
        .map(|candidate| (far(candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `: did you mean X?`, or nothing.
pub fn hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(": did you mean {near}?"))
}

/// The same for sections, `[NAME]` each. Of `listener NAME` the first word is what counts.
pub fn section_hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
    let first = |section: &'k str| section.split(' ').next().unwrap_or(section);
    let near = nearest(word, known.clone().into_iter().map(first));
    let near = near.and_then(|near| known.into_iter().find(|section| first(section) == near));
    near.map_or_else(String::new, |near| format!(": did you mean [{near}]?"))
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last = None;
    for (row, letter) in from.chars().enumerate() {
        let mut line = Vec::with_capacity(above.len());
        let mut left = row + 1;
        line.push(left);
        for (column, other) in to.iter().enumerate() {
            let replaced = above[column] + usize::from(letter != *other);
            let mut least = replaced.min(above[column + 1] + 1).min(left + 1);
            let swapped = column > 0 && last == Some(*other) && to[column - 1] == letter;
            if swapped {
                least = least.min(before[column - 1] + 1);
            }
            line.push(least);
            left = least;
        }
        before = std::mem::replace(&mut above, line);
        last = Some(letter);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["expires_min", "expires_max", "nat_refresh", "qop", "workers"];
        let cases = [
            ("expires_mn", Some("expires_min")),
            ("expire_max", Some("expires_max")),
            ("natrefresh", Some("nat_refresh")),
            ("qpo", Some("qop")),
            ("Workers", Some("workers")),
            ("min_expires", None),
            ("refresh", Some("nat_refresh")),
            ("min", None),
            ("password", None),
            ("x", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
