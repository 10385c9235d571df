//! Pages of a played pod: `/status` and `/probe`. A pod takes up what it is asked to run, unless a name in that
//! configuration says that it does otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;
use node_cache_config::Config;
use node_cache_config::distinct_names::DistinctNames;
use node_cache_config::figures::{AddressQueries, CAPABILITIES, Figures, ScopeResponses};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION, revision_key};
use node_cache_config::probes::ProbeResult;
use node_cache_config::status::{CaptureState, CapturedAddress, Instance, NodeStatus, ResolverStatus, Revision};
use serde_json::Value;

use super::objects::Objects;

const COMPONENT: &str = "app.kubernetes.io/component";
const TIER: &str = "app.kubernetes.io/instance";
/// Responses of a pod in a second.
const RESPONSES: u64 = 50;
/// Responses with SERVFAIL beside them, in a second, where a configuration fails.
const FAILURES: u64 = 25;

/// Name in a configuration that every pod refuses.
pub(crate) const REFUSED: &str = "refused.example";
/// Name in a configuration that no pod takes up.
pub(crate) const UNSEEN: &str = "unseen.example";
/// Name in a configuration that ends a process of every pod.
pub(crate) const CRASHING: &str = "crashing.example";
/// Name in a configuration with which a third of the responses are SERVFAIL.
pub(crate) const FAILING: &str = "failing.example";
/// Name in a configuration for which probes get SERVFAIL.
pub(crate) const DEAD: &str = "dead.example";
/// Name in a configuration with which probes get other records.
pub(crate) const STRANGE: &str = "strange.example";
/// Captured address that is asked all the time.
pub(crate) const ASKED: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 99));

/// Pod between its pages.
#[derive(Debug)]
pub(crate) struct PlayedPod {
    namespace: String,
    name: String,
    /// Start in seconds of the Unix epoch.
    started: u64,
    state: Mutex<State>,
}

/// Configuration that a pod runs, and what it has counted.
#[derive(Debug, Default)]
struct State {
    asked: Option<String>,
    in_force: Option<String>,
    refusal: Option<String>,
    config: Option<Config>,
    text: String,
    restarts: u32,
    /// Responses with SERVFAIL under earlier configurations, and since when the present one fails.
    failures: u64,
    failing_since: Option<u64>,
}

impl PlayedPod {
    /// Creates a pod that starts now.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), started: now(), state: Mutex::default() }
    }

    /// Returns the answer to a probe, the same from every pod with a configuration.
    pub(crate) fn probe_result(&self, query: &str) -> Value {
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().to_owned()
        };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = ProbeResult {
            name: parameter("name"),
            rtype: parameter("type"),
            instance: "cache-0".to_owned(),
            rcode: if state.text.contains(DEAD) && query.contains(DEAD) { 2 } else { 0 },
            microseconds: 900,
            digest: if state.text.contains(STRANGE) { "strange" } else { "right" }.to_owned(),
        };
        serde_json::to_value(result).unwrap_or_default()
    }

    /// Returns the status page; null once the pod is gone.
    pub(crate) fn page(&self, objects: &Objects) -> Value {
        let Some(pod) = objects.get("Pod", &self.namespace, &self.name) else { return Value::Null };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = pod["metadata"]["annotations"][REVISION_ANNOTATION].as_str();
        if asked != state.asked.as_deref() {
            state.ask(asked, &self.namespace, text(&pod["metadata"]["labels"][TIER]), objects);
        }
        let is_resolver = pod["metadata"]["labels"][COMPONENT] == "zone-resolver";
        let page = if is_resolver { self.resolver(&pod, &state) } else { self.node(&pod, &state) };
        page.unwrap_or_default()
    }

    fn resolver(&self, pod: &Value, state: &State) -> serde_json::Result<Value> {
        serde_json::to_value(ResolverStatus {
            pod_uid: text(&pod["metadata"]["uid"]).to_owned(),
            node: text(&pod["spec"]["nodeName"]).to_owned(),
            zone: zone(pod),
            ready: true,
            instance: self.instance("zone-resolver", state),
            figures: self.figures(state),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        })
    }

    fn node(&self, pod: &Value, state: &State) -> serde_json::Result<Value> {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let caches = containers.map(|container| text(&container["name"])).filter(|name| name.starts_with("cache-"));
        let captured = state.addresses().into_iter();
        serde_json::to_value(NodeStatus {
            pod_uid: text(&pod["metadata"]["uid"]).to_owned(),
            node: text(&pod["spec"]["nodeName"]).to_owned(),
            zone: zone(pod),
            revision: state.revision(),
            captured: captured
                .map(|address| CapturedAddress { address, state: CaptureState::Captured, reason: None })
                .collect(),
            instances: caches.map(|name| self.instance(name, state)).collect(),
            figures: self.figures(state),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            ..NodeStatus::default()
        })
    }

    fn instance(&self, name: &str, state: &State) -> Instance {
        Instance {
            name: name.to_owned(),
            alive: true,
            revision: state.revision(),
            started: Some(self.started),
            restarts: Some(state.restarts),
            ..Instance::default()
        }
    }

    fn figures(&self, state: &State) -> Figures {
        let noerror = RESPONSES * now().saturating_sub(self.started);
        let servfail = state.failures();
        let mut servfail_names = DistinctNames::default();
        if let Some(since) = state.failing_since {
            // Other names each time: those that failed before are no news to the judge.
            let name = |number: u8| format!("\x0c{:012x}\x04name\x07example\0", since * 32 + u64::from(number));
            (0..20).for_each(|number| servfail_names.insert(now() / 60, name(number).as_bytes()));
        }
        let queries = AddressQueries { address: ASKED, queries: noerror };
        let queries = Some(queries).filter(|_| state.addresses().contains(&ASKED));
        Figures {
            responses: vec![ScopeResponses { noerror, servfail, ..ScopeResponses::new("outside") }],
            servfail_names,
            queries: queries.into_iter().collect(),
            ..Figures::default()
        }
    }
}

impl State {
    /// Takes up the revision that a pod is asked to run, in the way that its configuration says.
    fn ask(&mut self, asked: Option<&str>, namespace: &str, tier: &str, objects: &Objects) {
        let revisions = objects.get("ConfigMap", namespace, &format!("dnstier-{tier}-revisions"));
        let json = asked.and_then(|asked| Some(revisions.as_ref()?["data"][revision_key(asked)].as_str()?.to_owned()));
        // A revision that is not there yet is looked for again.
        let Some(json) = json.or_else(|| asked.is_none().then(String::new)) else { return };
        if json.contains(UNSEEN) {
            return;
        }
        self.asked = asked.map(str::to_owned);
        self.refusal = json.contains(REFUSED).then(|| format!("{REFUSED} cannot be served"));
        if self.refusal.is_some() {
            return;
        }
        self.failures = self.failures();
        self.failing_since = json.contains(FAILING).then(now);
        self.restarts += u32::from(json.contains(CRASHING));
        self.in_force.clone_from(&self.asked);
        self.config = Config::from_json(json.as_bytes()).ok();
        self.text = json;
    }

    fn revision(&self) -> Revision {
        Revision { asked: self.asked.clone(), in_force: self.in_force.clone(), refusal: self.refusal.clone() }
    }

    fn failures(&self) -> u64 {
        self.failures + self.failing_since.map_or(0, |since| FAILURES * now().saturating_sub(since))
    }

    /// Returns the addresses that the configuration in force captures.
    fn addresses(&self) -> Vec<IpAddr> {
        let captured = self.config.iter().flat_map(|config| &config.node_cache.captured);
        captured.map(|captured| captured.address).collect()
    }
}

/// Returns the present time in seconds of the Unix epoch.
fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

fn zone(pod: &Value) -> Option<String> {
    pod["metadata"]["annotations"][ZONE_ANNOTATION].as_str().map(str::to_owned)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
