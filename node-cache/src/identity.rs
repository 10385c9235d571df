//! Identity of this process, the response to `id.server. CH TXT`.

use std::net::IpAddr;
use std::sync::OnceLock;

use node_cache_config::metrics_page::ProcessUsage;

/// Identity of one process: instance, node and pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `cache-0`, `cache-1`, … or `zone-resolver`.
    pub instance: String,
    /// Name of the node; empty outside a cluster.
    pub node: String,
    /// UID of the pod; empty outside a cluster.
    pub pod_uid: String,
}

impl Identity {
    /// Reads the identity of this process: `NODE_NAME` and `POD_UID` come from the environment.
    #[must_use]
    pub fn from_env(instance: &str) -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self { instance: instance.to_owned(), node: variable("NODE_NAME"), pod_uid: variable("POD_UID") }
    }

    /// Returns the character-strings of the response to `id.server. CH TXT`, each at most 255 bytes.
    #[must_use]
    pub fn txt_strings(&self) -> [String; 3] {
        [
            truncate_to_255(format!("instance={}", self.instance)),
            truncate_to_255(format!("node={}", self.node)),
            truncate_to_255(format!("pod={}", self.pod_uid)),
        ]
    }
}

/// Returns when this process started, in seconds of the Unix epoch. It is read once, so that it never differs.
#[must_use]
pub fn process_start() -> Option<u64> {
    static STARTED: OnceLock<Option<u64>> = OnceLock::new();
    *STARTED.get_or_init(|| ProcessUsage::read().start_time.map(|seconds| seconds as u64))
}

/// Returns the addresses of the pod from `POD_IPS`, separated by commas. Anything that is no address is skipped.
#[must_use]
pub fn pod_addresses() -> Vec<IpAddr> {
    parse_addresses(&std::env::var("POD_IPS").unwrap_or_default())
}

fn parse_addresses(list: &str) -> Vec<IpAddr> {
    list.split(',').filter_map(|text| text.trim().parse().ok()).collect()
}

/// Truncates a text to the 255 bytes of a character-string, at the end of a character.
fn truncate_to_255(mut text: String) -> String {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_pod_are_read_in_order() {
        let expected: Vec<IpAddr> = vec!["10.1.2.3".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(parse_addresses("10.1.2.3, fd00::7,nonsense,"), expected);
    }

    #[test]
    fn a_string_of_the_identity_fits_its_length_octet() {
        let identity = Identity { node: "ü".repeat(200), ..Identity::default() };
        assert!(identity.txt_strings().iter().all(|text| text.len() <= 255));
    }
}
