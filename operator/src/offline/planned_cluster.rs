//! Planned cluster: what the controller observes in a cluster that flags describe.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::DnsTier;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use node_cache_config::names::{DNS_PORT, TCP_PORT_NAME, UDP_PORT_NAME, ZONE_LABEL};

use crate::controller::observe::nodes::{ClusterNode, Labels, Nodes};
use crate::controller::observe::{ClusterDnsLookup, Observed};
use crate::controller::owned::OwnedObjects;
use crate::controller::placement::{ARCH_LABEL, OS_LABEL};
use crate::controller::rollout::store::StoredRecord;
use crate::settings::Settings;

/// Zones of a cluster of which nothing is said.
const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
/// UID of a tier that is not in a cluster yet.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// Cluster that flags describe.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlannedCluster {
    /// Zones of the cluster, as nodes name them; not given: those of spec.resolvers.zones, or zone-a, zone-b and zone-c
    #[arg(long, value_delimiter = ',')]
    pub(super) zones: Option<Vec<String>>,
    /// Nodes of each zone on which resolvers may run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    nodes_per_zone: u16,
    /// ClusterIPs of the cluster DNS Service
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10")]
    cluster_dns_ips: Vec<IpAddr>,
}

impl PlannedCluster {
    /// Returns what the controller observes before its first reconciliation of a tier.
    pub(super) fn observe(&self, tier: &DnsTier, other_tiers: &[DnsTier], settings: &Settings) -> Observed {
        Observed {
            tier: Arc::new(as_stored(tier)),
            other_tiers: other_tiers.iter().map(as_stored).collect(),
            unreadable_tiers: Vec::new(),
            nodes: self.nodes(tier, settings),
            cluster_dns: ClusterDnsLookup::Found(Box::new(self.cluster_dns(tier))),
            owned: OwnedObjects::default(),
            record: StoredRecord::default(),
            pods: Vec::new(),
            reports: Arc::default(),
            pod_creation_failure: None,
            now: Timestamp::UNIX_EPOCH,
            lists_age: Duration::MAX,
        }
    }

    /// Returns nodes that can run every pod of a tier, as far as labels decide.
    fn nodes(&self, tier: &DnsTier, settings: &Settings) -> Nodes {
        let spec = &tier.spec;
        let zones = match &self.zones {
            Some(zones) => zones.clone(),
            None if spec.resolvers.zones.is_empty() => ZONES.map(str::to_owned).to_vec(),
            None => spec.resolvers.zones.clone(),
        };
        let mut labels: Labels = spec.resolvers.pod.node_selector.clone();
        labels.extend(spec.node_cache.pod.node_selector.clone());
        labels.insert(OS_LABEL.to_owned(), "linux".to_owned());
        let architecture = settings.architectures.first().map_or("amd64", String::as_str);
        labels.entry(ARCH_LABEL.to_owned()).or_insert_with(|| architecture.to_owned());
        let node = |zone: &String, index: u16| {
            let mut labels = labels.clone();
            if !zone.is_empty() {
                labels.insert(ZONE_LABEL.to_owned(), zone.clone());
            }
            (format!("{zone}-node-{index}"), ClusterNode::from(labels))
        };
        zones.iter().flat_map(|zone| (0..self.nodes_per_zone).map(move |index| node(zone, index))).collect()
    }

    fn cluster_dns(&self, tier: &DnsTier) -> Service {
        let reference = &tier.spec.cluster_dns;
        let port = |protocol: &str, name: &str| ServicePort {
            name: Some(name.to_owned()),
            protocol: Some(protocol.to_owned()),
            port: i32::from(DNS_PORT),
            target_port: Some(IntOrString::Int(i32::from(DNS_PORT))),
            ..ServicePort::default()
        };
        let addresses: Vec<String> = self.cluster_dns_ips.iter().map(ToString::to_string).collect();
        let mut service = Service {
            spec: Some(ServiceSpec {
                cluster_ip: addresses.first().cloned(),
                cluster_ips: Some(addresses),
                selector: Some(BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())])),
                ports: Some(vec![port("UDP", UDP_PORT_NAME), port("TCP", TCP_PORT_NAME)]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        service.metadata.namespace = Some(reference.namespace.clone());
        service.metadata.name = Some(reference.name.clone());
        service
    }
}

/// Returns a tier as it is once it is stored: with a UID and a time of creation, later than that of any tier that has
/// one.
pub(super) fn as_stored(tier: &DnsTier) -> DnsTier {
    let mut tier = tier.clone();
    let meta = tier.meta_mut();
    meta.uid.get_or_insert_with(|| UID.to_owned());
    meta.creation_timestamp.get_or_insert(Time(Timestamp::MAX));
    tier
}
