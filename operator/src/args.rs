//! Command line of the operator, and the start of its parts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Readiness};
use crate::client;
use crate::leader::{Elector, Fence, Leadership, Timing, new_identity};
use crate::liveness::Liveness;
use crate::logging::{self, LogFormat};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::watch::reconcile_on_changes;

/// Turns DnsTier objects into DNS tiers.
#[derive(Clone, Debug, Parser)]
#[command(name = "dnstier-operator", version)]
pub struct Args {
    /// Namespace of the operator and of the zones' resolvers
    #[arg(long, env = "POD_NAMESPACE", default_value = "dnstier-system")]
    namespace: String,
    /// Name of this pod, for the Lease
    #[arg(long, env = "POD_NAME", default_value = "dnstier-operator")]
    pod_name: String,
    /// Namespace of the node pods; it has to permit the Pod Security level privileged
    #[arg(long, env = "DNSTIER_NODE_NAMESPACE", default_value = "dnstier-node")]
    node_namespace: String,
    /// Namespaces of cluster DNS Services, in which the operator may create shadow Services
    #[arg(long, env = "DNSTIER_CLUSTER_DNS_NAMESPACES", value_delimiter = ',', default_value = "kube-system")]
    cluster_dns_namespaces: Vec<String>,
    /// Image of the data plane for tiers that name none
    #[arg(long, env = "DNSTIER_NODE_CACHE_IMAGE")]
    node_cache_image: String,
    /// Architectures of the data plane's image, such as amd64,arm64; empty: every one
    #[arg(long, env = "DNSTIER_ARCHITECTURES", value_delimiter = ',', default_value = "amd64")]
    architectures: Vec<String>,
    /// imagePullPolicy of the data plane
    #[arg(long, env = "DNSTIER_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Pull Secrets of the data plane's image, in the namespaces of the resolvers and of the node pods
    #[arg(long, env = "DNSTIER_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    image_pull_secrets: Vec<String>,
    /// How long a zone without nodes keeps its resolvers, e.g. 30s, 10m, 1h
    #[arg(long, env = "DNSTIER_ZONE_PRUNE_DELAY", default_value = "10m", value_parser = duration)]
    zone_prune_delay: Duration,
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
    /// Runs the operator until SIGTERM or SIGINT.
    ///
    /// # Errors
    ///
    /// When the metrics port is in use, or when there is no configuration for a connection to the API server.
    pub fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(self.run_until_signal())
    }

    async fn run_until_signal(self) -> anyhow::Result<()> {
        let Self {
            namespace,
            pod_name,
            node_namespace,
            cluster_dns_namespaces,
            node_cache_image,
            architectures,
            image_pull_policy,
            image_pull_secrets,
            zone_prune_delay,
            poll_interval,
            metrics_port,
            log,
            log_format,
        } = self;
        logging::init(&log, log_format)?;
        let settings = Settings {
            identity: new_identity(&pod_name),
            namespace,
            node_namespace,
            cluster_dns_namespaces: non_empty_names(cluster_dns_namespaces),
            image: node_cache_image,
            architectures: non_empty_names(architectures),
            image_pull_policy,
            image_pull_secrets: non_empty_names(image_pull_secrets),
            zone_prune_delay,
            poll_interval,
        };
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

fn duration(text: &str) -> Result<Duration, dnstier_crds::v1alpha1::InvalidDuration> {
    text.parse().map(|duration: dnstier_crds::v1alpha1::Duration| Duration::from_secs(duration.seconds().into()))
}

fn poll_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_secs(1) { Err("it has to be 1s or more".to_owned()) } else { Ok(interval) }
}

/// Trims names and drops empty ones, which an environment variable that is set and empty gives.
fn non_empty_names(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_and_durations_are_read() {
        let args = Args::try_parse_from([
            "dnstier-operator",
            "--node-cache-image=registry.example/node-cache:1",
            "--image-pull-secrets=one, two,",
            "--architectures=amd64, arm64",
            "--zone-prune-delay=90s",
        ])
        .unwrap();
        assert_eq!(non_empty_names(args.image_pull_secrets), ["one", "two"]);
        assert_eq!(args.zone_prune_delay, Duration::from_secs(90));
        assert_eq!(args.cluster_dns_namespaces, ["kube-system"]);
        assert_eq!(non_empty_names(args.architectures), ["amd64", "arm64"]);
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
