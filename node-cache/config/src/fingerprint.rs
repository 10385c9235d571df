//! Name of a configuration. It depends on the content alone and so is equal in every process.

use sha2::{Digest, Sha256};

use crate::Config;

/// Returns the revision of a configuration: the first ten hexadecimal digits of the SHA-256 of its JSON.
///
/// Fields are written in the order of their declaration, so equal values give equal bytes.
#[must_use]
pub fn fingerprint(config: &Config) -> String {
    let json = serde_json::to_vec(config).unwrap_or_default();
    hexadecimal(&json, 5)
}

/// Returns the first 16 hexadecimal digits of the SHA-256 of some octets.
#[must_use]
pub fn digest(octets: &[u8]) -> String {
    hexadecimal(octets, 8)
}

fn hexadecimal(octets: &[u8], length: usize) -> String {
    Sha256::digest(octets).iter().take(length).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_depends_on_the_content_alone() {
        let first = fingerprint(&Config::example());
        let second = fingerprint(&Config::example());
        assert_eq!(first, second);
        assert_eq!(first.len(), 10);
        let changed = Config { tier: "other".to_owned(), ..Config::example() };
        assert_ne!(fingerprint(&changed), first);
    }

    /// A changed serialized form would be a new revision for every tier in use, and pods of the version before refuse a
    /// field that they do not know. A new field is left out while it has its default.
    #[test]
    fn the_serialized_form_does_not_change() {
        let json = serde_json::to_string(&Config::example()).unwrap();
        let expected = concat!(
            r#"{"tier":"default","clusterDomain":"cluster.local","#,
            r#""clusterDns":{"bootstrap":["127.0.0.1:9"],"service":"pods.kube-system.svc.cluster.local"},"#,
            r#""nodeCache":{"captured":[{"address":"169.254.20.10","service":false}],"#,
            r#""cache":{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400},"allowFrom":["127.0.0.1/32"]},"#,
            r#""zones":[],"#,
            r#""resolver":{"upstreams":{"servers":[{"address":"127.0.0.1:9","protocol":"UDP"}]},"#,
            r#""cache":{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400},"allowFrom":["127.0.0.1/32"]},"#,
            r#""routes":[]}"#,
        );
        assert_eq!(json, expected);
    }
}
