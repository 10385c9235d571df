//! The record of a roll-out in its ConfigMap.
//!
//! The ConfigMap is written before the pods of a step are told, with the `resourceVersion` that was read. An operator
//! that is not the leader any more has an older one, and its write is refused before it tells anybody anything.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::controller::rollout::record::Record;
use crate::controller::text::sanitize;

/// Key of the record in the ConfigMap.
const KEY: &str = "record.json";
/// Version of the form of the record. Another version is not read.
const VERSION: u32 = 1;

/// Contents of the ConfigMap of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredRecord {
    /// Record; `None` where there is none, or none that can be read.
    pub(crate) record: Option<Record>,
    /// Version of the ConfigMap; `None` where there is none.
    pub(crate) resource_version: Option<String>,
    /// Sentence about a record that cannot be read.
    pub(crate) problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<R> {
    version: u32,
    #[serde(flatten)]
    record: R,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl StoredRecord {
    /// Reads the ConfigMap. A record that cannot be read counts as lost.
    #[must_use]
    pub(crate) fn read(config_map: Option<&ConfigMap>) -> Self {
        let Some(config_map) = config_map else { return Self::default() };
        let resource_version = config_map.metadata.resource_version.clone();
        let text = config_map.data.as_ref().and_then(|data| data.get(KEY));
        match text.ok_or_else(|| format!("it has no key {KEY}")).and_then(|text| parse(text)) {
            Ok(record) => Self { record: Some(record), resource_version, problem: None },
            Err(reason) => {
                let name = config_map.metadata.name.as_deref().unwrap_or_default();
                let problem = format!(
                    "The record of the roll-out in ConfigMap {name} cannot be read and is made again from what the \
                     pods run: {}.",
                    sanitize(&reason)
                );
                Self { record: None, resource_version, problem: Some(problem) }
            }
        }
    }

    /// Returns the ConfigMap with another record. With the version that was read it is to be patched (PATCH); without
    /// one it is to be created (POST), which the API server refuses when somebody else was first.
    #[must_use]
    pub(crate) fn replaced_by(&self, record: &Record, metadata: ObjectMeta) -> ConfigMap {
        let json = serde_json::to_string(&Envelope { version: VERSION, record }).unwrap_or_default();
        ConfigMap {
            metadata: ObjectMeta { resource_version: self.resource_version.clone(), ..metadata },
            data: Some(BTreeMap::from([(KEY.to_owned(), json)])),
            ..ConfigMap::default()
        }
    }
}

fn parse(text: &str) -> Result<Record, String> {
    let Version { version } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it is of version {version}, not {VERSION}"));
    }
    serde_json::from_str::<Envelope<Record>>(text).map(|envelope| envelope.record).map_err(|error| error.to_string())
}
