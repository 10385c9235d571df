//! Text formats of a metrics page: OpenMetrics 1.0.0, in which pages are made, and the older text format of Prometheus
//! (0.0.4), which every scraper reads. The header `Accept` of a request chooses (RFC 9110 §12.5.1).

use std::collections::BTreeMap;

/// Text format of a metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
    /// Text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl TextFormat {
    /// Returns the format for a request with these values of `Accept`, in their order. OpenMetrics is for requests that
    /// name it and prefer no other format; a request that names nothing that can be read gets [`Self::Prometheus`].
    #[must_use]
    pub fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut open_metrics: Option<u16> = None;
        // The most specific range that matches counts, whatever its quality.
        let mut prometheus: Option<(u8, u16)> = None;
        let ranges = accept.into_iter().flat_map(|value| value.split(','));
        for range in ranges.filter_map(MediaRange::parse) {
            match (range.media_type.as_str(), range.version.as_deref()) {
                ("application/openmetrics-text", None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(Some(range.quality));
                }
                ("text/plain", None | Some("0.0.4")) => prometheus = prometheus.max(Some((2, range.quality))),
                ("text/*", None) => prometheus = prometheus.max(Some((1, range.quality))),
                ("*/*", None) => prometheus = prometheus.max(Some((0, range.quality))),
                _ => {}
            }
        }
        let prometheus = prometheus.map_or(0, |(_, quality)| quality);
        match open_metrics {
            Some(quality) if quality > 0 && quality >= prometheus => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Returns the media type, for `Content-Type`.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts a page in OpenMetrics to this format.
    #[must_use]
    pub fn convert(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => to_prometheus(&open_metrics),
        }
    }
}

/// Media range of `Accept`.
struct MediaRange {
    /// Type and subtype in lower case.
    media_type: String,
    version: Option<String>,
    /// Quality in thousandths.
    quality: u16,
}

impl MediaRange {
    /// Parses a range; `None` when it is not valid.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let (kind, subtype) = media_type.split_once('/')?;
        if kind.is_empty() || subtype.is_empty() {
            return None;
        }
        let mut range = Self { media_type, version: None, quality: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => range.quality = quality(value.trim())?,
                "version" => range.version = Some(value.trim().trim_matches('"').to_owned()),
                _ => {}
            }
        }
        Some(range)
    }
}

/// Parses a quality to thousandths; `None` when it is no number from 0 to 1.
fn quality(text: &str) -> Option<u16> {
    let quality: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&quality).then_some((quality * 1000.0).round() as u16)
}

/// Lines that describe a family, in OpenMetrics.
enum Descriptor<'a> {
    Help { family: &'a str, text: &'a str },
    Type { family: &'a str, kind: &'a str },
    Unit,
    End,
}

impl<'a> Descriptor<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let comment = line.strip_prefix("# ")?;
        match comment.split_once(' ') {
            Some(("HELP", rest)) => rest.split_once(' ').map(|(family, text)| Self::Help { family, text }),
            Some(("TYPE", rest)) => rest.split_once(' ').map(|(family, kind)| Self::Type { family, kind }),
            Some(("UNIT", _)) => Some(Self::Unit),
            _ => (comment == "EOF").then_some(Self::End),
        }
    }
}

/// Converts a page. There, the family of a counter bears the name of its samples, and no family has a unit.
fn to_prometheus(open_metrics: &str) -> String {
    let kinds: BTreeMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| match Descriptor::parse(line)? {
            Descriptor::Type { family, kind } => Some((family, kind)),
            _ => None,
        })
        .collect();
    let name_of = |family: &str| match kinds.get(family) {
        Some(&"counter") => format!("{family}_total"),
        Some(&"info") => format!("{family}_info"),
        _ => family.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        match Descriptor::parse(line) {
            Some(Descriptor::Unit | Descriptor::End) => continue,
            Some(Descriptor::Help { family, text: help }) => {
                text.push_str(&format!("# HELP {} {}", name_of(family), help.replace("\\\"", "\"")));
            }
            Some(Descriptor::Type { family, kind }) => {
                let kind = match kind {
                    "counter" | "gauge" | "histogram" | "summary" => kind,
                    "info" | "stateset" => "gauge",
                    _ => "untyped",
                };
                text.push_str(&format!("# TYPE {} {kind}", name_of(family)));
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> TextFormat {
        TextFormat::negotiate([accept])
    }

    #[test]
    fn what_scrapers_send_chooses_the_format_that_they_prefer() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [
            prometheus_3,
            prometheus_2,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8",
            "text/plain;q=0.5, application/openmetrics-text;q=0.5",
            "text/html, application/openmetrics-text;q=0.1",
            "text/plain;q=0, */*, application/openmetrics-text",
        ] {
            assert_eq!(negotiated(accept), TextFormat::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn whoever_does_not_ask_for_openmetrics_gets_the_format_that_all_read() {
        assert_eq!(TextFormat::negotiate([]), TextFormat::Prometheus);
        for accept in [
            "",
            "*/*",
            "application/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.9",
            "text/*, application/openmetrics-text;q=0.9",
            "*/*;q=0.5, application/openmetrics-text;q=0.4",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=NaN",
            "application/openmetrics-text;q=-1",
            "application/openmetrics-text;q=",
            "application/openmetrics-text2",
            "openmetrics",
            "/,;,=;q;;",
            "\u{fffd}",
        ] {
            assert_eq!(negotiated(accept), TextFormat::Prometheus, "{accept}");
        }
    }

    #[test]
    fn several_lines_of_accept_are_one_list() {
        let accept = ["text/plain;q=0.2", "application/openmetrics-text;q=0.4"];
        assert_eq!(TextFormat::negotiate(accept), TextFormat::OpenMetrics);
    }

    const PAGE: &str = "# HELP a_queries Queries \\\"received\\\".\n# TYPE a_queries counter\n\
        a_queries_total{transport=\"udp\"} 1\n# HELP a_hit_seconds Time.\n# TYPE a_hit_seconds histogram\n\
        # UNIT a_hit_seconds seconds\na_hit_seconds_sum 0.5\na_hit_seconds_count 2\n\
        a_hit_seconds_bucket{le=\"+Inf\"} 2\n# TYPE a_bytes gauge\na_bytes 5\n# TYPE a_build info\n\
        a_build_info{version=\"1\"} 1\n# TYPE b unknown\nb 1\n# EOF\n";

    #[test]
    fn counters_bear_the_name_of_their_samples_in_the_older_format() {
        let expected = "# HELP a_queries_total Queries \"received\".\n# TYPE a_queries_total counter\n\
            a_queries_total{transport=\"udp\"} 1\n# HELP a_hit_seconds Time.\n# TYPE a_hit_seconds histogram\n\
            a_hit_seconds_sum 0.5\na_hit_seconds_count 2\na_hit_seconds_bucket{le=\"+Inf\"} 2\n\
            # TYPE a_bytes gauge\na_bytes 5\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
            # TYPE b untyped\nb 1\n";
        assert_eq!(TextFormat::Prometheus.convert(PAGE.to_owned()), expected);
    }

    #[test]
    fn a_page_stays_as_it_is_in_openmetrics() {
        assert_eq!(TextFormat::OpenMetrics.convert(PAGE.to_owned()), PAGE);
    }
}
