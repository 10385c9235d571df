//! Log lines on standard error: their filter and their format.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line, with fields beside timestamp, level, target and message.
    Json,
    /// Plain text, with fields as name=value behind the message.
    Text,
}

/// Returns `filter` when it is valid in the syntax of [`EnvFilter`], such as `info` or `info,dnstier_operator=debug`.
///
/// # Errors
///
/// [`ParseError`] with the directive that is invalid.
pub(crate) fn checked_filter(filter: &str) -> Result<String, ParseError> {
    parse_filter(filter).map(|_| filter.to_owned())
}

/// Starts logging to standard error.
///
/// # Errors
///
/// [`ParseError`] when `filter` is not valid in the syntax of [`EnvFilter`].
pub(crate) fn init(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt().with_env_filter(parse_filter(filter)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}

/// Parses a filter. An empty one, which an unset chart value gives, is `info`.
fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    EnvFilter::builder().parse(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_and_directives_of_modules_are_filters() {
        assert_eq!(parse_filter("debug").unwrap().to_string(), "debug");
        assert_eq!(parse_filter("").unwrap().to_string(), "info");
        assert!(checked_filter("warn,dnstier_operator::controller=trace,kube=error").is_ok());
        assert!(checked_filter("dnstier_operator=loud").is_err());
    }
}
