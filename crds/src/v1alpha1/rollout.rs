//! The part of the spec for roll-outs: how a change of the configuration spreads.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::validation::{DURATION, PROBE_NAME, SOAK, WAVE_SIZE, rules};
use super::{Duration, schema};

/// How a change of the configuration spreads: resolvers first, then some nodes of each zone, then the others in waves.
/// Each step is watched before the next one begins, and a change that makes things worse is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// How many nodes of each zone go first, 1 to 10: Ready ones, those with the most responses in the last minute
    /// before others. Default: 1.
    #[schemars(range(min = 1, max = 10))]
    pub canaries_per_zone: u16,
    /// How many further nodes of a zone go at a time: 1% to 100% of the nodes of the zone, rounded up, or a number of
    /// nodes, 1 to 500. The smallest zone goes first. Default: 10%.
    pub wave_size: WaveSize,
    /// How long a step is watched once all of its pods have the configuration in force, 5s to 24h. Below 15s only
    /// probes and hard signs judge: a rejected configuration, a restart, a node that does not answer itself. Default:
    /// 30s.
    #[schemars(extend("x-kubernetes-validations" = rules(&[DURATION, SOAK])))]
    pub soak: Duration,
    /// By how many percentage points the share of errors may rise above that of the nodes that are not changed, 0 to
    /// 100. 0: every significant rise stops the change. Default: 1.
    #[schemars(range(min = 0, max = 100))]
    pub max_error_increase_percent: u16,
    /// Names that are asked past the cache on changed and on unchanged nodes, and whose answers are compared. The root,
    /// a name of the cluster and the suffix of every route are asked in any case. At most 16. Default: none.
    #[schemars(length(max = 16), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name", "type"]
    ))]
    pub probes: Vec<Probe>,
    /// Whether a change stands still where it is: no pod gets another configuration, forward or back, and no node
    /// leaves. New pods get the proven one, or the new one on a node that goes first. Judging goes on. Default: false.
    pub paused: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canaries_per_zone: 1,
            wave_size: WaveSize::Percent(10),
            soak: Duration::from_seconds(30),
            max_error_increase_percent: 1,
            probes: Vec::new(),
            paused: false,
        }
    }
}

/// A question whose answers are compared between changed and unchanged nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The name to ask for. Lower case, no final dot.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules(&[PROBE_NAME])))]
    pub name: String,
    /// The type to ask for: A, AAAA, CNAME, MX, NS, PTR, SOA, SRV or TXT. Default: A.
    #[serde(rename = "type", default)]
    #[schemars(schema_with = "schema::probe_type")]
    pub type_: ProbeType,
    /// Part of the responses that must be equal. Rcode: the response code, for names whose records change. Answers: the
    /// records too. Default: Rcode.
    #[serde(default)]
    #[schemars(schema_with = "schema::probe_compare")]
    pub compare: ProbeCompare,
}

/// Record type of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeType {
    /// IPv4 address.
    #[default]
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Mail exchange.
    Mx,
    /// Name server.
    Ns,
    /// Name of an address.
    Ptr,
    /// Start of authority.
    Soa,
    /// Location of a service.
    Srv,
    /// Text.
    Txt,
}

impl ProbeType {
    /// Returns the mnemonic of the type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Mx => "MX",
            Self::Ns => "NS",
            Self::Ptr => "PTR",
            Self::Soa => "SOA",
            Self::Srv => "SRV",
            Self::Txt => "TXT",
        }
    }
}

/// Part of the responses that a probe compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeCompare {
    /// The response code.
    #[default]
    Rcode,
    /// The response code and the records of the answer section.
    Answers,
}

/// Size of a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WaveSizeText", into = "WaveSizeText")]
pub enum WaveSize {
    /// Percentage of the nodes of a zone, rounded up.
    Percent(u16),
    /// Number of nodes.
    Nodes(u16),
}

/// Error of reading a value that is not the size of a wave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waveSize must be a percentage from 1% to 100% or a number from 1 to 500")]
pub struct InvalidWaveSize;

impl WaveSize {
    /// Returns the number of nodes of a wave in a zone of `nodes` nodes; at least one.
    #[must_use]
    pub fn nodes_of(self, nodes: usize) -> usize {
        match self {
            Self::Percent(percent) => nodes.saturating_mul(percent.into()).div_ceil(100).max(1),
            Self::Nodes(number) => usize::from(number).max(1),
        }
    }
}

/// The size of a wave as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WaveSizeText {
    Number(u16),
    Text(String),
}

impl TryFrom<WaveSizeText> for WaveSize {
    type Error = InvalidWaveSize;

    fn try_from(value: WaveSizeText) -> Result<Self, Self::Error> {
        match value {
            WaveSizeText::Number(number @ 1..=500) => Ok(Self::Nodes(number)),
            WaveSizeText::Number(_) => Err(InvalidWaveSize),
            WaveSizeText::Text(text) => {
                let percent = text.strip_suffix('%').filter(|digits| !digits.starts_with(['+', '0']));
                let percent = percent.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or(InvalidWaveSize)
            }
        }
    }
}

impl From<WaveSize> for WaveSizeText {
    fn from(size: WaveSize) -> Self {
        match size {
            WaveSize::Percent(percent) => Self::Text(format!("{percent}%")),
            WaveSize::Nodes(number) => Self::Number(number),
        }
    }
}

impl JsonSchema for WaveSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "WaveSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 4,
            "x-kubernetes-validations": rules(&[WAVE_SIZE]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_a_percentage_or_a_number_and_never_empty() {
        for (text, size) in
            [("\"10%\"", WaveSize::Percent(10)), ("\"100%\"", WaveSize::Percent(100)), ("500", WaveSize::Nodes(500))]
        {
            assert_eq!(serde_json::from_str::<WaveSize>(text).unwrap(), size);
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
        }
        for text in ["\"0%\"", "\"101%\"", "\"10\"", "\"%\"", "\"+5%\"", "\"010%\"", "0", "501", "-1", "1.5", "true"] {
            assert!(serde_json::from_str::<WaveSize>(text).is_err(), "{text}");
        }
        let sizes = [(10, 1, 1), (10, 11, 2), (1, 5000, 50), (100, 7, 7), (10, 0, 1)];
        for (percent, nodes, size) in sizes {
            assert_eq!(WaveSize::Percent(percent).nodes_of(nodes), size, "{percent} % of {nodes}");
        }
    }
}
