//! Limiters in front of the provider and the fallback, and their counters: packet rules in the world's namespace.

use super::network::{DEAD, FALLBACK, Member, PROVIDER, output_of};
use super::schedule::{Limiter, Scale};

/// Packets that a source may send at once beyond its rate.
const BURST: u32 = 64;
/// Time that a flow stays in the table after its last packet.
const FLOW_TIMEOUT: &str = "30s";

/// Packets since the rules were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packets {
    /// Packets that were sent to the provider, those dropped included.
    pub(super) provider: u64,
    pub(super) provider_dropped: u64,
    pub(super) fallback: u64,
    pub(super) fallback_dropped: u64,
}

impl Packets {
    /// Returns the packets since an earlier time.
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            provider: self.provider.saturating_sub(earlier.provider),
            provider_dropped: self.provider_dropped.saturating_sub(earlier.provider_dropped),
            fallback: self.fallback.saturating_sub(earlier.fallback),
            fallback_dropped: self.fallback_dropped.saturating_sub(earlier.fallback_dropped),
        }
    }
}

/// Makes the rules anew, without a limit. Counters begin at 0.
pub(super) fn begin(scale: Scale) {
    nft(&rules(scale));
}

/// Puts a limiter in front of the provider and the usual one in front of the fallback, or none in front of both.
pub(super) fn set(limiter: Option<Limiter>, scale: Scale) {
    nft(&change(limiter, scale));
}

/// Reads the counters.
pub(super) fn packets() -> Packets {
    parse(&output_of(Member::World.command("nft").args(["list", "counters", "table", "inet", "replay"]), ""))
}

fn nft(rules: &str) {
    output_of(Member::World.command("nft").args(["-f", "-"]), rules);
}

fn rules(scale: Scale) -> String {
    let [a, b, c, d] = DEAD;
    let Scale { flows, .. } = scale;
    format!(
        "table inet replay {{}}
        delete table inet replay
        table inet replay {{
            counter provider {{}}
            counter provider_dropped {{}}
            counter fallback {{}}
            counter fallback_dropped {{}}
            set sources {{ type ipv4_addr; size 1024; flags dynamic; }}
            set fallback_sources {{ type ipv4_addr; size 1024; flags dynamic; }}
            set flows {{ type ipv4_addr . inet_service; size {flows}; flags dynamic,timeout; timeout {FLOW_TIMEOUT}; }}
            chain to_provider {{}}
            chain to_fallback {{}}
            chain arrivals {{
                type filter hook prerouting priority raw;
                ip daddr {PROVIDER} meta l4proto {{ tcp, udp }} th dport 53 counter name provider jump to_provider
                ip daddr {FALLBACK} meta l4proto {{ tcp, udp }} th dport 53 counter name fallback jump to_fallback
                ip daddr {a}.{b}.{c}.{d} drop
            }}
        }}"
    )
}

fn change(limiter: Option<Limiter>, scale: Scale) -> String {
    let Scale { per_source, shared, fallback, .. } = scale;
    let chain = "add rule inet replay to_provider";
    let drop = "counter name provider_dropped drop";
    let rules = match limiter {
        None => String::new(),
        Some(Limiter::PerSource) => format!(
            "flush set inet replay sources\n\
             {chain} update @sources {{ ip saddr limit rate over {per_source}/second burst {BURST} packets }} {drop}\n"
        ),
        Some(Limiter::Shared) => format!("{chain} limit rate over {shared}/second burst {BURST} packets {drop}\n"),
        // A full set breaks off the rule, so that the next one drops.
        Some(Limiter::Flows) => format!(
            "flush set inet replay flows\n\
             {chain} update @flows {{ ip saddr . udp sport }} accept\n\
             {chain} update @flows {{ ip saddr . tcp sport }} accept\n\
             {chain} {drop}\n"
        ),
    };
    let usual = match limiter {
        None => String::new(),
        Some(_) => format!(
            "add rule inet replay to_fallback update @fallback_sources \
             {{ ip saddr limit rate over {fallback}/second burst {BURST} packets }} \
             counter name fallback_dropped drop\n"
        ),
    };
    format!("flush chain inet replay to_provider\nflush chain inet replay to_fallback\n{rules}{usual}")
}

fn parse(text: &str) -> Packets {
    let count = |name: &str| {
        let (_, rest) = text.split_once(&format!("counter {name} {{"))?;
        rest.split("packets ").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    let count = |name| count(name).unwrap_or_default();
    Packets {
        provider: count("provider"),
        provider_dropped: count("provider_dropped"),
        fallback: count("fallback"),
        fallback_dropped: count("fallback_dropped"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Limiter, Packets, change, parse, rules};
    use crate::parts::replay::schedule::Scale;

    #[test]
    fn counters_are_read_by_their_names() {
        let text = "table inet replay {\n\tcounter provider_dropped {\n\t\tpackets 7 bytes 300\n\t}\n\t\
                    counter provider {\n\t\tpackets 41 bytes 2000\n\t}\n}\n";
        let packets = parse(text);
        assert_eq!(packets, Packets { provider: 41, provider_dropped: 7, ..Packets::default() });
        assert_eq!(packets.since(Packets { provider: 40, ..Packets::default() }).provider, 1);
    }

    #[test]
    fn limits_are_those_of_the_scale() {
        let scale = Scale::FULL;
        assert!(change(Some(Limiter::PerSource), scale).contains("rate over 1024/second"));
        assert!(change(Some(Limiter::Shared), scale.halved()).contains("rate over 1536/second"));
        assert!(change(Some(Limiter::Flows), scale).contains("rate over 1500/second"), "that of the fallback");
        assert!(rules(scale).contains("size 4096"));
        assert!(!change(None, scale).contains("add rule"));
    }
}
