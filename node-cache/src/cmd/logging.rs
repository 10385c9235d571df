//! Log lines on standard error, as much as `DNSTIER_LOG` asks for.

use tracing::level_filters::LevelFilter;

/// Starts logging at the level that `DNSTIER_LOG` names: `error`, `warn`, `info`, `debug` or `trace`; `info` when it is
/// absent or names something else.
pub fn start() {
    let asked = std::env::var("DNSTIER_LOG").unwrap_or_default();
    let level = level(&asked);
    tracing_subscriber::fmt().with_max_level(level.unwrap_or(LevelFilter::INFO)).with_writer(std::io::stderr).init();
    if level.is_none() && !asked.is_empty() {
        tracing::warn!("DNSTIER_LOG: {asked:?} is not a level; info is used instead of error, warn, debug or trace");
    }
}

fn level(text: &str) -> Option<LevelFilter> {
    match text {
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}
