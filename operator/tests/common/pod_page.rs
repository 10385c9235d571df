//! Played pod between its pages, `/status` and `/probe`. A pod takes up what it is asked to run, unless a name in that
//! configuration says that it does otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use node_cache_config::Config;
use node_cache_config::distinct_names::DistinctNames;
use node_cache_config::figures::{AddressQueries, Figures};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION, revision_key};
use node_cache_config::status::Revision;
use serde_json::Value;

use super::objects::Objects;
use super::page::{Page, now, probe_result, responses};

const COMPONENT: &str = "app.kubernetes.io/component";
const TIER: &str = "app.kubernetes.io/instance";
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
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rcode = if state.text.contains(DEAD) && query.contains(DEAD) { 2 } else { 0 };
        probe_result(query, rcode, if state.text.contains(STRANGE) { "strange" } else { "right" })
    }

    /// Returns the status page; null once the pod is gone.
    pub(crate) fn page(&self, objects: &Objects) -> Value {
        let Some(pod) = objects.get("Pod", &self.namespace, &self.name) else { return Value::Null };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = pod["metadata"]["annotations"][REVISION_ANNOTATION].as_str();
        if asked != state.asked.as_deref() {
            state.ask(asked, &self.namespace, text(&pod["metadata"]["labels"][TIER]), objects);
        }
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let caches = containers.map(|container| text(&container["name"])).filter(|name| name.starts_with("cache-"));
        let page = Page {
            pod_uid: text(&pod["metadata"]["uid"]).to_owned(),
            node: text(&pod["spec"]["nodeName"]).to_owned(),
            zone: pod["metadata"]["annotations"][ZONE_ANNOTATION].as_str().map(str::to_owned),
            is_resolver: pod["metadata"]["labels"][COMPONENT] == "zone-resolver",
            revision: state.revision(),
            captured: state.addresses(),
            caches: caches.map(str::to_owned).collect(),
            started: self.started,
            restarts: state.restarts,
            figures: self.figures(&state),
            upstreams: Vec::new(),
        };
        page.into_json()
    }

    fn figures(&self, state: &State) -> Figures {
        let responses = responses(self.started, state.failures());
        let mut servfail_names = DistinctNames::default();
        if let Some(since) = state.failing_since {
            // Other names each time: those that failed before are no news to the judge.
            let name = |number: u8| format!("\x0c{:012x}\x04name\x07example\0", since * 32 + u64::from(number));
            (0..20).for_each(|number| servfail_names.insert(now() / 60, name(number).as_bytes()));
        }
        let queries = AddressQueries { address: ASKED, queries: responses.noerror };
        let queries = Some(queries).filter(|_| state.addresses().contains(&ASKED));
        Figures {
            responses: vec![responses],
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
