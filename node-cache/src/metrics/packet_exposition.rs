//! Exposition of the packets to upstreams, by scope. Own servers (the resolvers of the zones, the cluster DNS) have no
//! budget and are left out, and so is a counter that is still zero: the number of series is limited.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::exposition::gauge;
use super::packets::{PacketClass, PacketCounts, UpstreamPackets};
use crate::dns::query::Transport;

/// Kind of the scopes of routes. A node shows fewer series of them: it has several processes.
const ROUTE_KIND: &str = "route";
/// Kinds of scopes whose upstreams may have a packet budget.
const LIMITED_SCOPES: [&str; 3] = ["forward", "fallback", ROUTE_KIND];

/// Counters of one scope.
type Scope = (String, Arc<PacketCounts>);

impl UpstreamPackets {
    /// Encodes the series of all scopes.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut scopes = self.all();
        scopes.retain(|(scope, _)| LIMITED_SCOPES.contains(&scope.as_str()));
        encode_sent(&scopes, encoder)?;
        let with_budget: Vec<Scope> = scopes.iter().filter(|(_, counts)| counts.had_budget()).cloned().collect();
        encode_budgets(&with_budget, encoder)?;
        scopes.retain(|(scope, _)| scope != ROUTE_KIND);
        encode_hedges(&scopes, encoder)
    }
}

fn encode_sent(scopes: &[Scope], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Packets sent to upstreams, as a packet budget counts them";
    let mut family = encoder.encode_descriptor("upstream_packets", help, None, MetricType::Counter)?;
    for (scope, counts) in scopes {
        for class in PacketClass::ALL {
            for (name, transport) in [("udp", Transport::Udp), ("tcp", Transport::Tcp)] {
                let number = counts.packets(class, transport);
                if number > 0 {
                    let labels = [("scope", scope.as_str()), ("class", class.label()), ("transport", name)];
                    ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
                }
            }
        }
    }
    Ok(())
}

fn encode_hedges(scopes: &[Scope], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Hedges of queries that were answered, by whether the hedge brought the answer";
    encode_by_outcome(encoder, scopes, ("hedges", help, "won"), |counts, is_won| counts.hedges(is_won))?;
    let help = "Control queries of the detection of limits, by whether they were answered in time";
    let head = ("control_queries", help, "answered");
    encode_by_outcome(encoder, scopes, head, |counts, is_answered| counts.controls(is_answered))?;
    let help = "Hedges that were due and that the retry budget did not allow";
    let mut family = encoder.encode_descriptor("hedges_withheld", help, None, MetricType::Counter)?;
    for (scope, counts) in scopes.iter().filter(|(_, counts)| counts.withheld_hedges() > 0) {
        ConstCounter::new(counts.withheld_hedges()).encode(family.encode_family(&[("scope", scope)])?)?;
    }
    Ok(())
}

/// Encodes a counter with two outcomes, which are the values `true` and `false` of a label.
fn encode_by_outcome(
    encoder: &mut DescriptorEncoder<'_>,
    scopes: &[Scope],
    (name, help, label): (&str, &str, &str),
    count: impl Fn(&PacketCounts, bool) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (scope, counts) in scopes {
        for outcome in [true, false] {
            let number = count(counts, outcome);
            if number > 0 {
                let labels = [("scope", scope.as_str()), (label, if outcome { "true" } else { "false" })];
                ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// Encodes what packet budgets do, for scopes that have had one.
fn encode_budgets(scopes: &[Scope], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Sends to upstreams for which the packet budget had no room";
    let mut family = encoder.encode_descriptor("upstream_refused", help, None, MetricType::Counter)?;
    for (scope, counts) in scopes {
        for class in PacketClass::ALL {
            let labels = [("scope", scope.as_str()), ("class", class.label())];
            ConstCounter::new(counts.refused(class)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Time for which sends to upstreams waited for the packet budget";
    let seconds = Some(&Unit::Seconds);
    let mut family = encoder.encode_descriptor("upstream_wait", help, seconds, MetricType::Counter)?;
    for (scope, counts) in scopes.iter().filter(|(scope, _)| scope != ROUTE_KIND) {
        ConstCounter::new(counts.waited().as_secs_f64()).encode(family.encode_family(&[("scope", scope)])?)?;
    }
    let help = "Packets a second that this process may send to the upstreams with a packet budget";
    let mut family = encoder.encode_descriptor("upstream_budget", help, None, MetricType::Gauge)?;
    for (scope, counts) in scopes {
        gauge(counts.budget()).encode(family.encode_family(&[("scope", scope)])?)?;
    }
    Ok(())
}
