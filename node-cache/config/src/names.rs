//! Names shared by control plane and data plane: annotations, files of the projected volume, ports, paths.

use std::time::Duration;

/// Annotation of a pod with the revision that applies to it.
pub const REVISION_ANNOTATION: &str = "dnstier.io/revision";
/// Annotation of a pod with the zone of its node.
pub const ZONE_ANNOTATION: &str = "dnstier.io/zone";
/// Annotation of the pod of a zone resolver with the number of the tier's resolvers on its node, terminating ones
/// included.
pub const RESOLVERS_ON_NODE_ANNOTATION: &str = "dnstier.io/resolvers-on-node";
/// Label that Kubernetes puts on nodes and, from 1.35 on, copies to pods.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Mount path of the projected volume, which holds one `<revision>.json` for each revision and the files below.
pub const CONFIG_DIR: &str = "/etc/dnstier";
/// File of the projected volume with the value of [`REVISION_ANNOTATION`]; empty until the pod is annotated.
pub const REVISION_FILE: &str = "revision";
/// File of the projected volume with the value of [`ZONE_ANNOTATION`]; empty until the pod is annotated.
pub const ZONE_FILE: &str = "zone";
/// File of the projected volume with the value of [`RESOLVERS_ON_NODE_ANNOTATION`]; empty until the pod is annotated.
pub const RESOLVERS_ON_NODE_FILE: &str = "resolvers-on-node";
/// File of the projected volume with the pod's own [`ZONE_LABEL`]; empty before Kubernetes 1.35.
pub const ZONE_LABEL_FILE: &str = "zone-label";
/// Name of the revision that applies to a pod without an annotation.
pub const STABLE_REVISION: &str = "stable";

/// Directory that the containers of one pod share: control sockets, and the socket of the handover.
pub const RUN_DIR: &str = "/run/dnstier";

/// Port of DNS, on the captured addresses and on the Services of the zones.
pub const DNS_PORT: u16 = 53;
/// Port that a zone resolver listens on; its Service maps [`DNS_PORT`] to it.
pub const RESOLVER_DNS_PORT: u16 = 1053;
/// Port of a zone resolver's `/metrics`, `/status`, `/live` and `/ready`.
pub const RESOLVER_METRICS_PORT: u16 = 9153;
/// Time for which a zone resolver answers after SIGTERM. A node cache asks for the resolvers of a zone more often, so
/// that it queries none that has ended, unless the cluster DNS repeats an older list from its cache.
pub const RESOLVER_DRAIN: Duration = Duration::from_secs(10);
/// Name of the UDP port in every DNS Service of a tier, and so the first label of its SRV name (`_dns._udp`).
pub const UDP_PORT_NAME: &str = "dns";
/// Name of the TCP port in every DNS Service of a tier (`_dns-tcp._tcp`).
pub const TCP_PORT_NAME: &str = "dns-tcp";

/// Returns the file name of a revision in the projected volume, which is its key in the ConfigMap.
#[must_use]
pub fn revision_key(revision: &str) -> String {
    format!("{revision}.json")
}
