use std::sync::Arc;

use node_cache_config::metrics_page::ProcessUsage;
use node_cache_config::status::{UpstreamState, UpstreamStatus};

use super::*;
use crate::dns::Name;
use crate::dns::Response;
use crate::dns::codes::rtype;
use crate::dns::question::Question;

fn rendered(metrics: &Arc<Metrics>) -> String {
    render("cache-0", metrics, Gauges::default())
}

#[track_caller]
fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|other| other == format!("dnstier_cache_{line}")), "{line} is not in\n{text}");
    }
}

#[test]
fn every_metric_names_its_process_and_begins_with_our_prefix_or_that_of_all_processes() {
    let metrics = Arc::new(Metrics::default());
    metrics.count_query(Transport::Udp);
    metrics.count_drop(DropReason::GlobalLimit);
    let upstream = UpstreamStatus {
        scope: "zone/zone-a".into(),
        address: "10.0.0.1:1053".parse().unwrap(),
        healthy: true,
        state: UpstreamState::default(),
        sent: 7,
        timeouts: 1,
        in_flight: 0,
        near_misses: 9,
        detection: None,
        responded: true,
    };
    let classes = vec![ClassUsage { class: "negative", bytes: 5, entries: 1 }];
    let gauges = Gauges {
        upstreams: vec![upstream],
        max_shown_upstreams: 1,
        classes,
        cache_limit: 64,
        cache_evictions: 2,
        worker_datagrams: vec![3, 4],
        process: ProcessUsage { open_fds: Some(12), ..ProcessUsage::default() },
        ..Gauges::default()
    };
    let text = render("cache-0", &metrics, gauges);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let ours =
            ["dnstier_cache_", "dnstier_build_info{", "process_"].into_iter().any(|start| line.starts_with(start));
        assert!(ours && line.contains("process=\"cache-0\""), "{line}");
        assert!(!line.contains("instance="), "this label belongs to Prometheus: {line}");
    }
    assert_has(
        &text,
        &[
            "queries_total{process=\"cache-0\",transport=\"udp\"} 1",
            "upstream_queries_total{process=\"cache-0\",scope=\"zone/zone-a\",upstream=\"10.0.0.1:1053\"} 7",
            "upstream_near_misses_total{process=\"cache-0\"} 9",
            "limit_bytes{process=\"cache-0\"} 64",
            "evictions_total{process=\"cache-0\"} 2",
            "dropped_total{process=\"cache-0\",reason=\"busy\"} 1",
            "dropped_total{process=\"cache-0\",reason=\"greedy\"} 0",
            "bytes{process=\"cache-0\",class=\"negative\"} 5",
            "worker_datagrams_total{process=\"cache-0\",worker=\"1\"} 4",
        ],
    );
    assert!(text.contains("\nprocess_open_fds{process=\"cache-0\"} 12\n"), "{text}");
    assert_eq!(metrics.traffic(5, 1).dropped, 1);
}

#[test]
fn routes_and_unusual_rcodes_share_series_and_own_queries_have_none() {
    let metrics = Arc::new(Metrics::default());
    let name = Name::from_text("www.example").unwrap();
    for rcode in 0..=16 {
        for scope in (0..20).map(|number| format!("route/{number}.example")) {
            let response = Response::empty(&Question::plain(&name, rtype::A), rcode);
            let answer = Answer { source: Source::Upstream, ..Answer::local(response, None) };
            for transport in [Transport::Udp, Transport::Tcp, Transport::Internal] {
                metrics.count_response(&scope, None, transport, &answer, Duration::ZERO);
            }
        }
    }
    let text = rendered(&metrics);
    let answers: Vec<&str> = text.lines().filter(|line| line.starts_with("dnstier_cache_answers_total")).collect();
    assert_eq!(answers.len(), 5, "{answers:?}");
    assert_has(&text, &["answers_total{process=\"cache-0\",scope=\"route\",rcode=\"NXDOMAIN\"} 40"]);
}

#[test]
fn each_reason_has_a_counter_of_its_own() {
    let metrics = Metrics::default();
    for (count, reason) in (1..).zip(DropReason::ALL) {
        (0..count).for_each(|_| metrics.count_drop(reason));
    }
    assert_eq!(DropReason::ALL.map(|reason| metrics.drops(reason)), std::array::from_fn(|index| index as u64 + 1));
}

#[test]
fn a_batch_counts_as_its_responses_one_by_one_in_any_number_of_scopes() {
    let in_batch = Arc::new(Metrics::default());
    let one_by_one = Arc::new(Metrics::default());
    let scopes = ["cluster", "outside", "route/a", "route/b", "route/c", "route/d"];
    let elapsed = Duration::from_micros(30);
    let responses = (0..32).map(|number| (number * 7 % scopes.len(), [rcode::NOERROR, rcode::NXDOMAIN][number % 2]));
    let counters = scopes.map(|scope| in_batch.scope_counters(scope));
    let mut tally = Tally::default();
    for (scope, rcode) in responses.clone() {
        tally.count_hit(&counters[scope], rcode);
    }
    assert_eq!(tally.total(), 32);
    in_batch.add_batch(&tally, elapsed.as_nanos() as u64);
    let name = Name::from_text("www.example").unwrap();
    for (number, (scope, rcode)) in responses.enumerate() {
        let response = Response::empty(&Question::plain(&name, rtype::A), rcode);
        let answer = Answer { source: Source::Cache, ..Answer::local(response, None) };
        one_by_one.count_query(Transport::Udp);
        // With the scope's counters, and without them so that they have to be looked up.
        let scope_counters = (number % 3 == 0).then(|| one_by_one.scope_counters(scopes[scope]));
        one_by_one.count_response(scopes[scope], scope_counters.as_ref(), Transport::Udp, &answer, elapsed);
    }
    // A scope's counters appear as soon as they are looked up, all others when they first count.
    let sorted = |metrics| {
        let text = rendered(metrics);
        let mut lines: Vec<_> = text.lines().filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&in_batch), sorted(&one_by_one));
    assert_has(
        &rendered(&in_batch),
        &["hits_total{process=\"cache-0\"} 32", "hit_seconds_count{process=\"cache-0\"} 32"],
    );
}

#[test]
fn an_empty_batch_counts_as_nothing() {
    let metrics = Arc::new(Metrics::default());
    let before = rendered(&metrics);
    metrics.add_batch(&Tally::default(), 1_000_000_000);
    assert_eq!(rendered(&metrics), before);
}

#[test]
fn a_stale_response_counts_as_a_miss_with_its_response_time() {
    let metrics = Arc::new(Metrics::default());
    let name = Name::from_text("www.example").unwrap();
    let response = Response::empty(&Question::plain(&name, rtype::A), rcode::NOERROR);
    let answer = Answer { source: Source::StaleCache, ..Answer::local(response, None) };
    metrics.count_response("outside", None, Transport::Tcp, &answer, Duration::from_millis(3));
    assert_has(
        &rendered(&metrics),
        &[
            "hits_total{process=\"cache-0\"} 0",
            "misses_total{process=\"cache-0\"} 1",
            "stale_total{process=\"cache-0\"} 1",
            "answers_total{process=\"cache-0\",scope=\"outside\",rcode=\"NOERROR\"} 1",
            "miss_seconds_bucket{process=\"cache-0\",le=\"0.0004\"} 0",
            "miss_seconds_bucket{process=\"cache-0\",le=\"0.0032\"} 1",
            "miss_seconds_bucket{process=\"cache-0\",le=\"+Inf\"} 1",
            "miss_seconds_sum{process=\"cache-0\"} 0.003",
        ],
    );
}
