//! Merges Prometheus texts of the caches of a pod into one, with each metric family described once and its samples
//! together, as the format demands.
//!
//! A cache may have been taken over, so its text is judged line by line: only families of caches are taken from it, and
//! only samples that can be parsed and carry its own name. A forged or broken line neither reaches a family of another
//! process nor spoils the page.

use std::collections::{BTreeMap, BTreeSet};

/// Beginning of the names of all families that a cache has.
const CACHE_PREFIX: &str = "dnstier_cache_";
/// Prefixes of the descriptor lines of a metric family, in the order in which the lines are written.
const DESCRIPTORS: [&str; 3] = ["# HELP ", "# TYPE ", "# UNIT "];
/// Types of metric families (OpenMetrics).
const TYPES: [&str; 8] = ["counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"];
/// Ends of the names of samples after the name of their family.
const SUFFIXES: [&str; 7] = ["", "_total", "_created", "_bucket", "_count", "_sum", "_info"];

/// Lines of one metric family.
#[derive(Default)]
struct Family<'a> {
    descriptors: BTreeMap<usize, &'a str>,
    samples: Vec<&'a str>,
    /// Name and labels of each sample, sorted: none is taken twice.
    series: BTreeSet<(&'a str, Vec<(&'a str, &'a str)>)>,
}

/// Merges the texts of caches, each with the name of its cache. Families are sorted by name, and descriptors come from
/// the first text that has them. Samples belong to the family of the descriptor above them; all other lines are left
/// out. The result has no `# EOF`.
#[must_use]
pub(crate) fn merge<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for (instance, text) in texts {
        let mut current = None;
        for line in text.split('\n').filter(|line| !line.contains(char::is_control)) {
            if let Some(descriptor) = Descriptor::parse(line) {
                current = Some(descriptor.family);
                families.entry(descriptor.family).or_default().descriptors.entry(descriptor.kind).or_insert(line);
            } else if let Some(sample) = Sample::parse(line)
                && let Some(name) = current.filter(|family| sample.belongs_to(family, instance))
            {
                let family = families.entry(name).or_default();
                if family.series.insert((sample.name, sample.labels)) {
                    family.samples.push(line);
                }
            }
        }
    }
    let mut merged = String::new();
    for family in families.values().filter(|family| !family.samples.is_empty()) {
        for line in family.descriptors.values().chain(&family.samples) {
            merged.push_str(line);
            merged.push('\n');
        }
    }
    merged
}

/// Line that describes a family of caches.
struct Descriptor<'a> {
    family: &'a str,
    /// Index in [`DESCRIPTORS`].
    kind: usize,
}

impl<'a> Descriptor<'a> {
    /// Parses a line; `None` when it is no descriptor, is not valid, or is one of another process's family.
    fn parse(line: &'a str) -> Option<Self> {
        let kind = DESCRIPTORS.iter().position(|descriptor| line.starts_with(descriptor))?;
        let (family, text) = line[DESCRIPTORS[kind].len()..].split_once(' ')?;
        let is_valid_text = match kind {
            0 => true,
            1 => TYPES.contains(&text),
            _ => is_name(text),
        };
        (family.starts_with(CACHE_PREFIX) && is_name(family) && is_valid_text).then_some(Self { family, kind })
    }
}

/// Sample of a metric.
struct Sample<'a> {
    name: &'a str,
    /// Labels with their values as they are written, sorted by name.
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Sample<'a> {
    /// Parses `name{label="value",…} value`; `None` for any other line, as one with a timestamp or an exemplar.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labels) => parse_labels(labels)?,
            None => (Vec::new(), rest),
        };
        let value = value.strip_prefix(' ')?;
        let is_number = !value.starts_with(' ') && value.parse::<f64>().is_ok();
        (is_name(name) && is_number).then_some(Self { name, labels })
    }

    /// Returns whether the sample is one of this family, from this instance.
    fn belongs_to(&self, family: &str, instance: &str) -> bool {
        self.name.strip_prefix(family).is_some_and(|suffix| SUFFIXES.contains(&suffix))
            && self.labels.contains(&("instance", instance))
    }
}

/// Parses labels up to the closing brace and returns what follows it; `None` when they are not valid or one is there
/// twice.
fn parse_labels(text: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix('}').filter(|_| labels.is_empty()) {
            return Some((labels, after));
        }
        let (name, value) = rest.split_once("=\"")?;
        let end = end_of_value(value)?;
        if !is_name(name) {
            return None;
        }
        labels.push((name, &value[..end]));
        rest = &value[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            labels.sort_unstable();
            let is_unique = labels.windows(2).all(|pair| pair[0].0 != pair[1].0);
            return is_unique.then_some((labels, after));
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// Returns where the quote is that ends a label's value; `None` without one, and for an unknown escape.
fn end_of_value(text: &str) -> Option<usize> {
    let mut letters = text.bytes().enumerate();
    while let Some((index, letter)) = letters.next() {
        match letter {
            b'"' => return Some(index),
            b'\\' => {
                letters.next().filter(|(_, escaped)| matches!(escaped, b'\\' | b'"' | b'n'))?;
            }
            _ => {}
        }
    }
    None
}

/// Returns whether a text is a name of metrics or labels.
fn is_name(text: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_alphabetic() || letter == b'_';
    text.bytes().next().is_some_and(is_letter)
        && text.bytes().all(|letter| is_letter(letter) || letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_described_once_and_holds_the_samples_of_all() {
        let text = |instance: &str| {
            format!(
                "# HELP dnstier_cache_q Questions.\n# TYPE dnstier_cache_q counter\n\
                 dnstier_cache_q_total{{instance=\"{instance}\"}} 1\n\
                 # HELP dnstier_cache_h Hits.\n# TYPE dnstier_cache_h counter\n\
                 dnstier_cache_h_total{{instance=\"{instance}\"}} 2\n# EOF\n"
            )
        };
        let (first, second) = (text("cache-0"), text("cache-1"));
        let merged =
            merge([("cache-0", first.as_str()), ("cache-2", ""), ("cache-1", &second), ("cache-3", "nonsense")]);
        let expected = "# HELP dnstier_cache_h Hits.\n# TYPE dnstier_cache_h counter\n\
            dnstier_cache_h_total{instance=\"cache-0\"} 2\ndnstier_cache_h_total{instance=\"cache-1\"} 2\n\
            # HELP dnstier_cache_q Questions.\n# TYPE dnstier_cache_q counter\n\
            dnstier_cache_q_total{instance=\"cache-0\"} 1\ndnstier_cache_q_total{instance=\"cache-1\"} 1\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_truncated_text_leaves_the_others_whole() {
        let whole = "# TYPE dnstier_cache_b gauge\ndnstier_cache_b{instance=\"cache-1\"} 1\n";
        assert_eq!(merge([("cache-0", "# TYPE dnstier_cache_a gau"), ("cache-1", whole)]), whole);
    }

    #[test]
    fn what_a_cache_forges_reaches_no_other_family_and_no_other_instance() {
        let good = "dnstier_cache_q_total{instance=\"cache-0\",transport=\"udp\"} 1";
        for forged in [
            "# TYPE dnstier_agent_captured gauge\ndnstier_agent_captured{instance=\"cache-0\",forged=\"yes\"} 1",
            "dnstier_agent_captured{instance=\"cache-0\"} 1",
            "dnstier_cache_q_total{instance=\"cache-1\",transport=\"udp\"} 9",
            "dnstier_cache_q_total{transport=\"udp\"} 9",
            "dnstier_cache_q_total 9",
            "dnstier_cache_q_total{instance=\"cache-0\",instance=\"cache-1\"} 9",
            "dnstier_cache_q_total{instance=\"cache-0\",transport=\"udp\"} 9",
            "dnstier_cache_q_total{transport=\"udp\",instance=\"cache-0\"} 9",
            "dnstier_cache_q_total{instance=\"cache-0\",a=\"b\"c\"} 9",
            "dnstier_cache_q_total{instance=\"cache-0\",a=\"\\x\"} 9",
            "dnstier_cache_q_total{instance=\"cache-0\",a=\"b} 9",
            "dnstier_cache_q_total{instance=\"cache-0\"} nine",
            "dnstier_cache_q_total{instance=\"cache-0\"} 9 9",
            "dnstier_cache_q_total{instance=\"cache-0\"} 9 # {trace=\"1\"} 1",
            "dnstier_cache_q_total{instance=\"cache-0\"}9",
            "dnstier_cache_q_total{instance=\"cache-0\",a=\"\u{1b}[2J\"} 9",
            "dnstier_cache_q_total{instance=\"cache-0\",a=\"\r\"} 9",
            "dnstier_cache_quite_other_total{instance=\"cache-0\"} 9",
            "# EOF",
            "# TYPE dnstier_cache_q gauge",
            "# TYPE dnstier_cache_r nonsense\ndnstier_cache_r{instance=\"cache-0\"} 9 9",
            "# HELP dnstier_cache_",
            "{instance=\"cache-0\"} 9",
            "<html>",
        ] {
            let text = format!("# TYPE dnstier_cache_q counter\n{good}\n{forged}\n# EOF\n");
            let merged = merge([("cache-0", text.as_str())]);
            assert_eq!(merged, format!("# TYPE dnstier_cache_q counter\n{good}\n"), "{forged}");
        }
    }

    #[test]
    fn samples_as_the_caches_write_them_are_taken() {
        let text = "# HELP dnstier_cache_hit_seconds Response time; \"quoted\".\n\
            # TYPE dnstier_cache_hit_seconds histogram\n# UNIT dnstier_cache_hit_seconds seconds\n\
            dnstier_cache_hit_seconds_sum{instance=\"cache-0\"} 0.25\n\
            dnstier_cache_hit_seconds_count{instance=\"cache-0\"} 2\n\
            dnstier_cache_hit_seconds_bucket{le=\"1e-05\",instance=\"cache-0\"} 2\n\
            dnstier_cache_hit_seconds_bucket{le=\"+Inf\",instance=\"cache-0\"} 2\n\
            # TYPE dnstier_cache_up gauge\n\
            dnstier_cache_up{instance=\"cache-0\",scope=\"a \\\"b\\\\\",upstream=\"[fd00::1]:53\"} NaN\n";
        assert_eq!(merge([("cache-0", text)]), text);
    }
}
