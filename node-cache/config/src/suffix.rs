//! Domain suffixes in the form in which the API and the configuration write them.

/// Maximum length of a name that fits the wire form of 255 octets (RFC 1035 §2.3.4), written without its final dot.
const MAX_LENGTH: usize = 253;

/// Returns whether `text` is a domain name as configurations write it: lower case, no final dot, labels of 1 to 63
/// letters, digits, `-` or `_` that neither begin nor end with `-`, 253 characters at the most.
#[must_use]
pub fn is_suffix(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_LENGTH && text.split('.').all(is_label)
}

/// Returns the labels of a suffix from left to right.
pub fn suffix_labels(suffix: &str) -> impl DoubleEndedIterator<Item = &str> {
    suffix.split('.').filter(|label| !label.is_empty())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_lower_case_and_has_no_final_dot() {
        for good in ["corp.example", "10.in-addr.arpa", "_tcp.example", "a", "xn--bcher-kva.example"] {
            assert!(is_suffix(good), "{good}");
        }
        for bad in ["", ".", "corp.example.", ".corp", "Corp.example", "a..b", "-a.b", "a-.b", "a b", "bücher.example"]
        {
            assert!(!is_suffix(bad), "{bad}");
        }
        assert!(!is_suffix(&"a".repeat(64)));
        assert!(!is_suffix(&["a"; 128].join(".")));
    }
}
