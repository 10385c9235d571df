//! Version `v1alpha1` of the API.

mod cache;
mod definition;
mod duration;
mod node_cache;
mod pods;
mod resolvers;
mod rollout;
mod schema;
mod size;
mod spec;
mod status;
mod upstream;
mod validation;

pub use cache::{Cache, NODE_CACHE_SIZE, RESOLVER_CACHE_SIZE};
pub use definition::definition;
pub use duration::{Duration, InvalidDuration};
pub use node_cache::{Capture, LastResort, LastResortMode, NodeCache, PrivateAnswers, Switch};
pub use pods::PodSettings;
pub use resolvers::{Mode, Resolvers};
pub use rollout::{InvalidWaveSize, Probe, ProbeCompare, ProbeType, Rollout, WaveSize};
pub use size::{ByteSize, InvalidByteSize};
pub use spec::{ClusterDns, DnsTier, DnsTierSpec, Route};
pub use status::{
    DnsTierStatus, ExcludedNodesStatus, NodesStatus, OperatorStatus, ResolversStatus, RevisionStatus, RolloutStatus,
    SummaryStatus, TrafficStatus, ZoneStatus,
};
pub use upstream::{BudgetPreset, CaseRandomization, PacketBudget, Protocol, Upstream};
