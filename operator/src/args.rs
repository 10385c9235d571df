//! Command line of the operator, and the start of its parts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Readiness};
use crate::client;
use crate::flags::{SettingsFlags, duration};
use crate::leader::{Elector, Fence, Leadership, Timing, new_identity};
use crate::liveness::Liveness;
use crate::logging::{self, LogFormat};
use crate::metrics::Metrics;
use crate::offline::Command;
use crate::watch::reconcile_on_changes;

/// Turns DnsTier objects into DNS tiers.
#[derive(Clone, Debug, Parser)]
#[command(name = "dnstier-operator", version)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingsFlags,
    /// Name of this pod, for the Lease
    #[arg(long, env = "POD_NAME", default_value = "dnstier-operator")]
    pod_name: String,
    /// Time between two polls of the status of a zone resolver, and of each pod while they are few, 1s or more
    #[arg(long, env = "DNSTIER_POLL_INTERVAL", default_value = "5s", value_parser = poll_interval)]
    poll_interval: Duration,
    /// Port of /healthz, /readyz and /metrics
    #[arg(long, env = "DNSTIER_METRICS_PORT", default_value_t = 8080)]
    metrics_port: u16,
    /// Log filter: error, warn, info, debug or trace, also by module, e.g. info,dnstier_operator=debug
    #[arg(long, env = "DNSTIER_LOG", default_value = "info", value_parser = logging::checked_filter)]
    log: String,
    /// Format of log lines
    #[arg(long, env = "DNSTIER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

impl Args {
    /// Runs an offline command, or without one the operator until SIGTERM or SIGINT.
    ///
    /// # Errors
    ///
    /// When the metrics port is in use, or when there is no configuration for a connection to the API server.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if let Some(command) = self.command {
            let settings = self.settings.into_settings(self.pod_name, self.poll_interval);
            return Ok(runtime.block_on(command.run(&settings)));
        }
        if !self.settings.has_image() {
            let message = "the operator needs --node-cache-image or DNSTIER_NODE_CACHE_IMAGE";
            Self::command().error(ErrorKind::MissingRequiredArgument, message).exit();
        }
        runtime.block_on(self.run_until_signal())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn run_until_signal(self) -> anyhow::Result<()> {
        let Self { settings, pod_name, poll_interval, metrics_port, log, log_format, .. } = self;
        logging::init(&log, log_format)?;
        let settings = settings.into_settings(new_identity(&pod_name), poll_interval);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        }
        .boxed()
        .shared();
        let leadership = Leadership::default();
        let metrics = Arc::new(Metrics::new(leadership.clone()));
        let liveness = Arc::new(Liveness::default());
        let (readiness, readiness_receiver) = watch::channel(Readiness::NotReady("starting".to_owned()));
        let listener = listen(metrics_port).await?;
        let fence = Fence::new(leadership.clone());
        let clients =
            client::connect(&fence, metrics.requests()).await.context("cannot create a client of the API server")?;
        let elector = Elector::new(
            clients.election,
            &settings.namespace,
            &settings.identity,
            leadership.clone(),
            liveness.clone(),
            Timing::OPERATOR,
        );
        let election = tokio::spawn(elector.run(stop.clone()));
        let admin =
            tokio::spawn(admin::serve(listener, liveness.clone(), metrics.clone(), readiness_receiver, stop.clone()));
        reconcile_on_changes(clients.fenced, settings, liveness, metrics, readiness, leadership, stop).await;
        election.await.context("the leader election failed")?;
        admin.await?.context("the HTTP server of /metrics failed")
    }
}

/// Listens on all addresses: dual-stack, or IPv4 alone on a host without IPv6.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let dual_stack = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let ipv4_only = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match TcpListener::bind(dual_stack).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(ipv4_only).await.with_context(|| format!("cannot listen on port {port}")),
    }
}

fn poll_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_secs(1) { Err("it has to be 1s or more".to_owned()) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_of_the_settings_stand_before_or_behind_a_command() {
        for arguments in [["--namespace=a", "render", "x.yaml"], ["render", "x.yaml", "--namespace=a"]] {
            let args = Args::try_parse_from(["dnstier-operator"].into_iter().chain(arguments)).unwrap();
            assert!(matches!(args.command, Some(Command::Render { .. })));
            assert_eq!(args.settings.namespace, "a");
        }
    }

    #[test]
    fn the_log_filter_and_its_format_are_read() {
        let args = Args::try_parse_from([
            "dnstier-operator",
            "--node-cache-image=x",
            "--log=info,dnstier_operator=debug",
            "--log-format=json",
        ])
        .unwrap();
        assert_eq!(args.log, "info,dnstier_operator=debug");
        assert_eq!(args.log_format, LogFormat::Json);
    }

    #[test]
    fn invalid_values_are_refused() {
        for invalid in [
            "--poll-interval=0s",
            "--zone-prune-delay=1d",
            "--image-pull-policy=Sometimes",
            "--log=dnstier_operator=loud",
            "--log-format=xml",
        ] {
            let args = ["dnstier-operator", "--node-cache-image=x", invalid];
            assert!(Args::try_parse_from(args).is_err(), "{invalid}");
        }
    }
}
