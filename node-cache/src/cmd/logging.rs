//! Logging to standard error: `DNSTIER_LOG` filters, `--log-format` and `DNSTIER_LOG_FORMAT` choose text or JSON.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Filter that applies where `DNSTIER_LOG` is unset or not valid.
const DEFAULT_FILTER: &str = "info";

/// Options of a program that logs.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// Format of log lines
    #[arg(long, env = "DNSTIER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event, with its fields as `name=value`
    #[default]
    Text,
    /// One JSON object an event
    Json,
}

impl LogArgs {
    /// Starts logging. `DNSTIER_LOG` has the syntax of `tracing_subscriber::EnvFilter`: a level (`debug`), or levels by
    /// module (`info,node_cache::upstream=debug`). `info` applies where it is unset or not valid; the latter is logged.
    pub(super) fn start(self) {
        let requested = std::env::var("DNSTIER_LOG").ok().filter(|text| !text.is_empty());
        let parsed = requested.as_deref().map_or_else(|| Ok(EnvFilter::new(DEFAULT_FILTER)), EnvFilter::try_new);
        let (filter, problem) = match parsed {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
        };
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => subscriber.init(),
            LogFormat::Json => subscriber.json().flatten_event(true).init(),
        }
        if let Some(error) = problem {
            tracing::warn!(
                %error,
                "DNSTIER_LOG is not a filter such as info or info,node_cache::upstream=debug; info applies"
            );
        }
    }
}
