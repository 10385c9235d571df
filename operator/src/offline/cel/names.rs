//! Formats of names in Kubernetes, as the library `format` of the API server checks them.

/// Format of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameFormat {
    /// Label of a domain name (RFC 1123).
    Dns1123Label,
    /// Domain name (RFC 1123).
    Dns1123Subdomain,
    /// Key of a label or an annotation: a name, with or without a domain name and a slash before it.
    QualifiedName,
    /// Value of a label.
    LabelValue,
}

impl NameFormat {
    /// Returns the format of this name in the library; `None` for one that is not used.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "dns1123Label" => Some(Self::Dns1123Label),
            "dns1123Subdomain" => Some(Self::Dns1123Subdomain),
            "qualifiedName" => Some(Self::QualifiedName),
            "labelValue" => Some(Self::LabelValue),
            _ => None,
        }
    }

    /// Returns whether a text has the format.
    pub(super) fn matches(self, text: &str) -> bool {
        match self {
            Self::Dns1123Label => is_dns_label(text) && text.len() <= 63,
            Self::Dns1123Subdomain => is_subdomain(text),
            Self::QualifiedName => match text.split_once('/') {
                Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
                None => is_name(text),
            },
            Self::LabelValue => text.is_empty() || is_name(text),
        }
    }
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Returns whether a text consists of lower-case letters, digits and hyphens, with a letter or digit at both ends.
fn is_dns_label(text: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_end)
        && bytes.last().is_some_and(is_end)
        && bytes.iter().all(|byte| is_end(byte) || *byte == b'-')
}

/// Returns whether a text has at most 63 letters, digits, hyphens, underscores and dots, with a letter or digit at both
/// ends.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_the_api_server_judges_them() {
        for (format, good, bad) in [
            (NameFormat::Dns1123Label, vec!["a", "a-1"], vec!["", "-a", "a-", "A", "a.b", "a_b"]),
            (NameFormat::Dns1123Subdomain, vec!["a", "a.b-c.1"], vec!["", "a.", ".a", "a..b", "A.b"]),
            (NameFormat::QualifiedName, vec!["a", "A_b.c", "example.com/Name"], vec!["", "/a", "a/", "a/b/c", "A/b"]),
            (NameFormat::LabelValue, vec!["", "a", "Zone_3.x"], vec!["-a", "a b", "a."]),
        ] {
            for text in good {
                assert!(format.matches(text), "{format:?} {text:?}");
            }
            for text in bad {
                assert!(!format.matches(text), "{format:?} {text:?}");
            }
        }
        assert!(!NameFormat::LabelValue.matches(&"a".repeat(64)));
        assert!(!NameFormat::Dns1123Label.matches(&"a".repeat(64)));
    }
}
