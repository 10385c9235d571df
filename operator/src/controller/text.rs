//! Texts of bounded length for condition messages, from lists and from the status that pods report.

/// Maximum number of items of a list that a text names.
const MAX_LISTED: usize = 3;
/// Maximum length of a text from a pod, in characters.
const MAX_TEXT_CHARS: usize = 300;
/// Maximum length of a list from a pod, in characters.
const MAX_LIST_CHARS: usize = 1_000;

/// Joins items: `a`, `a, b and c`, `a, b, c and 5 more`.
pub(crate) fn join_some(items: &[String]) -> String {
    join_at_most(MAX_LISTED, items)
}

/// Joins items as [`join_some`] does, with at most `max` of them.
pub(crate) fn join_at_most(max: usize, items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] if items.len() <= max => format!("{} and {last}", most.join(", ")),
        _ => format!("{} and {} more", items[..max].join(", "), items.len() - max),
    }
}

/// Cleans a text from a pod: one line, no final period, bounded length.
pub(crate) fn sanitize(text: &str) -> String {
    sanitize_to(text, MAX_TEXT_CHARS)
}

/// Cleans a text from a pod that lists things, as [`sanitize`] does, with more room.
pub(crate) fn sanitize_list(text: &str) -> String {
    sanitize_to(text, MAX_LIST_CHARS)
}

fn sanitize_to(text: &str, max_chars: usize) -> String {
    let bounded: String = text.trim().trim_end_matches('.').chars().take(max_chars).collect();
    bounded.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Formats a number and its noun: `1 node`, `2 nodes`.
pub(crate) fn plural(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns the text for a zone, also for the zone without a name.
pub(crate) fn zone_text(zone: &str) -> String {
    if zone.is_empty() { "the nodes without a zone".to_owned() } else { zone.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_shortened_to_its_first_entries() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(join_some(&names[..1]), "a");
        assert_eq!(join_some(&names[..2]), "a and b");
        assert_eq!(join_some(&names[..3]), "a, b and c");
        assert_eq!(join_some(&names), "a, b, c and 2 more");
        assert_eq!(join_at_most(2, &names), "a, b and 3 more");
    }

    #[test]
    fn a_text_from_a_pod_cannot_fill_a_status() {
        assert_eq!(sanitize("one\ntwo."), "one two");
        assert_eq!(sanitize(&"ü".repeat(10_000)).chars().count(), MAX_TEXT_CHARS);
        assert_eq!(sanitize_list(&"ü".repeat(10_000)).chars().count(), MAX_LIST_CHARS);
    }
}
