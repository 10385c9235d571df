//! Validation rules in CEL, which the API server evaluates: every error that can be found without the cluster's state.
//!
//! A rule belongs to the field that it is about, so that the API server names that field, and every rule has a sentence
//! with the correction. Lists and strings have a maximum length because the API server estimates the worst-case cost of
//! a rule and rejects a definition that could cost too much. Addresses are compared as text, which is cheap, and
//! correct because every address is in canonical form (RFC 5952).

use serde_json::{Value, json};

/// One validation rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// CEL expression that is true for a valid value. `self` is the value of the field.
    cel: &'static str,
    /// Error message, with the correction.
    message: &'static str,
    /// Field below `self` that the error is reported for.
    path: Option<&'static str>,
}

impl Rule {
    const fn new(cel: &'static str, message: &'static str) -> Self {
        Self { cel, message, path: None }
    }

    const fn at(self, path: &'static str) -> Self {
        Self { path: Some(path), ..self }
    }
}

/// Returns the value of `x-kubernetes-validations` for these rules, in their order.
pub(super) fn rules(rules: &[Rule]) -> Value {
    rules
        .iter()
        .map(|rule| {
            let mut value = json!({"rule": rule.cel, "message": rule.message});
            if let Some(path) = rule.path {
                value["fieldPath"] = json!(path);
            }
            value
        })
        .collect()
}

// The whole object

/// Name of a tier: names of owned objects begin with it and have a maximum length of their own.
pub(super) const NAME: Rule = Rule::new(
    "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$')",
    "metadata.name must be at most 20 characters, all of them lower-case letters, digits and '-', with a letter or \
     digit at both ends",
);

// spec

/// Routes: names of the cluster are answered by the cluster DNS alone.
pub(super) const ROUTES_LEAVE_THE_CLUSTER: Rule = Rule::new(
    "self.routes.all(route, route.suffix != self.clusterDomain && !route.suffix.endsWith('.' + self.clusterDomain))",
    "routes must not name clusterDomain or a suffix below it: these names are answered by the cluster DNS",
)
.at(".routes");

/// Upstreams: a query to a captured address would be a forwarding loop.
pub(super) const UPSTREAMS_ARE_NOT_CAPTURED: Rule = Rule::new(
    "!has(self.nodeCache.capture.addresses) || self.resolvers.upstreams.all(upstream, \
     upstream.addresses.all(address, !(address in self.nodeCache.capture.addresses)))",
    "resolvers.upstreams must not name an address of nodeCache.capture.addresses: its queries would come back to \
     this tier; name the server behind it",
)
.at(".resolvers.upstreams");

/// Fallback: a query to a captured address would be a forwarding loop.
pub(super) const FALLBACK_IS_NOT_CAPTURED: Rule = Rule::new(
    "!has(self.nodeCache.capture.addresses) || self.resolvers.fallback.all(upstream, \
     upstream.addresses.all(address, !(address in self.nodeCache.capture.addresses)))",
    "resolvers.fallback must not name an address of nodeCache.capture.addresses: its queries would come back to \
     this tier; name the server behind it",
)
.at(".resolvers.fallback");

/// Private suffixes: names of the cluster reach neither upstreams nor a fallback.
pub(super) const PRIVATE_SUFFIXES_LEAVE_THE_CLUSTER: Rule = Rule::new(
    "self.resolvers.privateSuffixes.all(suffix, suffix != self.clusterDomain && \
     !suffix.endsWith('.' + self.clusterDomain))",
    "resolvers.privateSuffixes must not name clusterDomain or a suffix below it: these names are answered by the \
     cluster DNS",
)
.at(".resolvers.privateSuffixes");

/// Upstreams of routes: a query to a captured address would be a forwarding loop.
pub(super) const ROUTES_ARE_NOT_CAPTURED: Rule = Rule::new(
    "!has(self.nodeCache.capture.addresses) || self.routes.all(route, route.upstreams.all(upstream, \
     upstream.addresses.all(address, !(address in self.nodeCache.capture.addresses))))",
    "routes must not name an address of nodeCache.capture.addresses as an upstream: its queries would come back to \
     this tier; name the server behind it",
)
.at(".routes");

// Names

/// `clusterDomain`: a domain of host names, as the kubelet's `clusterDomain`.
pub(super) const CLUSTER_DOMAIN: Rule = Rule::new(
    "!format.dns1123Subdomain().validate(self).hasValue() && self.split('.').all(label, size(label) <= 63)",
    "clusterDomain must be a domain name in lower case without a final dot, like cluster.local",
);

/// Suffix of a route, or a private one: a domain name, with `_` as in service names.
pub(super) const SUFFIX: Rule = Rule::new(
    "self.matches('^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?([.][a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$')",
    "suffix must be a domain name in lower case without a final dot, like corp.example or 10.in-addr.arpa",
);

/// Name of a Namespace.
pub(super) const NAMESPACE: Rule = Rule::new(
    "!format.dns1123Label().validate(self).hasValue()",
    "namespace must be the name of a Namespace: lower-case letters, digits and '-', with a letter or digit at both \
     ends",
);

/// Name of a Service.
pub(super) const SERVICE: Rule = Rule::new(
    "!format.dns1123Label().validate(self).hasValue()",
    "name must be the name of a Service: lower-case letters, digits and '-', with a letter or digit at both ends",
);

/// Zone: the value of a label.
pub(super) const ZONE: Rule = Rule::new(
    "size(self) > 0 && !format.labelValue().validate(self).hasValue()",
    "a zone must be a value that the nodes' label topology.kubernetes.io/zone can have, like eu-central-1a",
);

// Addresses

/// Canonical form of an address, so that equal addresses are equal texts.
const CANONICAL: &str = "isIP(self) && ip.isCanonical(self)";

/// Captured address: an IP address in canonical form.
pub(super) const CAPTURED_ADDRESS: Rule = Rule::new(
    CANONICAL,
    "an address to capture must be an IPv4 or IPv6 address in canonical form (RFC 5952), not IPv4-mapped, like \
     169.254.20.10 or fd00::53",
);

/// Upstream: an IP address in canonical form. A host name could not be resolved without an upstream.
pub(super) const UPSTREAM_ADDRESS: Rule = Rule::new(
    CANONICAL,
    "an upstream must be an IPv4 or IPv6 address in canonical form (RFC 5952), not IPv4-mapped, like 192.0.2.53 or \
     2001:db8::53",
);

/// Captured address: one that has no global meaning.
pub(super) const CAPTURABLE: Rule = Rule::new(
    "!isIP(self) || ['169.254.0.0/16', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7']\
     .exists(range, cidr(range).containsIP(self))",
    "an address to capture must be IPv4 link-local (169.254.0.0/16), IPv4 private (10.0.0.0/8, 172.16.0.0/12, \
     192.168.0.0/16) or IPv6 unique local (fc00::/7)",
);

/// Captured address: not one that clouds serve themselves (metadata, credentials, time, their own resolvers).
pub(super) const NOT_THE_CLOUDS: Rule = Rule::new(
    "!isIP(self) || !['169.254.169.0/24', '169.254.170.0/24', 'fd00:ec2::/32']\
     .exists(range, cidr(range).containsIP(self))",
    "an address to capture must not be one that clouds use for their own services (169.254.169.0/24, 169.254.170.0/24, \
     fd00:ec2::/32); take another one, like 169.254.20.10",
);

/// Upstream: a unicast address of one server. IPv4 link-local is allowed, since clouds have resolvers there.
pub(super) const ASKABLE: Rule = Rule::new(
    "!isIP(self) || ip(self).isGlobalUnicast() && !self.startsWith('0.') || self.startsWith('169.254.')",
    "an upstream must be the address of one server: not unspecified, loopback, multicast, broadcast or IPv6 link-local",
);

/// Network in CIDR notation whose host bits are zero.
pub(super) const NETWORK: Rule = Rule::new(
    "isCIDR(self) && string(cidr(self).masked()) == self",
    "a network must be in CIDR notation and canonical form, with no bit set beyond its prefix, like 10.0.0.0/8 or \
     2001:db8::/32",
);

// Empty lists and duplicates

/// Capture: a tier without a captured address would receive no query.
pub(super) const CAPTURES_SOMETHING: Rule = Rule::new(
    "has(self.clusterDns) && self.clusterDns == 'Enabled' || has(self.addresses) && size(self.addresses) > 0",
    "capture must name something to answer on: set clusterDns to Enabled, or name at least one of addresses, or leave \
     capture out",
);

/// Route: at least one upstream.
pub(super) const ROUTE_HAS_UPSTREAMS: Rule =
    Rule::new("size(self) > 0", "a route must have upstreams: name at least one, or remove the route");

/// Upstream: at least one address.
pub(super) const UPSTREAM_HAS_ADDRESSES: Rule =
    Rule::new("size(self) > 0", "an upstream must have addresses: name at least one");

/// Upstreams: no duplicate server, since a retry at the same server gains nothing.
pub(super) const SERVERS_ARE_DISTINCT: Rule = Rule::new(
    "self.all(one, self.exists_one(other, one.port == other.port && \
     one.addresses.exists(address, address in other.addresses)) || size(one.addresses) == 0)",
    "upstreams must name a server (address and port) once only",
);

/// Fallback: no duplicate server, since a retry at the same server gains nothing.
pub(super) const FALLBACK_SERVERS_ARE_DISTINCT: Rule = Rule::new(
    "self.all(one, self.exists_one(other, one.port == other.port && \
     one.addresses.exists(address, address in other.addresses)) || size(one.addresses) == 0)",
    "fallback must name a server (address and port) once only",
);

/// Fallback: no server of the upstreams, which are silent when the fallback is asked. The API server evaluates the rule
/// on the default of `resolvers` too, which has no field.
pub(super) const FALLBACK_IS_NO_UPSTREAM: Rule = Rule::new(
    "!has(self.fallback) || !has(self.upstreams) || \
     self.fallback.all(one, !self.upstreams.exists(other, one.port == other.port && \
     one.addresses.exists(address, address in other.addresses)))",
    "fallback must not name a server that upstreams names",
)
.at(".fallback");

// Packet budgets

/// Packet budget: either the limits of a cloud or own figures.
pub(super) const BUDGET_HAS_A_RATE: Rule = Rule::new(
    "has(self.preset) != has(self.packetsPerSecond)",
    "packetBudget must have either preset (AWS, Azure or Huawei) or packetsPerSecond",
);

/// Packet budget: a preset says whether there is a limit of queries in flight.
pub(super) const PRESET_HAS_ITS_IN_FLIGHT: Rule = Rule::new(
    "!has(self.inFlight) || !has(self.preset)",
    "packetBudget.inFlight goes with packetsPerSecond; a preset has its own",
);

// Amounts

/// Duration as in the Gateway API, in whole seconds.
pub(super) const DURATION: Rule = Rule::new(
    "self.matches('^([0-9]{1,5}[hms]){1,4}$')",
    "a duration must be written in whole hours, minutes and seconds, like 30s, 5m, 24h or 1h30m; for a day write 24h",
);

/// `maxTtl`: RFC 8767 §4 recommends a week at the most.
pub(super) const MAX_TTL: Rule = Rule::new(
    "!self.matches('^([0-9]{1,5}[hms]){1,4}$') || duration(self) >= duration('1s') && \
     duration(self) <= duration('168h')",
    "maxTtl must be from 1s to 168h",
);

/// `negativeMaxTtl`: RFC 2308 §5 found one to three hours to work well.
pub(super) const NEGATIVE_MAX_TTL: Rule = Rule::new(
    "!self.matches('^([0-9]{1,5}[hms]){1,4}$') || duration(self) >= duration('1s') && duration(self) <= duration('3h')",
    "negativeMaxTtl must be from 1s to 3h",
);

/// `serveStale`: RFC 8767 §5 suggests one to three days.
pub(super) const SERVE_STALE: Rule = Rule::new(
    "!self.matches('^([0-9]{1,5}[hms]){1,4}$') || duration(self) <= duration('168h')",
    "serveStale must be from 0s (never) to 168h",
);

/// Last resort: a rate limits what is sent.
pub(super) const RATE_GOES_WITH_UPSTREAMS: Rule = Rule::new(
    "self.mode == 'Upstreams' || !has(self.packetsPerSecond)",
    "lastResort.packetsPerSecond goes with mode Upstreams",
)
.at(".packetsPerSecond");

/// Size: a number of bytes.
pub(super) const SIZE: Rule = Rule::new(
    "self.matches('^[0-9]{1,12}([.][0-9]{1,3})?(k|M|G|Ki|Mi|Gi)?$')",
    "size must be a quantity of bytes with one of the units Ki, Mi, Gi, k, M and G, like 64Mi or 1Gi",
);

/// Size: a smaller cache holds hardly anything, a larger one is a mistake in the unit.
pub(super) const SIZE_IN_RANGE: Rule = Rule::new(
    "!self.matches('^[0-9]{1,12}([.][0-9]{1,3})?(k|M|G|Ki|Mi|Gi)?$') || \
     !quantity(self).isLessThan(quantity('8Mi')) && !quantity(self).isGreaterThan(quantity('64Gi'))",
    "size must be from 8Mi to 64Gi",
);

// Roll-outs

/// Size of a wave: a percentage or a number.
pub(super) const WAVE_SIZE: Rule = Rule::new(
    "type(self) == int ? self >= 1 && self <= 500 : \
     type(self) == string && self.matches('^([1-9][0-9]?|100)%$')",
    "waveSize must be a percentage from 1% to 100%, or a number from 1 to 500",
);

/// `soak`: a pod may need some seconds to take over a configuration; what takes longer than a day is no roll-out.
pub(super) const SOAK: Rule = Rule::new(
    "!self.matches('^([0-9]{1,5}[hms]){1,4}$') || duration(self) >= duration('5s') && \
     duration(self) <= duration('24h')",
    "soak must be from 5s to 24h",
);

/// Name of a probe: a domain name, with `_` as in service names.
pub(super) const PROBE_NAME: Rule = Rule::new(
    "self.matches('^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?([.][a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$')",
    "the name of a probe must be a domain name in lower case without a final dot, like www.corp.example",
);

// Pods

/// Image: the grammar of image references (distribution/reference).
pub(super) const IMAGE: Rule = Rule::new(
    "self.matches('^([a-zA-Z0-9.-]+(:[0-9]{1,5})?/)?[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*\
     (/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?$')",
    "image must be a reference to an image, like registry.example/dnstier/dnstier-node-cache:0.1.0, with or without \
     @sha256: and its digest",
);

/// Quantity of a resource, as a number or as text.
pub(super) const QUANTITY: Rule = Rule::new(
    "type(self) == int ? self >= 0 : isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
    "an amount of a resource must be a quantity that is not negative, like 100m or 128Mi",
);

/// Resources: the API server rejects a pod whose request exceeds its limit.
pub(super) const REQUESTS_WITHIN_LIMITS: Rule = Rule::new(
    "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || \
     !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || \
     !quantity(string(self.requests[name])).isGreaterThan(quantity(string(self.limits[name]))))",
    "resources.requests must not be larger than resources.limits",
);

/// Memory limit: a process whose cache does not fit is killed repeatedly.
pub(super) const CACHE_FITS_MEMORY: Rule = Rule::new(
    "!has(self.resources) || !has(self.resources.limits) || !('memory' in self.resources.limits) || \
     !isQuantity(string(self.resources.limits['memory'])) || !isQuantity(self.cache.size) || \
     quantity(string(self.resources.limits['memory'])).isGreaterThan(quantity(self.cache.size))",
    "resources.limits.memory must be larger than cache.size, or left out: it then follows from cache.size",
)
.at(".resources");

/// Keys and values that the API server accepts as labels.
const ARE_LABELS: &str = "self.all(key, !format.qualifiedName().validate(key).hasValue() && \
                          !format.labelValue().validate(self[key]).hasValue())";

/// Node selector: labels.
pub(super) const NODE_SELECTOR: Rule = Rule::new(
    ARE_LABELS,
    "nodeSelector must have keys like example.com/name and values of at most 63 letters, digits, '-', '_' and '.'",
);

/// Node selector: no other operating system than that of the images.
pub(super) const LINUX: Rule = Rule::new(
    "!('kubernetes.io/os' in self) || self['kubernetes.io/os'] == 'linux'",
    "nodeSelector must not ask for another kubernetes.io/os than linux: the images are for Linux, and the tier leaves \
     other nodes out by itself",
);

/// Pod labels: labels.
pub(super) const POD_LABELS: Rule = Rule::new(
    ARE_LABELS,
    "podLabels must have keys like example.com/name and values of at most 63 letters, digits, '-', '_' and '.'",
);

/// Pod annotations: keys that the API server accepts as annotations.
pub(super) const ANNOTATIONS: Rule = Rule::new(
    "self.all(key, !format.qualifiedName().validate(key.lowerAscii()).hasValue())",
    "podAnnotations must have keys like example.com/name",
);

/// Pod labels: not those by which the tier or Kubernetes selects pods.
pub(super) const OWN_LABELS: Rule = Rule::new(
    "!self.exists(key, key.startsWith('dnstier.io/') || key in ['app.kubernetes.io/name', \
     'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/part-of', \
     'app.kubernetes.io/managed-by', \
     'controller-revision-hash', 'pod-template-generation', 'pod-template-hash', 'topology.kubernetes.io/zone', \
     'topology.kubernetes.io/region'])",
    "podLabels must not set what pods are found by: labels that begin with dnstier.io/, the labels name, instance, \
     component, part-of and managed-by of app.kubernetes.io/, and those that Kubernetes sets itself",
);

/// Pod annotations: not those of the tier, which carry revision and zone.
pub(super) const OWN_ANNOTATIONS: Rule = Rule::new(
    "!self.exists(key, key.startsWith('dnstier.io/'))",
    "podAnnotations must not begin with dnstier.io/: the tier sets these itself",
);

/// Name of a PriorityClass.
pub(super) const PRIORITY_CLASS: Rule = Rule::new(
    "!format.dns1123Subdomain().validate(self).hasValue()",
    "priorityClassName must be the name of a PriorityClass, like system-node-critical",
);

/// Toleration as the API server accepts it.
pub(super) const TOLERATIONS: Rule = Rule::new(
    "self.all(one, (!has(one.operator) || one.operator in ['Exists', 'Equal']) && \
     (!has(one.effect) || one.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']) && \
     (!has(one.operator) || one.operator != 'Exists' || !has(one.value) || one.value == '') && \
     (has(one.key) && one.key != '' || has(one.operator) && one.operator == 'Exists') && \
     (!has(one.tolerationSeconds) || has(one.effect) && one.effect == 'NoExecute'))",
    "a toleration must have operator Equal with a key, or Exists without a value; effect NoSchedule, PreferNoSchedule, \
     NoExecute or none; and tolerationSeconds with effect NoExecute only",
);
