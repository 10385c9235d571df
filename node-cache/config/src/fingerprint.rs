//! The name of a configuration: the same content has the same name on every machine and in every process.

use sha2::{Digest, Sha256};

use crate::Config;

/// The revision of a configuration: the first ten hexadecimal digits of the SHA-256 of its JSON.
///
/// Fields are written in the order of their declaration, so equal values give equal bytes.
#[must_use]
pub fn fingerprint(config: &Config) -> String {
    let json = serde_json::to_vec(config).unwrap_or_default();
    Sha256::digest(&json).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
