//! Sentences of bounded length out of lists and of what pods say.

/// How many things of a list are named.
const NAMED: usize = 3;
/// Most characters of a text that comes from a pod.
const MOST_CHARACTERS: usize = 300;

/// `a`, `a, b and c`, `a, b, c and 5 more`.
pub(super) fn some_of(things: &[String]) -> String {
    match things {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] if things.len() <= NAMED => format!("{} and {last}", most.join(", ")),
        _ => format!("{} and {} more", things[..NAMED].join(", "), things.len() - NAMED),
    }
}

/// A text that comes from a pod: on one line, without its final dot, and not too long.
pub(super) fn bounded(text: &str) -> String {
    let shown: String = text.trim().trim_end_matches('.').chars().take(MOST_CHARACTERS).collect();
    shown.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// `1 node`, `2 nodes`.
pub(super) fn many(number: u32, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_told_by_its_first_entries() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(some_of(&names[..1]), "a");
        assert_eq!(some_of(&names[..2]), "a and b");
        assert_eq!(some_of(&names[..3]), "a, b and c");
        assert_eq!(some_of(&names), "a, b, c and 2 more");
    }

    #[test]
    fn what_a_pod_says_cannot_fill_a_status() {
        assert_eq!(bounded("one\ntwo."), "one two");
        assert_eq!(bounded(&"ü".repeat(10_000)).chars().count(), MOST_CHARACTERS);
    }
}
