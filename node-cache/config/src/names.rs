//! Names on which both planes agree: annotations, files of the projected volume, ports, paths.

/// Annotation of a pod: which revision applies to it.
pub const REVISION_ANNOTATION: &str = "dnstier.io/revision";
/// Annotation of a pod: the zone of the node that it runs on.
pub const ZONE_ANNOTATION: &str = "dnstier.io/zone";
/// Label that Kubernetes puts on nodes and, from 1.35 on, copies to pods.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Where the projected volume is mounted. It holds one `<revision>.json` for each revision and the files below.
pub const CONFIG_DIR: &str = "/etc/dnstier";
/// File of the projected volume with the value of [`REVISION_ANNOTATION`]; empty until the pod is annotated.
pub const REVISION_FILE: &str = "revision";
/// File of the projected volume with the value of [`ZONE_ANNOTATION`]; empty until the pod is annotated.
pub const ZONE_FILE: &str = "zone";
/// File of the projected volume with the pod's own [`ZONE_LABEL`]; empty before Kubernetes 1.35.
pub const ZONE_LABEL_FILE: &str = "zone-label";
/// Name of the revision that applies to a pod which nobody has annotated yet.
pub const STABLE_REVISION: &str = "stable";

/// The directory that the containers of one pod share: control sockets and the socket that hands over sockets.
pub const RUN_DIR: &str = "/run/dnstier";

/// Port of DNS, on the captured addresses and on the Services of the zones.
pub const DNS_PORT: u16 = 53;
/// Port that a zone resolver listens on; its Service maps [`DNS_PORT`] to it.
pub const RESOLVER_DNS_PORT: u16 = 1053;
/// Port of a zone resolver's `/metrics`, `/status` and `/probe`.
pub const RESOLVER_METRICS_PORT: u16 = 9153;
/// Name of the UDP port in every Service that carries DNS here, and so the first label of its SRV name (`_dns._udp`).
pub const UDP_PORT_NAME: &str = "dns";
/// Name of the TCP port in every Service that carries DNS here (`_dns-tcp._tcp`).
pub const TCP_PORT_NAME: &str = "dns-tcp";

/// File name of a revision inside the projected volume and key inside the ConfigMap.
#[must_use]
pub fn revision_key(revision: &str) -> String {
    format!("{revision}.json")
}
