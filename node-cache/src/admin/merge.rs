//! Merges the metrics of the processes of a pod into one text, with each metric family described once and its samples
//! together, as the format demands.
//!
//! A cache may have been taken over, so its text is judged line by line: only families that a cache has are taken from
//! it, and only samples that can be parsed and carry its own name. A forged or broken line neither reaches a family of
//! another process nor spoils the page.

use std::collections::{BTreeMap, BTreeSet};

/// Beginning of the names of the families that only caches have.
const CACHE_PREFIX: &str = "dnstier_cache_";
/// Families that every process has.
const COMMON_FAMILIES: [&str; 6] = [
    "dnstier_build_info",
    "process_cpu_seconds",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
];
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

/// Merges the texts of processes, each with the name of its process. Families are sorted by name, and descriptors come
/// from the first text that has them. Samples belong to the family of the descriptor above them; all other lines are
/// left out. The result has no `# EOF`.
#[must_use]
pub(crate) fn merge<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for (process, text) in texts {
        let mut current = None;
        for line in text.split('\n').filter(|line| !line.contains(char::is_control)) {
            if let Some(descriptor) = Descriptor::parse(line) {
                current = Some(descriptor.family);
                families.entry(descriptor.family).or_default().descriptors.entry(descriptor.kind).or_insert(line);
            } else if let Some(sample) = Sample::parse(line)
                && let Some(name) = current.filter(|family| sample.belongs_to(family, process))
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

/// Line that describes a family that a cache has.
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
        let is_of_cache = family.starts_with(CACHE_PREFIX) || COMMON_FAMILIES.contains(&family);
        (is_of_cache && is_name(family) && is_valid_text).then_some(Self { family, kind })
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

    /// Returns whether the sample is one of this family, from this process.
    fn belongs_to(&self, family: &str, process: &str) -> bool {
        self.name.strip_prefix(family).is_some_and(|suffix| SUFFIXES.contains(&suffix))
            && self.labels.contains(&("process", process))
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
    use node_cache_config::metrics_page::{BuildInfo, ProcessUsage, process_text};

    use super::*;

    #[test]
    fn each_family_is_described_once_and_holds_the_samples_of_all() {
        let text = |process: &str| {
            format!(
                "# HELP dnstier_cache_q Questions.\n# TYPE dnstier_cache_q counter\n\
                 dnstier_cache_q_total{{process=\"{process}\"}} 1\n\
                 # HELP dnstier_cache_h Hits.\n# TYPE dnstier_cache_h counter\n\
                 dnstier_cache_h_total{{process=\"{process}\"}} 2\n# EOF\n"
            )
        };
        let (first, second) = (text("cache-0"), text("cache-1"));
        let merged =
            merge([("cache-0", first.as_str()), ("cache-2", ""), ("cache-1", &second), ("cache-3", "nonsense")]);
        let expected = "# HELP dnstier_cache_h Hits.\n# TYPE dnstier_cache_h counter\n\
            dnstier_cache_h_total{process=\"cache-0\"} 2\ndnstier_cache_h_total{process=\"cache-1\"} 2\n\
            # HELP dnstier_cache_q Questions.\n# TYPE dnstier_cache_q counter\n\
            dnstier_cache_q_total{process=\"cache-0\"} 1\ndnstier_cache_q_total{process=\"cache-1\"} 1\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_truncated_text_leaves_the_others_whole() {
        let whole = "# TYPE dnstier_cache_b gauge\ndnstier_cache_b{process=\"cache-1\"} 1\n";
        assert_eq!(merge([("cache-0", "# TYPE dnstier_cache_a gau"), ("cache-1", whole)]), whole);
    }

    #[test]
    fn what_a_cache_forges_reaches_no_other_family_and_no_other_process() {
        let good = "dnstier_cache_q_total{process=\"cache-0\",transport=\"udp\"} 1";
        for forged in [
            "# TYPE dnstier_agent_captured gauge\ndnstier_agent_captured{process=\"cache-0\",forged=\"yes\"} 1",
            "# TYPE process_virtual_memory_bytes gauge\nprocess_virtual_memory_bytes{process=\"cache-0\"} 9 9",
            "# TYPE process_open_fds gauge\nprocess_open_fds{process=\"agent\"} 9",
            "# TYPE dnstier_build gauge\ndnstier_build_info{process=\"cache-0\"} 9",
            "dnstier_agent_captured{process=\"cache-0\"} 1",
            "dnstier_cache_q_total{process=\"cache-1\",transport=\"udp\"} 9",
            "dnstier_cache_q_total{transport=\"udp\"} 9",
            "dnstier_cache_q_total 9",
            "dnstier_cache_q_total{process=\"cache-0\",process=\"cache-1\"} 9",
            "dnstier_cache_q_total{process=\"cache-0\",transport=\"udp\"} 9",
            "dnstier_cache_q_total{transport=\"udp\",process=\"cache-0\"} 9",
            "dnstier_cache_q_total{process=\"cache-0\",a=\"b\"c\"} 9",
            "dnstier_cache_q_total{process=\"cache-0\",a=\"\\x\"} 9",
            "dnstier_cache_q_total{process=\"cache-0\",a=\"b} 9",
            "dnstier_cache_q_total{process=\"cache-0\"} nine",
            "dnstier_cache_q_total{process=\"cache-0\"} 9 9",
            "dnstier_cache_q_total{process=\"cache-0\"} 9 # {trace=\"1\"} 1",
            "dnstier_cache_q_total{process=\"cache-0\"}9",
            "dnstier_cache_q_total{process=\"cache-0\",a=\"\u{1b}[2J\"} 9",
            "dnstier_cache_q_total{process=\"cache-0\",a=\"\r\"} 9",
            "dnstier_cache_quite_other_total{process=\"cache-0\"} 9",
            "# EOF",
            "# TYPE dnstier_cache_q gauge",
            "# TYPE dnstier_cache_r nonsense\ndnstier_cache_r{process=\"cache-0\"} 9 9",
            "# HELP dnstier_cache_",
            "{process=\"cache-0\"} 9",
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
            dnstier_cache_hit_seconds_sum{process=\"cache-0\"} 0.25\n\
            dnstier_cache_hit_seconds_count{process=\"cache-0\"} 2\n\
            dnstier_cache_hit_seconds_bucket{le=\"1e-05\",process=\"cache-0\"} 2\n\
            dnstier_cache_hit_seconds_bucket{le=\"+Inf\",process=\"cache-0\"} 2\n\
            # TYPE dnstier_cache_up gauge\n\
            dnstier_cache_up{process=\"cache-0\",scope=\"a \\\"b\\\\\",upstream=\"[fd00::1]:53\"} NaN\n";
        assert_eq!(merge([("cache-0", text)]), text);
        let usage = ProcessUsage { start_time: Some(1.5), cpu_seconds: Some(2.0), ..ProcessUsage::read() };
        let common = |process: &str| process_text(Some(process), BuildInfo::CURRENT, &usage);
        let (agent, cache) = (common("agent"), common("cache-0"));
        let merged = merge([("agent", agent.as_str()), ("cache-0", &cache)]);
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&merged), samples(&agent) + samples(&cache), "{merged}");
        assert_eq!(merged.lines().count() - samples(&merged), agent.lines().count() - samples(&agent), "{merged}");
    }
}
