//! Upstreams of the resolvers and of routes, and those of them that would make a forwarding loop.

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1 as api;
use node_cache_config::{Captured, CaseRandomization, PacketBudget, Protocol, Route, Upstream, UpstreamSource};

use crate::controller::finding::Finding;

pub(super) fn upstream_source(resolvers: &api::Resolvers) -> UpstreamSource {
    match resolvers.mode {
        api::Mode::Forward if resolvers.upstreams.is_empty() => UpstreamSource::ResolvConf,
        api::Mode::Forward => UpstreamSource::Servers(servers(&resolvers.upstreams)),
    }
}

/// Returns every address of the upstreams as a server, in the order of the spec.
pub(super) fn servers(upstreams: &[api::Upstream]) -> Vec<Upstream> {
    let protocol = |protocol| match protocol {
        api::Protocol::Udp => Protocol::Udp,
        api::Protocol::Tcp => Protocol::Tcp,
    };
    let case_randomization = |case_randomization| match case_randomization {
        api::CaseRandomization::Enabled => CaseRandomization::Enabled,
        api::CaseRandomization::Disabled => CaseRandomization::Disabled,
    };
    upstreams
        .iter()
        .flat_map(|upstream| {
            upstream.servers().map(|address| Upstream {
                address,
                protocol: protocol(upstream.protocol),
                case_randomization: case_randomization(upstream.case_randomization),
            })
        })
        .collect()
}

/// Returns the packet budgets of upstreams, each of which so many processes of a node share.
pub(super) fn packet_budgets<'a>(
    upstreams: impl IntoIterator<Item = &'a api::Upstream>,
    processes: u32,
) -> Vec<PacketBudget> {
    let budget = |upstream: &api::Upstream| {
        let limits = upstream.packet_budget.as_ref()?;
        Some(PacketBudget {
            servers: upstream.servers().collect(),
            packets_per_second: limits.packets_per_second()?,
            in_flight: limits.in_flight(),
            processes,
        })
    };
    upstreams.into_iter().filter_map(budget).collect()
}

/// Returns a route, whose packet budgets the caching resolvers of a node share.
pub(super) fn route(route: &api::Route, instances: u32) -> Route {
    Route {
        suffix: route.suffix.clone(),
        upstreams: servers(&route.upstreams),
        packet_budgets: packet_budgets(&route.upstreams, instances),
    }
}

/// Finds upstreams whose queries would return to the tier, because nodes capture their address.
pub(super) fn upstream_loops(tier: &DnsTier, captured: &[Captured]) -> Vec<Finding> {
    let resolvers = &tier.spec.resolvers;
    let mut upstreams_by_field: Vec<(String, &api::Upstream)> = Vec::new();
    for (list, upstreams) in [("upstreams", &resolvers.upstreams), ("fallback", &resolvers.fallback)] {
        let upstreams = upstreams.iter().enumerate();
        upstreams_by_field
            .extend(upstreams.map(|(index, upstream)| (format!("spec.resolvers.{list}[{index}]"), upstream)));
    }
    for route in &tier.spec.routes {
        let upstreams = route.upstreams.iter();
        upstreams_by_field.extend(upstreams.map(|upstream| (format!("spec.routes[{}]", route.suffix), upstream)));
    }
    upstreams_by_field
        .into_iter()
        .flat_map(|(field, upstream)| upstream.addresses.iter().map(move |address| (field.clone(), *address)))
        .filter(|(_, address)| captured.iter().any(|captured| captured.address == *address))
        .map(|(field, address)| {
            Finding::new(
                Reason::UpstreamLoop,
                format!(
                    "{field}: {address} is an address that this tier captures, so its queries would come back; name \
                     the server behind it."
                ),
            )
        })
        .collect()
}
