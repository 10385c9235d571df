//! Merges Prometheus texts of several processes into one, with each metric family described once and its samples
//! together, as the format demands.

use std::collections::BTreeMap;

/// Prefixes of the descriptor lines of a metric family, in the order in which the lines are written.
const DESCRIPTORS: [&str; 3] = ["# HELP ", "# TYPE ", "# UNIT "];

/// Lines of one metric family.
#[derive(Default)]
struct Family<'a> {
    descriptors: Vec<&'a str>,
    samples: Vec<&'a str>,
}

/// Merges texts. Families are sorted by name, descriptors come from the first text that has them, and `# EOF` ends the
/// result. A text is used as far as it can be parsed: samples belong to the family of the descriptor above them, and
/// all other lines are left out.
#[must_use]
pub(crate) fn merge<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for text in texts {
        let mut current = None;
        for line in text.lines() {
            if let Some(name) = family_name(line) {
                current = Some(name);
                let family = families.entry(name).or_default();
                if !family.descriptors.iter().any(|known| descriptor_index(known) == descriptor_index(line)) {
                    family.descriptors.push(line);
                }
            } else if let Some(name) = current.filter(|name| line.starts_with(name)) {
                families.entry(name).or_default().samples.push(line);
            }
        }
    }
    let mut merged = String::new();
    for family in families.values().filter(|family| !family.samples.is_empty()) {
        for line in family.descriptors.iter().chain(&family.samples) {
            merged.push_str(line);
            merged.push('\n');
        }
    }
    merged.push_str("# EOF\n");
    merged
}

/// Returns the family that a descriptor line describes; `None` for other lines.
fn family_name(line: &str) -> Option<&str> {
    let rest = DESCRIPTORS.iter().find_map(|descriptor| line.strip_prefix(descriptor))?;
    rest.split(' ').next()
}

fn descriptor_index(line: &str) -> Option<usize> {
    DESCRIPTORS.iter().position(|descriptor| line.starts_with(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_described_once_and_holds_the_samples_of_all() {
        let text = |instance: &str| {
            format!(
                "# HELP q Questions.\n# TYPE q counter\nq_total{{instance=\"{instance}\"}} 1\n\
                 # HELP h Hits.\n# TYPE h counter\nh_total{{instance=\"{instance}\"}} 2\n# EOF\n"
            )
        };
        let merged = merge([text("cache-0").as_str(), "", text("cache-1").as_str(), "nonsense"]);
        let expected = "# HELP h Hits.\n# TYPE h counter\nh_total{instance=\"cache-0\"} 2\n\
            h_total{instance=\"cache-1\"} 2\n# HELP q Questions.\n# TYPE q counter\n\
            q_total{instance=\"cache-0\"} 1\nq_total{instance=\"cache-1\"} 1\n# EOF\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_truncated_text_leaves_the_others_whole() {
        assert_eq!(merge(["# TYPE a gau", "# TYPE b gauge\nb 1\n"]), "# TYPE b gauge\nb 1\n# EOF\n");
    }
}
