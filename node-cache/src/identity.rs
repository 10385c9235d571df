//! Who this process is, as it tells those who ask for `id.server.`

use std::net::IpAddr;

/// Name, node and pod of one process.
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
    /// The identity of this process: `NODE_NAME` and `POD_UID` come from the environment.
    #[must_use]
    pub fn of(instance: &str) -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self { instance: instance.to_owned(), node: variable("NODE_NAME"), pod_uid: variable("POD_UID") }
    }

    /// The character-strings of the answer to `id.server. CH TXT`, each at most 255 bytes.
    #[must_use]
    pub fn strings(&self) -> [String; 3] {
        [
            shortened(format!("instance={}", self.instance)),
            shortened(format!("node={}", self.node)),
            shortened(format!("pod={}", self.pod_uid)),
        ]
    }
}

/// The addresses of the pod: `POD_IPS`, separated by commas. What is not an address is left out.
#[must_use]
pub fn pod_addresses() -> Vec<IpAddr> {
    addresses(&std::env::var("POD_IPS").unwrap_or_default())
}

fn addresses(list: &str) -> Vec<IpAddr> {
    list.split(',').filter_map(|text| text.trim().parse().ok()).collect()
}

fn shortened(mut text: String) -> String {
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
        assert_eq!(addresses("10.1.2.3, fd00::7,nonsense,"), expected);
    }

    #[test]
    fn a_string_of_the_identity_fits_its_length_octet() {
        let identity = Identity { node: "ü".repeat(200), ..Identity::default() };
        assert!(identity.strings().iter().all(|text| text.len() <= 255));
    }
}
