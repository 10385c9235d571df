//! Discovery through a headless Service: SRV records for names and ports, A and AAAA records for addresses, queried
//! from the cluster DNS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use node_cache_config::names::{RESOLVER_DRAIN, TCP_PORT_NAME, UDP_PORT_NAME};
use tokio::time::Instant;

use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Record, Response, ResponseTtl};
use crate::upstream::error::NoAnswer;
use crate::upstream::pool::{Pool, QueryPurpose};
use crate::upstream::server::group::Group;

/// Timeout of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most SRV targets of a Service, and most addresses of a target.
const MAX_SERVERS: usize = 64;
/// Delay of a refresh after a server went down, and so the shortest interval between two such refreshes.
const REFRESH_DELAY_AFTER_DOWN: Duration = Duration::from_millis(500);

/// Ways to ask for the servers of a Service: by the name of its UDP or its TCP port, each with any DO and CD. A cluster
/// DNS keeps the response to each of them apart, so that what it caches, a denial or a list of servers that have ended,
/// concerns one of them only.
const QUESTION_VARIANTS: u32 = 8;
/// Shortest and longest interval of the tries to discover the first servers of a group.
const FIRST_TRY_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// Deviation of each delay, in percent of it either way: caches of many nodes that start together do not query the
/// cluster DNS together for long.
const JITTER_PERCENT: u32 = 20;
/// Longest delay of the first query of a group that has bootstrap servers, which answer until then.
const FIRST_QUERY_SPREAD: Duration = Duration::from_secs(1);

/// Bounds of the interval at which a group is refreshed. Within them, the TTL of the records decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefreshInterval {
    min: Duration,
    max: Duration,
}

/// Refresh interval of servers that are queried all the time.
pub(crate) const LOCAL_ZONE: RefreshInterval =
    RefreshInterval { min: Duration::from_secs(2), max: Duration::from_secs(5) };
/// Refresh interval of servers that are queried when those of the own zone are down.
pub(crate) const REMOTE_ZONE: RefreshInterval =
    RefreshInterval { min: Duration::from_secs(5), max: Duration::from_secs(6) };

impl RefreshInterval {
    /// Returns the delay before the next refresh after one that found records of this TTL.
    fn delay_after_success(self, ttl: Duration) -> Duration {
        ttl.clamp(self.min, self.max)
    }

    /// Returns the delay before the next refresh after `failures` in a row, at least one: twice as long each time.
    fn delay_after_failures(self, failures: u32) -> Duration {
        self.min.saturating_mul(1 << (failures - 1).min(8)).min(self.max)
    }

    /// Returns the longest time in milliseconds between the starts of two refreshes, the second of which finds out that
    /// a server has left: with a query that times out, and with jitter.
    const fn longest_period_ms(self) -> u128 {
        self.max.as_millis() * (100 + JITTER_PERCENT as u128) / 100 + QUERY_TIMEOUT.as_millis()
    }
}

// A resolver that has left is not queried any more when it ends.
const _: () = assert!(LOCAL_ZONE.longest_period_ms() < RESOLVER_DRAIN.as_millis());
const _: () = assert!(REMOTE_ZONE.longest_period_ms() < RESOLVER_DRAIN.as_millis());
const _: () = assert!(FIRST_TRY_INTERVAL.1.as_millis() < REMOTE_ZONE.max.as_millis());

/// Returns a delay that deviates from this one by [`JITTER_PERCENT`] at most; `random` is from 0 to 1.
fn jittered(delay: Duration, random: f64) -> Duration {
    let deviation = f64::from(JITTER_PERCENT) / 100.0;
    delay.mul_f64(1.0 - deviation + 2.0 * deviation * random)
}

/// Returns the delay before the first query of a group; `random` is from 0 to 1. Without servers, clients wait for it.
fn first_delay(has_servers: bool, random: f64) -> Duration {
    if has_servers { FIRST_QUERY_SPREAD.mul_f64(random) } else { Duration::ZERO }
}

/// Failure to discover the servers of a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum DiscoveryError {
    /// The cluster DNS did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The name of the Service is not a domain name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cluster DNS has no SRV record, or no address of any target. The text is the rcode or the reason; `ttl` is
    /// how long the cluster DNS may repeat it.
    #[error("the cluster DNS has no servers for {name} ({reason})")]
    NoServers { reason: &'static str, name: Name, ttl: Duration },
}

/// Addresses of the servers of a Service, sorted, and the lowest TTL of their records.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiscoveredServers {
    addresses: Vec<SocketAddr>,
    ttl: Duration,
}

/// Keeps the discovered servers of `group` up to date with the headless Service `service` until the group is dropped:
/// refreshes them at once, or within a second where it has servers already, then at `interval`, and soon after a
/// server went down, in another way than before: the cluster DNS may repeat from its cache that the server is there. A
/// failed refresh keeps the last servers, and the next one asks in another way, too. While there are none it tries more
/// often.
pub(super) async fn refresh(group: Weak<Group>, cluster_dns: Pool, service: String, interval: RefreshInterval) {
    let mut failures = 0;
    let mut variant = 0;
    let has_servers = group.upgrade().is_some_and(|group| !group.servers().is_empty());
    tokio::time::sleep(first_delay(has_servers, rand::random())).await;
    loop {
        let result = discover(&cluster_dns, &service, variant).await;
        let Some(group) = group.upgrade() else { return };
        let delay = match result {
            Ok(servers) => {
                failures = 0;
                group.set_discovered(&servers.addresses);
                interval.delay_after_success(servers.ttl)
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(scope = group.scope(), service, %error, "servers cannot be discovered");
                }
                failures += 1;
                variant = next_variant(variant);
                if group.discovered().is_empty() {
                    first_try_delay(&error)
                } else {
                    interval.delay_after_failures(failures)
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(jittered(delay, rand::random())) => {}
            () = group.wait_until_server_down() => {
                variant = next_variant(variant);
                tokio::time::sleep(jittered(REFRESH_DELAY_AFTER_DOWN, rand::random())).await;
            }
        }
    }
}

/// Returns the variant after this one, in turns.
const fn next_variant(variant: u32) -> u32 {
    (variant + 1) % QUESTION_VARIANTS
}

/// Returns the delay after a try in vain to discover the first servers of a group. A denial that the cluster DNS caches
/// is over before its question is asked again.
fn first_try_delay(error: &DiscoveryError) -> Duration {
    let (shortest, longest) = FIRST_TRY_INTERVAL;
    match error {
        DiscoveryError::NoServers { ttl, .. } => (*ttl / QUESTION_VARIANTS).clamp(shortest, longest),
        DiscoveryError::NoAnswer(_) | DiscoveryError::Name(_) => shortest,
    }
}

/// Returns the name of the SRV records of a Service, and the question for a record, in one of the variants.
fn question_variant(service: &str, variant: u32) -> Result<(Name, impl Fn(&Name, u16) -> Question + use<>), NameError> {
    let (dnssec_ok, checking_disabled) = (variant & 2 != 0, variant & 4 != 0);
    let port = if variant & 1 == 0 { format!("_{UDP_PORT_NAME}._udp") } else { format!("_{TCP_PORT_NAME}._tcp") };
    let question = move |name: &Name, rtype| Question { dnssec_ok, checking_disabled, ..Question::plain(name, rtype) };
    Ok((Name::from_text(&format!("{port}.{service}"))?, question))
}

/// Discovers the servers of a headless Service, by one of the [`QUESTION_VARIANTS`].
///
/// # Errors
///
/// [`DiscoveryError`] when there is no address at all.
async fn discover(cluster_dns: &Pool, service: &str, variant: u32) -> Result<DiscoveredServers, DiscoveryError> {
    let (name, question) = question_variant(service, variant)?;
    let query = async |name: &Name, rtype| {
        let question = Arc::new(question(name, rtype));
        cluster_dns.query(question, QueryPurpose::Refresh, Instant::now(), QUERY_TIMEOUT).await.into_result()
    };
    let response = query(&name, rtype::SRV).await?;
    if response.is_truncated() {
        let reason = "a truncated response, and none over TCP";
        return Err(DiscoveryError::NoServers { reason, name, ttl: Duration::ZERO });
    }
    let mut ttl = u32::MAX;
    let mut ports: HashMap<Name, u16> = HashMap::new();
    let mut hosts: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for record in response.records() {
        ttl = ttl.min(record.ttl);
        if let Some((port, target)) = parse_srv(&response, &record).filter(|_| ports.len() < MAX_SERVERS) {
            ports.insert(target, port);
        }
        add_address(&response, &record, &mut hosts);
    }
    if ports.is_empty() {
        let ttl = match response.ttl() {
            ResponseTtl::Positive(ttl) | ResponseTtl::Negative(ttl) => Duration::from_secs(ttl.into()),
            ResponseTtl::Uncacheable => Duration::ZERO,
        };
        return Err(DiscoveryError::NoServers { reason: rcode::name(response.rcode()), name, ttl });
    }
    for target in ports.keys().filter(|target| !hosts.contains_key(*target)).cloned().collect::<Vec<_>>() {
        for rtype in [rtype::A, rtype::AAAA] {
            let response = query(&target, rtype).await?;
            response.records().iter().for_each(|record| add_address(&response, record, &mut hosts));
        }
    }
    let mut addresses: Vec<SocketAddr> = ports
        .iter()
        .flat_map(|(target, port)| {
            hosts.get(target).into_iter().flatten().map(|address| SocketAddr::new(*address, *port))
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        let ttl = Duration::from_secs(ttl.into());
        return Err(DiscoveryError::NoServers { reason: "no address of any target", name, ttl });
    }
    Ok(DiscoveredServers { addresses, ttl: Duration::from_secs(ttl.into()) })
}

/// Returns port and target of an SRV record (RFC 2782); `None` for other records and for port 0.
fn parse_srv(response: &Response, record: &Record) -> Option<(u16, Name)> {
    if record.rtype != rtype::SRV || record.data.len() < 7 {
        return None;
    }
    let data = &response.wire()[record.data.clone()];
    let port = u16::from_be_bytes([data[4], data[5]]);
    let target = Name::read(response.wire(), record.data.start + 6).ok()?;
    (port != 0).then(|| (port, target.lower()))
}

/// Adds the address of an A or AAAA record to those of its owner name.
fn add_address(response: &Response, record: &Record, hosts: &mut HashMap<Name, Vec<IpAddr>>) {
    let data = &response.wire()[record.data.clone()];
    let address: Option<IpAddr> = match record.rtype {
        rtype::A => <[u8; 4]>::try_from(data).ok().map(|octets| Ipv4Addr::from(octets).into()),
        rtype::AAAA => <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    if let (Some(address), Some(owner)) = (address, response.owner(record)) {
        let addresses = hosts.entry(owner.lower()).or_default();
        if !addresses.contains(&address) && addresses.len() < MAX_SERVERS {
            addresses.push(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn delays_deviate_by_a_fifth_so_that_5000_nodes_soon_ask_at_different_times() {
        let mut rng = SmallRng::seed_from_u64(18);
        let second = Duration::from_secs(1);
        assert_eq!([0.0, 0.5, 1.0].map(|random| jittered(10 * second, random)), [8, 10, 12].map(|each| each * second));
        // Refreshes of 5,000 nodes that start within the spread, counted by the half second, a minute later.
        let mut counts = HashMap::new();
        for _ in 0..5_000 {
            let mut time = first_delay(true, rng.random());
            assert!(time <= FIRST_QUERY_SPREAD);
            while time < 120 * second {
                let delay = jittered(LOCAL_ZONE.max, rng.random());
                assert!(delay >= 4 * second && delay <= 6 * second);
                time += delay;
                *counts.entry(time.as_millis() / 500).or_insert(0_usize) += usize::from(time > 60 * second);
            }
        }
        // Ten half seconds a period, so 500 in each if all are even; 5,000 if all ask together.
        let most = counts.into_values().max().unwrap();
        assert!(most < 1_000, "{most}");
        assert_eq!(first_delay(false, 0.9), Duration::ZERO, "clients wait for the first servers");
    }

    #[test]
    fn failed_refreshes_are_repeated_less_often_and_still_within_the_drain_time_of_a_resolver() {
        for interval in [LOCAL_ZONE, REMOTE_ZONE] {
            let delays: Vec<_> = (1..100).map(|failures| interval.delay_after_failures(failures)).collect();
            assert_eq!((delays[0], *delays.last().unwrap()), (interval.min, interval.max));
            assert!(delays.is_sorted());
            let longest = jittered(interval.max, 1.0) + QUERY_TIMEOUT;
            assert!(longest < RESOLVER_DRAIN && longest.as_millis() == interval.longest_period_ms());
            assert_eq!(interval.delay_after_success(Duration::from_secs(3600)), interval.max);
        }
    }

    #[test]
    fn every_variant_is_another_question_and_a_denial_is_over_before_it_is_asked_again() {
        let question = |variant| {
            let (name, question) = question_variant("dns.example.svc.cluster.local", variant).unwrap();
            let Question { name, dnssec_ok, checking_disabled, .. } = question(&name, rtype::SRV);
            (name.to_string(), dnssec_ok, checking_disabled)
        };
        let variants: HashSet<_> = (0..QUESTION_VARIANTS).map(question).collect();
        assert_eq!(variants.len(), QUESTION_VARIANTS as usize);
        let denied = |seconds| {
            let ttl = Duration::from_secs(seconds);
            first_try_delay(&DiscoveryError::NoServers { reason: "NXDOMAIN", name: Name::root(), ttl })
        };
        for seconds in [5, 30] {
            assert!(denied(seconds) * QUESTION_VARIANTS >= Duration::from_secs(seconds));
        }
        assert!(denied(30) < Duration::from_secs(5) && denied(3600) < Duration::from_secs(5));
        assert_eq!(first_try_delay(&NoAnswer.into()), Duration::from_secs(1));
    }
}
