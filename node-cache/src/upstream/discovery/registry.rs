//! Registry of all server groups of a process. A group that a new revision requests again is reused with the health,
//! latency and counters of its servers; groups that it does not request are dropped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use node_cache_config::{PacketBudget, Upstream};
use tokio::task::JoinHandle;

use super::headless::{self, RefreshInterval};
use crate::dnstap::Tap;
use crate::metrics::{Metrics, scope_kind};
use crate::upstream::budget::{Budget, BudgetLimits};
use crate::upstream::pool::recovery::probe_down_servers;
use crate::upstream::pool::{Pool, Selection};
use crate::upstream::server::group::Group;
use crate::upstream::server::{PacketPace, PacketRate, Role, UpstreamContext};
use crate::upstream::transport::query_format::EdnsUse;
use crate::upstream::watch::{WatchedServers, watch_upstreams};

/// Identity of a group across revisions.
#[derive(Clone, Debug)]
struct GroupKey {
    scope: String,
    servers: Vec<Upstream>,
    service: Option<String>,
    cluster_dns: Option<Arc<Group>>,
    reserve: Option<ReserveKind>,
}

/// Kind of a group that is the reserve of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReserveKind {
    /// The fallback of a zone resolver.
    Fallback,
    /// The last resort of a node, with its rate.
    LastResort(PacketRate),
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &Self) -> bool {
        let cluster_dns = |key: &Self| key.cluster_dns.as_ref().map(Arc::as_ptr);
        (&self.scope, &self.servers, &self.service, self.reserve)
            == (&other.scope, &other.servers, &other.service, other.reserve)
            && cluster_dns(self) == cluster_dns(other)
    }
}

/// A group and the task that discovers its servers, which ends when this is dropped.
#[derive(Debug)]
struct GroupHandle {
    group: Arc<Group>,
    refresh_task: Option<JoinHandle<()>>,
}

impl Drop for GroupHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.refresh_task {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Entry {
    key: GroupKey,
    handle: GroupHandle,
    /// Whether the current update has requested the group.
    is_requested: bool,
}

/// A packet budget of some servers. It outlives a change of its limits, so that no revision gives a second budget.
#[derive(Clone, Debug)]
struct BudgetEntry {
    /// List of upstreams that names it.
    list: String,
    servers: Vec<SocketAddr>,
    budget: Arc<Budget>,
}

/// Packet budgets of a list of upstreams.
#[derive(Debug)]
pub(crate) struct Budgets(Vec<BudgetEntry>);

impl Budgets {
    /// Returns the budget of a server.
    fn of(&self, server: SocketAddr) -> Option<Arc<Budget>> {
        let entry = self.0.iter().find(|entry| entry.servers.contains(&server));
        entry.map(|entry| entry.budget.clone())
    }
}

/// Registry of the server groups in use.
#[derive(Debug, Default)]
pub struct GroupRegistry {
    entries: Vec<Entry>,
    budgets: Vec<BudgetEntry>,
    context: Arc<UpstreamContext>,
    watched: Arc<WatchedServers>,
    metrics: Arc<Metrics>,
}

impl GroupRegistry {
    /// Creates a registry without groups, in a process with these metrics. Messages to and from its servers are offered
    /// to `tap`.
    #[must_use]
    pub fn new(tap: Arc<Tap>, metrics: Arc<Metrics>) -> Self {
        let context = Arc::new(UpstreamContext::new(tap));
        Self { entries: Vec::new(), budgets: Vec::new(), context, watched: Arc::default(), metrics }
    }

    /// Returns the state shared by the servers of all groups.
    #[must_use]
    pub const fn context(&self) -> &Arc<UpstreamContext> {
        &self.context
    }

    /// Applies a new revision: `request_groups` requests the groups of the revision, and all other groups are dropped
    /// afterwards. Returns its result.
    ///
    /// Must be called inside a Tokio runtime.
    pub fn apply<T>(&mut self, request_groups: impl FnOnce(&mut RegistryUpdate<'_>) -> T) -> T {
        for entry in &mut self.entries {
            entry.is_requested = false;
        }
        let mut update = RegistryUpdate { registry: self, budgets: Vec::new(), budget_sums: BTreeMap::new() };
        let result = request_groups(&mut update);
        let RegistryUpdate { budgets, budget_sums, .. } = update;
        for (scope, counts) in self.context.packets.all() {
            counts.set_budget(budget_sums.get(&scope).copied().unwrap_or_default());
        }
        self.budgets = budgets;
        self.entries.retain(|entry| entry.is_requested);
        result
    }
}

/// Update of a [`GroupRegistry`] to a new revision.
#[derive(Debug)]
pub struct RegistryUpdate<'a> {
    registry: &'a mut GroupRegistry,
    /// Budgets that were requested.
    budgets: Vec<BudgetEntry>,
    /// Packets a second of all budgets, by the kind of scope.
    budget_sums: BTreeMap<String, u64>,
}

impl RegistryUpdate<'_> {
    /// Requests the packet budgets of a list of upstreams.
    pub(crate) fn budgets(&mut self, list: &str, budgets: &[PacketBudget]) -> Budgets {
        let now = Instant::now();
        let mut entries: Vec<BudgetEntry> = Vec::new();
        for PacketBudget { servers, packets_per_second, in_flight, processes } in budgets {
            let whole = BudgetLimits { packets_per_second: *packets_per_second, in_flight: *in_flight };
            let limits = whole.divided_by(*processes);
            // Of two budgets that were one, the first goes on with it.
            let is_known = |known: &&BudgetEntry| {
                known.list == list
                    && known.servers.iter().any(|server| servers.contains(server))
                    && !entries.iter().any(|entry| Arc::ptr_eq(&entry.budget, &known.budget))
            };
            let known = self.registry.budgets.iter().find(is_known).map(|known| known.budget.clone());
            let budget = known.unwrap_or_else(|| Arc::new(Budget::new(limits, now)));
            budget.set_limits(limits);
            entries.push(BudgetEntry { list: list.to_owned(), servers: servers.clone(), budget });
        }
        self.budgets.extend(entries.iter().cloned());
        Budgets(entries)
    }

    /// Requests the group of these servers, some of which have packet budgets.
    pub(crate) fn fixed_within(&mut self, scope: &str, servers: &[Upstream], budgets: &Budgets) -> Arc<Group> {
        let group = self.fixed(scope, servers);
        self.set_budgets(&group, servers, budgets);
        group
    }

    /// Gives the servers of a group their packet budgets, and counts those for its scope.
    fn set_budgets(&mut self, group: &Group, servers: &[Upstream], budgets: &Budgets) {
        group.set_budgets(|server| budgets.of(server));
        let is_used = |entry: &&BudgetEntry| servers.iter().any(|server| entry.servers.contains(&server.address));
        let used = budgets.0.iter().filter(is_used).map(|entry| u64::from(entry.budget.packets_per_second()));
        *self.budget_sums.entry(scope_kind(group.scope()).to_owned()).or_default() += used.sum::<u64>();
    }

    /// Requests the group of these servers.
    pub fn fixed(&mut self, scope: &str, servers: &[Upstream]) -> Arc<Group> {
        self.named(scope, servers, None)
    }

    /// Requests the group of these servers as a fallback: the reserve of a pool.
    pub(crate) fn fallback(&mut self, scope: &str, servers: &[Upstream], budgets: &Budgets) -> Arc<Group> {
        let group = self.named(scope, servers, Some(ReserveKind::Fallback));
        self.set_budgets(&group, servers, budgets);
        group
    }

    /// Requests the group of these servers as a last resort: the reserve of a pool that is queried at this rate only,
    /// and within the packet budgets of the servers.
    pub(crate) fn last_resort(
        &mut self,
        scope: &str,
        servers: &[Upstream],
        rate: PacketRate,
        budgets: &Budgets,
    ) -> Arc<Group> {
        let group = self.named(scope, servers, Some(ReserveKind::LastResort(rate)));
        self.set_budgets(&group, servers, budgets);
        group
    }

    fn named(&mut self, scope: &str, servers: &[Upstream], reserve: Option<ReserveKind>) -> Arc<Group> {
        let (scope, servers) = (scope.to_owned(), servers.to_vec());
        let key = GroupKey { scope, servers, service: None, cluster_dns: None, reserve };
        self.request(key, |group| GroupHandle { group, refresh_task: None })
    }

    /// Requests the group of the servers behind a headless Service, discovered through `cluster_dns`. `None` stands
    /// for the group itself: the cluster DNS is discovered through its own bootstrap servers.
    pub(crate) fn discovered(
        &mut self,
        scope: &str,
        bootstrap: &[SocketAddr],
        service: &str,
        cluster_dns: Option<&Arc<Group>>,
        interval: RefreshInterval,
    ) -> Arc<Group> {
        let servers = bootstrap.iter().copied().map(Upstream::from).collect();
        let key = GroupKey {
            scope: scope.to_owned(),
            servers,
            service: Some(service.to_owned()),
            cluster_dns: cluster_dns.cloned(),
            reserve: None,
        };
        self.request(key, |group| {
            let weak = Arc::downgrade(&group);
            let queried = cluster_dns.unwrap_or(&group).clone();
            let pool = Pool::new(vec![vec![queried]], Selection::PowerOfTwo);
            let task = tokio::spawn(headless::refresh(weak, pool, service.to_owned(), interval));
            GroupHandle { group, refresh_task: Some(task) }
        })
    }

    fn request(&mut self, key: GroupKey, start: impl FnOnce(Arc<Group>) -> GroupHandle) -> Arc<Group> {
        let GroupRegistry { entries, context, watched, metrics, .. } = &mut *self.registry;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
            entry.is_requested = true;
            return entry.handle.group.clone();
        }
        // With other bootstrap addresses the Service is still the same, and so are the servers behind it.
        let discovered = entries
            .iter()
            .find(|entry| key.service.is_some() && entry.key.service == key.service)
            .map(|entry| entry.handle.group.discovered());
        // What is discovered through the cluster DNS are the resolvers of a zone.
        let role = match key.reserve {
            None if key.service.is_none() => Role::Upstream,
            None => Role::Regular,
            Some(ReserveKind::Fallback) => Role::Reserve(None),
            Some(ReserveKind::LastResort(rate)) => Role::Reserve(Some(Arc::new(PacketPace::new(rate, Instant::now())))),
        };
        let edns = if key.cluster_dns.is_some() { EdnsUse::Required } else { EdnsUse::Preferred };
        let group = Group::new(&key.scope, &key.servers, &discovered.unwrap_or_default(), edns, role, context);
        let handle = start(Arc::new(group));
        tokio::spawn(probe_down_servers(Arc::downgrade(&handle.group)));
        let group = handle.group.clone();
        if !group.watched().is_empty() && watched.add(group.watched()) {
            tokio::spawn(watch_upstreams(Arc::downgrade(watched), metrics.clone()));
        }
        entries.push(Entry { key, handle, is_requested: true });
        group
    }
}

#[cfg(test)]
mod tests {
    use super::headless::LOCAL_ZONE;
    use super::*;

    const SERVICE: &str = "dns.example.svc.cluster.local";

    fn upstream(address: &str) -> Upstream {
        address.parse::<SocketAddr>().unwrap().into()
    }

    #[tokio::test]
    async fn a_group_that_is_requested_again_is_the_same_and_others_are_dropped() {
        let mut registry = GroupRegistry::default();
        let one = [upstream("192.0.2.1:53")];
        let two = [upstream("192.0.2.2:53")];
        let first = registry.apply(|update| [update.fixed("one", &one), update.fixed("two", &two)]);
        let dropped = Arc::downgrade(&first[1]);
        let second = registry.apply(|update| update.fixed("one", &one));
        assert!(Arc::ptr_eq(&first[0], &second));
        drop(first);
        assert!(dropped.upgrade().is_none());
        assert!(!Arc::ptr_eq(&second, &registry.apply(|update| update.fixed("one", &two))));
    }

    #[tokio::test]
    async fn other_bootstrap_addresses_make_another_group_with_the_discovered_servers() {
        let mut registry = GroupRegistry::default();
        let bootstrap = ["192.0.2.1:53", "192.0.2.2:53"].map(|address| address.parse::<SocketAddr>().unwrap());
        let mut discovered = |bootstrap: SocketAddr| {
            registry.apply(|update| update.discovered("cluster", &[bootstrap], SERVICE, None, LOCAL_ZONE))
        };
        let first = discovered(bootstrap[0]);
        let addresses = ["192.0.2.3:53".parse().unwrap()];
        first.set_discovered(&addresses);
        let second = discovered(bootstrap[1]);
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(second.discovered(), addresses);
    }

    fn packet_budget(servers: &[&str], packets_per_second: u32, processes: u32) -> PacketBudget {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        PacketBudget { servers, packets_per_second, in_flight: None, processes }
    }

    #[tokio::test]
    async fn a_budget_outlives_a_change_of_its_limits_and_its_group_too() {
        let mut registry = GroupRegistry::default();
        let servers = [upstream("192.0.2.1:53"), upstream("192.0.2.2:53")];
        let mut apply = |budgets: &[PacketBudget]| {
            let requested = registry.apply(|update| {
                let budgets = update.budgets("resolver", budgets);
                let group = update.fixed_within("forward", &servers, &budgets);
                (group, servers.each_ref().map(|server| budgets.of(server.address)))
            });
            (requested, registry.context().packets.of_scope("forward").budget())
        };
        let ((group, before), sum) = apply(&[packet_budget(&["192.0.2.1:53", "192.0.2.2:53"], 900, 2)]);
        let budget = before[0].clone().unwrap();
        assert_eq!((budget.packets_per_second(), sum), (450, 450));
        assert!(Arc::ptr_eq(&budget, before[1].as_ref().unwrap()), "both servers share it");
        let ((again, after), sum) = apply(&[packet_budget(&["192.0.2.2:53"], 300, 1)]);
        assert!(Arc::ptr_eq(&group, &again) && Arc::ptr_eq(&budget, after[1].as_ref().unwrap()));
        assert_eq!((budget.packets_per_second(), after[0].is_none(), sum), (300, true, 300));
        let ((again, after), sum) = apply(&[]);
        assert!(Arc::ptr_eq(&group, &again) && after.iter().all(Option::is_none));
        assert_eq!(sum, 0);
    }
}
