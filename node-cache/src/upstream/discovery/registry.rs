//! All groups of a process. A group that a new revision needs again is the same one, with all that is known of its
//! servers; one that nobody needs any more is forgotten.

use std::sync::Arc;

use node_cache_config::{Protocol, Upstream};

use super::headless::{self as discovery, GroupHandle, RefreshInterval};
use crate::dnstap::Tap;
use crate::upstream::pool::{Pool, Selection, recovery as revival};
use crate::upstream::server::{Group, UpstreamContext};

/// What makes a group the same in another revision.
#[derive(Clone, Debug)]
struct GroupKey {
    scope: String,
    servers: Vec<Upstream>,
    service: Option<String>,
    cluster_dns: Option<Arc<Group>>,
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &Self) -> bool {
        let pointer = |described: &Self| described.cluster_dns.as_ref().map(Arc::as_ptr);
        (&self.scope, &self.servers, &self.service) == (&other.scope, &other.servers, &other.service)
            && pointer(self) == pointer(other)
    }
}

#[derive(Debug)]
struct Entry {
    described: GroupKey,
    followed: GroupHandle,
    needed: bool,
}

/// The groups in use.
#[derive(Debug, Default)]
pub struct GroupRegistry {
    pages: Vec<Entry>,
    context: Arc<UpstreamContext>,
}

impl GroupRegistry {
    /// A book without groups, the messages of whose servers can be looked at here.
    #[must_use]
    pub fn new(tap: Arc<Tap>) -> Self {
        Self { pages: Vec::new(), context: Arc::new(UpstreamContext { tap, ..UpstreamContext::default() }) }
    }

    /// What the servers of all groups share.
    #[must_use]
    pub const fn context(&self) -> &Arc<UpstreamContext> {
        &self.context
    }

    /// Begins a new revision: from here on groups are asked for again, until [`Self::forget_others`].
    pub fn begin(&mut self) {
        for page in &mut self.pages {
            page.needed = false;
        }
    }

    /// The group of these servers.
    ///
    /// Must be called inside a Tokio runtime.
    pub fn fixed(&mut self, scope: &str, servers: &[Upstream]) -> Arc<Group> {
        let described =
            GroupKey { scope: scope.to_owned(), servers: servers.to_vec(), service: None, cluster_dns: None };
        self.page(described, |group| GroupHandle { group, task: None })
    }

    /// The group of the servers behind a headless Service, looked for in the cluster DNS; none names the group itself
    /// as that (the cluster DNS is found by asking it).
    ///
    /// Must be called inside a Tokio runtime.
    pub fn discovered(
        &mut self,
        scope: &str,
        bootstrap: &[std::net::SocketAddr],
        service: &str,
        cluster_dns: Option<&Arc<Group>>,
        interval: RefreshInterval,
    ) -> Arc<Group> {
        let servers = bootstrap.iter().map(|address| Upstream { address: *address, protocol: Protocol::Udp }).collect();
        let described = GroupKey {
            scope: scope.to_owned(),
            servers,
            service: Some(service.to_owned()),
            cluster_dns: cluster_dns.cloned(),
        };
        self.page(described, |group| {
            let weak = Arc::downgrade(&group);
            let service = service.to_owned();
            let asked = cluster_dns.unwrap_or(&group).clone();
            let pool = Pool::new(vec![vec![asked]], Selection::PowerOfTwo);
            let task = tokio::spawn(discovery::follow(weak, pool, service, interval));
            GroupHandle { group, task: Some(task) }
        })
    }

    /// Ends a new revision: groups that were not asked for since [`Self::begin`] are forgotten.
    pub fn forget_others(&mut self) {
        self.pages.retain(|page| page.needed);
    }

    fn page(&mut self, described: GroupKey, follow: impl FnOnce(Arc<Group>) -> GroupHandle) -> Arc<Group> {
        if let Some(page) = self.pages.iter_mut().find(|page| page.described == described) {
            page.needed = true;
            return page.followed.group.clone();
        }
        // With other bootstrap addresses the Service is still the same, and so are the servers behind it.
        let known = self
            .pages
            .iter()
            .find(|page| described.service.is_some() && page.described.service == described.service)
            .map(|page| page.followed.group.discovered());
        let group = Group::new(&described.scope, &described.servers, &known.unwrap_or_default(), &self.context);
        let followed = follow(Arc::new(group));
        tokio::spawn(revival::follow(Arc::downgrade(&followed.group)));
        let group = followed.group.clone();
        self.pages.push(Entry { described, followed, needed: true });
        group
    }
}
