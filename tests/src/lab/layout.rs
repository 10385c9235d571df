//! Names and paths of a lab. All follow from the lab's name, so that labs share nothing, and a lab can be found and
//! removed by its name alone.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Folder of all labs.
pub const STATE_ROOT: &str = "/var/lib/dnstier-lab";

/// Name of the environment variable that marks every process of a lab; its value is the lab's folder.
pub(super) const MARK: &str = "DNSTIER_LAB";

/// Name of the network namespace of the bridge and the control plane.
pub const FABRIC: &str = "fabric";
/// Name of the network namespace of the small internet and the provider's resolver.
pub const WORLD: &str = "world";

/// Names and addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// Name of the Node object and of the network namespace, such as `node-a`.
    pub name: &'static str,
    /// Value of the node's label `topology.kubernetes.io/zone`.
    pub zone: &'static str,
    /// Last part of the node's addresses and middle part of its pods' addresses, 2–7.
    pub number: u8,
}

/// The nodes, the first of each zone before the second ones.
pub(super) const NODES: [NodeName; 6] = [
    NodeName { name: "node-a", zone: "zone-a", number: 2 },
    NodeName { name: "node-b", zone: "zone-b", number: 3 },
    NodeName { name: "node-c", zone: "zone-c", number: 4 },
    NodeName { name: "node-d", zone: "zone-a", number: 5 },
    NodeName { name: "node-e", zone: "zone-b", number: 6 },
    NodeName { name: "node-f", zone: "zone-c", number: 7 },
];

/// Number of zones.
const ZONES: usize = 3;

/// Shape of a lab: how many of its nodes run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// One node a zone.
    #[default]
    OneNodePerZone,
    /// Two nodes a zone, for what spreads from node to node.
    TwoNodesPerZone,
}

impl Shape {
    /// Returns the nodes that run.
    #[must_use]
    pub fn nodes(self) -> &'static [NodeName] {
        match self {
            Self::OneNodePerZone => &NODES[..ZONES],
            Self::TwoNodesPerZone => &NODES,
        }
    }
}

impl NodeName {
    /// Returns the node's address, such as `10.88.0.2`.
    #[must_use]
    pub fn ipv4(self) -> String {
        format!("10.88.0.{}", self.number)
    }

    /// Returns the node's IPv6 address, such as `fd88::2`.
    #[must_use]
    pub fn ipv6(self) -> String {
        format!("fd88::{}", self.number)
    }

    /// Returns the addresses of the node's pods, such as `10.89.2.0/24`.
    #[must_use]
    pub fn pods_ipv4(self) -> String {
        format!("10.89.{}.0/24", self.number)
    }

    /// Returns the IPv6 addresses of the node's pods, such as `fd89:2::/64`.
    #[must_use]
    pub fn pods_ipv6(self) -> String {
        format!("fd89:{}::/64", self.number)
    }
}

/// Paths and names of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: String,
    state: PathBuf,
}

impl Layout {
    /// Returns the layout of the lab `name`: 1–20 characters out of a–z, 0–9 and `-`.
    ///
    /// # Errors
    /// When the name has another form.
    pub fn new(name: &str) -> Result<Self> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=20).contains(&name.len()) && name.chars().all(valid) && !name.starts_with('-'),
            "the lab's name `{name}` must have 1 to 20 characters out of a-z, 0-9 and `-`, and not begin with `-`"
        );
        Ok(Self { name: name.to_owned(), state: Path::new(STATE_ROOT).join(name) })
    }

    /// Returns the lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the lab's folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns a file or folder in the lab's folder.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.state.join(path)
    }

    /// Returns the folder on which namespaces are pinned by mounts.
    #[must_use]
    pub fn namespaces(&self) -> PathBuf {
        self.file("namespaces")
    }

    /// Returns the pinned network namespace of `member`: [`FABRIC`], [`WORLD`] or a node's name.
    #[must_use]
    pub fn network(&self, member: &str) -> PathBuf {
        self.namespaces().join(format!("{member}.net"))
    }

    /// Returns the pinned mount namespace of a node.
    #[must_use]
    pub fn mounts(&self, node: &str) -> PathBuf {
        self.namespaces().join(format!("{node}.mnt"))
    }

    /// Returns a file of the lab's public key infrastructure.
    #[must_use]
    pub fn pki(&self, file: &str) -> PathBuf {
        self.file("pki").join(file)
    }

    /// Returns the kubeconfig of `user`, such as `admin` or `node-a`.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.pki(&format!("{user}.kubeconfig"))
    }

    /// Returns the log of a process: its standard output and error.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.file("log").join(format!("{process}.log"))
    }

    /// Returns the audit log of the API server: a JSON object a line for each request of DnsTier.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.file("log").join("audit.json")
    }

    /// Returns the record of a process.
    #[must_use]
    pub fn record(&self, process: &str) -> PathBuf {
        self.file("processes").join(format!("{process}.json"))
    }

    /// Returns the folder of a node: images, containers, sockets, pods' volumes.
    #[must_use]
    pub fn node(&self, node: &str) -> PathBuf {
        self.file(node)
    }

    /// Returns the name of the lab's control group, directly below the root of each hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("dnstier-lab-{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_folder_of_labs() {
        for name in ["", "..", "a/b", "-x", "Demo", "a name", "an-overly-long-name-1"] {
            assert!(Layout::new(name).is_err(), "{name}");
        }
        assert_eq!(Layout::new("demo").unwrap().state(), Path::new("/var/lib/dnstier-lab/demo"));
    }

    #[test]
    fn labs_share_no_path_and_no_control_group() {
        let one = Layout::new("one").unwrap();
        let other = Layout::new("one-2").unwrap();
        assert!(!other.state().starts_with(one.state()));
        assert_ne!(one.cgroup(), other.cgroup());
    }
}
