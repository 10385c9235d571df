use std::sync::Arc;

use node_cache_config::status::UpstreamStatus;

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
fn every_metric_names_its_instance_and_begins_with_our_prefix() {
    let metrics = Arc::new(Metrics::default());
    metrics.count_query(Transport::Udp);
    metrics.count_drop(DropReason::GlobalLimit);
    let upstream = UpstreamStatus {
        scope: "zone/zone-a".into(),
        address: "10.0.0.1:1053".parse().unwrap(),
        healthy: true,
        responded: true,
        sent: 7,
        timeouts: 1,
        near_misses: 9,
        responded: true,
    };
    let classes = vec![ClassUsage { class: "negative", bytes: 5, entries: 1 }];
    let gauges = Gauges { upstreams: vec![upstream], classes, worker_datagrams: vec![3, 4], ..Gauges::default() };
    let text = render("cache-0", &metrics, gauges);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("dnstier_cache_") && line.contains("instance=\"cache-0\""), "{line}");
    }
    assert_has(
        &text,
        &[
            "queries_total{instance=\"cache-0\",transport=\"udp\"} 1",
            "upstream_queries_total{instance=\"cache-0\",scope=\"zone/zone-a\",upstream=\"10.0.0.1:1053\"} 7",
            "upstream_near_misses_total{instance=\"cache-0\",scope=\"zone/zone-a\",upstream=\"10.0.0.1:1053\"} 9",
            "dropped_total{instance=\"cache-0\",reason=\"busy\"} 1",
            "dropped_total{instance=\"cache-0\",reason=\"greedy\"} 0",
            "bytes{instance=\"cache-0\",class=\"negative\"} 5",
            "worker_datagrams_total{instance=\"cache-0\",worker=\"1\"} 4",
        ],
    );
    assert_eq!(metrics.traffic(5, 1).dropped, 1);
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
        &["hits_total{instance=\"cache-0\"} 32", "hit_seconds_count{instance=\"cache-0\"} 32"],
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
            "hits_total{instance=\"cache-0\"} 0",
            "misses_total{instance=\"cache-0\"} 1",
            "stale_total{instance=\"cache-0\"} 1",
            "answers_total{instance=\"cache-0\",transport=\"tcp\",scope=\"outside\",rcode=\"NOERROR\"} 1",
            "miss_seconds_bucket{instance=\"cache-0\",le=\"0.0016\"} 0",
            "miss_seconds_bucket{instance=\"cache-0\",le=\"0.0032\"} 1",
            "miss_seconds_bucket{instance=\"cache-0\",le=\"+Inf\"} 1",
            "miss_seconds_sum{instance=\"cache-0\"} 0.003",
        ],
    );
}
