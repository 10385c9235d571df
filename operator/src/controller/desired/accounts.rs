//! ServiceAccounts of the pods. No process that parses packets talks to the API server, so no pod has a token.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Builds the ServiceAccounts of the node pods and of the zones' resolvers.
#[must_use]
pub(super) fn service_accounts(tier: &ValidatedTier, settings: &Settings) -> Vec<ServiceAccount> {
    [
        (&settings.node_namespace, names::node_cache(&tier.name), labels::COMPONENT_NODE_CACHE),
        (&settings.namespace, names::zone_resolver(&tier.name), labels::COMPONENT_ZONE_RESOLVER),
    ]
    .into_iter()
    .map(|(namespace, name, component)| ServiceAccount {
        metadata: owned_meta(tier, namespace, name, labels::component_labels(&tier.name, component)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
    .collect()
}
