//! Cardinality of metrics: no client can add time series.

use hickory_proto::rr::RecordType;
use node_cache::dns::Name;
use node_cache::dns::query::{Query, Transport};

use crate::support::{Action, Authority, Tier, config, exchange, exchange_over_tcp, exchange_raw, query_for, route};

fn series(tier: &Tier) -> Vec<String> {
    let text = node_cache::metrics::render("cache-0", tier.resolver.metrics(), tier.resolver.gauges());
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn a_hundred_thousand_hostile_names_make_no_new_series() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = config(authority.address);
    config.routes = vec![route("corp.example", &[authority.address])];
    let tier = Tier::on_node(&config, None).await;
    let resolve_without_recursion = async |name: Name, number: u32| {
        let rtype = number as u16;
        let transport = [Transport::Udp, Transport::Tcp][number as usize % 2];
        let query = Query { rtype, transport, recursion_desired: false, ..Query::plain(name, 1) };
        tier.resolver.resolve(&query).await;
    };
    // One query of each kind, so that every series exists.
    let query_every_kind = async || {
        for suffix in ["corp.example", "cluster.local", "example", "localhost"] {
            for number in 2..4 {
                resolve_without_recursion(Name::from_text(&format!("n.{suffix}")).unwrap(), number).await;
            }
            for name in ["known", "other"] {
                let query = query_for(&format!("{name}.{suffix}"), RecordType::A);
                exchange(tier.address, &query).await;
                exchange(tier.address, &query).await;
                exchange_over_tcp(tier.address, &query).await;
            }
        }
        exchange_raw(tier.address, "127.0.0.1:0", &[7; 12], std::time::Duration::from_secs(5)).await;
    };
    query_every_kind().await;
    let before = series(&tier);
    for number in 0..100_000_u32 {
        let suffix = [&b"\x04corp\x07example\0"[..], b"\x07cluster\x05local\0", b"\x07example\0", b"\x09localhost\0"];
        // Labels of any octets: line ends, quotes and braces too.
        let [a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let wire = [&[9, a, b, c, d, b'"', b'\n', b'}', b' ', b'1'], suffix[number as usize % 4]].concat();
        let (name, _) = Name::read_uncompressed(&wire, 0).unwrap();
        resolve_without_recursion(name, 2 + number % 240).await;
    }
    query_every_kind().await;
    assert_eq!(series(&tier), before);
}

#[tokio::test]
async fn each_reason_for_a_refused_admission_has_a_series_from_the_start() {
    let tier = Tier::start(Default::default());
    let series = series(&tier);
    let refused: Vec<_> =
        series.iter().filter(|series| series.starts_with("dnstier_cache_admission_refused_total")).collect();
    let expected = ["total", "scope", "domain", "failing_domain", "client"]
        .map(|reason| format!("dnstier_cache_admission_refused_total{{instance=\"cache-0\",reason=\"{reason}\"}}"));
    assert_eq!(refused, expected.iter().collect::<Vec<_>>());
}
