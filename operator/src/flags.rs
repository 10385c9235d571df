//! Flags of the settings, which the operator and its offline commands share.

use std::time::Duration;

use crate::settings::Settings;

/// Image of the data plane that the chart names by default, for the offline commands. The operator is always told.
const DEFAULT_IMAGE: &str = concat!("localhost/dnstier-node-cache:", env!("CARGO_PKG_VERSION"));

/// Flags of the settings. The defaults are those of the chart.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SettingsFlags {
    /// Namespace of the operator and of the zones' resolvers
    #[arg(long, global = true, env = "POD_NAMESPACE", default_value = "dnstier-system")]
    pub(crate) namespace: String,
    /// Namespace of the node pods; it has to permit the Pod Security level privileged
    #[arg(long, global = true, env = "DNSTIER_NODE_NAMESPACE", default_value = "dnstier-node")]
    node_namespace: String,
    /// Namespaces of cluster DNS Services, in which the operator may create shadow Services
    #[arg(
        long,
        global = true,
        env = "DNSTIER_CLUSTER_DNS_NAMESPACES",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    cluster_dns_namespaces: Vec<String>,
    /// Image of the data plane for tiers that name none; the operator needs one, the other commands take the chart's
    #[arg(long, global = true, env = "DNSTIER_NODE_CACHE_IMAGE")]
    node_cache_image: Option<String>,
    /// Architectures of the data plane's image, such as amd64,arm64; empty: every one
    #[arg(long, global = true, env = "DNSTIER_ARCHITECTURES", value_delimiter = ',', default_value = "amd64")]
    architectures: Vec<String>,
    /// imagePullPolicy of the data plane
    #[arg(long, global = true, env = "DNSTIER_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Pull Secrets of the data plane's image, in the namespaces of the resolvers and of the node pods
    #[arg(long, global = true, env = "DNSTIER_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    image_pull_secrets: Vec<String>,
    /// How long a zone without nodes keeps its resolvers, e.g. 30s, 10m, 1h
    #[arg(long, global = true, env = "DNSTIER_ZONE_PRUNE_DELAY", default_value = "10m", value_parser = duration)]
    zone_prune_delay: Duration,
}

impl SettingsFlags {
    /// Returns whether the image of the data plane is named.
    pub(crate) fn has_image(&self) -> bool {
        self.node_cache_image.is_some()
    }

    /// Returns the settings.
    pub(crate) fn into_settings(self, identity: String, poll_interval: Duration) -> Settings {
        Settings {
            identity,
            namespace: self.namespace,
            node_namespace: self.node_namespace,
            cluster_dns_namespaces: non_empty_names(self.cluster_dns_namespaces),
            image: self.node_cache_image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            architectures: non_empty_names(self.architectures),
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: non_empty_names(self.image_pull_secrets),
            zone_prune_delay: self.zone_prune_delay,
            poll_interval,
        }
    }
}

/// Parses a duration, such as `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, dnstier_crds::v1alpha1::InvalidDuration> {
    text.parse().map(|duration: dnstier_crds::v1alpha1::Duration| Duration::from_secs(duration.seconds().into()))
}

/// Trims names and drops empty ones, which an environment variable that is set and empty gives.
fn non_empty_names(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::Value;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: SettingsFlags,
    }

    fn settings(arguments: &[&str]) -> Settings {
        let arguments = ["program"].iter().chain(arguments);
        Program::try_parse_from(arguments).unwrap().flags.into_settings("operator".to_owned(), Duration::from_secs(5))
    }

    #[test]
    fn lists_and_durations_are_read() {
        let settings =
            settings(&["--image-pull-secrets=one, two,", "--architectures=amd64, arm64", "--zone-prune-delay=90s"]);
        assert_eq!(settings.image_pull_secrets, ["one", "two"]);
        assert_eq!(settings.zone_prune_delay, Duration::from_secs(90));
        assert_eq!(settings.cluster_dns_namespaces, ["kube-system"]);
        assert_eq!(settings.architectures, ["amd64", "arm64"]);
    }

    #[test]
    fn flags_have_the_defaults_of_the_chart() {
        let values: Value = serde_saphyr::from_str(include_str!("../../charts/dnstier/values.yaml")).unwrap();
        let chart: Value = serde_saphyr::from_str(include_str!("../../charts/dnstier/Chart.yaml")).unwrap();
        let settings = settings(&[]);
        let image = &values["image"]["nodeCache"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!(
            settings.image,
            format!("{}/{}:{}", text(&image["registry"]), text(&image["repository"]), text(&chart["appVersion"]))
        );
        assert_eq!(settings.image_pull_policy, text(&values["image"]["pullPolicy"]));
        assert_eq!(Value::from(settings.architectures), values["image"]["architectures"]);
        assert_eq!(Value::from(settings.image_pull_secrets), values["imagePullSecrets"]);
        assert_eq!(settings.node_namespace, text(&values["nodeNamespace"]["name"]));
        assert_eq!(Value::from(settings.cluster_dns_namespaces), values["clusterDnsNamespaces"]);
        assert_eq!(settings.zone_prune_delay, duration(&text(&values["operator"]["zonePruneDelay"])).unwrap());
    }
}
