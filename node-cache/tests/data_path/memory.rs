//! Cached responses: lifetime, prefetch, serve-stale and negative caching.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{
    Action, Authority, Tier, address_record, config, ede, empty_response, exchange, negative_response, query_for,
    response_with, route,
};

#[tokio::test]
async fn identical_questions_of_many_clients_are_one_question() {
    let authority =
        Authority::start(|query| Action::RespondAfter(Duration::from_millis(200), query.default_response(300, 1)))
            .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let query = query_for("www.example", RecordType::A);
    let responses = join_all((0..200).map(|_| exchange(tier.address, &query))).await;
    assert!(responses.iter().all(|response| response.answers.len() == 1));
    assert_eq!(authority.queries().len(), 1);
}

#[tokio::test]
async fn a_denial_is_kept_by_the_minimum_of_its_zone() {
    let authority = Authority::start(|query| match query.is("www.example") {
        true => Action::Respond(query.default_response(300, 1)),
        false => Action::Respond(negative_response(query, ResponseCode::NXDomain, 1)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    // One that knows a name in random case is not asked again for what it denies.
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    authority.clear_queries();
    for _ in 0..2 {
        let response = exchange(tier.address, &query_for("none.example", RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(response.authorities.len(), 1);
    }
    assert_eq!(authority.queries().len(), 1);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    exchange(tier.address, &query_for("none.example", RecordType::A)).await;
    assert_eq!(authority.queries().len(), 2);
}

#[tokio::test]
async fn a_name_in_use_is_asked_again_before_its_answer_is_past_its_time() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(2, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let query = query_for("www.example", RecordType::A);
    let metrics = || node_cache::metrics::render("cache-0", tier.resolver.metrics(), Default::default());
    let started = Instant::now();
    while !metrics().contains("dnstier_cache_refreshes_total{process=\"cache-0\"} 1") {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", metrics());
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The prefetched entry has its full TTL again, and no client waited for it.
    while exchange(tier.address, &query).await.answers[0].ttl < 2 {
        assert!(started.elapsed() < Duration::from_secs(30));
    }
    assert!(authority.queries().len() >= 2);
}

/// Starts a tier whose entries are stale and whose only server has stopped responding.
async fn with_stale_entries() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(1, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for name in ["www.example", "mail.example"] {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    authority.stop_responding();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    (authority, tier)
}

#[tokio::test]
async fn old_answers_serve_while_nobody_answers_and_new_ones_as_soon_as_somebody_does() {
    let (authority, tier) = with_stale_entries().await;
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert!(started.elapsed() < Duration::from_millis(2300), "{:?}", started.elapsed());
    assert_eq!(response.answers, [address_record("www.example", 30, "192.0.2.1")]);
    assert_eq!(ede(&response), Some(3));
    // Three tries have failed by now: the server is known to be down, and no query waits for it.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("mail.example", RecordType::A)).await;
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
    assert_eq!((response.answers.len(), ede(&response)), (1, Some(3)));
    assert_eq!(tier.resolver.metrics().traffic(0, 0).stale, 2);

    authority.set_script(|query| Action::Respond(query.default_response(300, 2)));
    let up_since = Instant::now();
    loop {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        if response.answers[0].data == address_record("www.example", 0, "192.0.2.2").data {
            break;
        }
        assert!(up_since.elapsed() < Duration::from_secs(5), "not fresh within five seconds");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn while_all_servers_are_dead_they_are_not_asked_again_for_what_old_answers_serve() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(1, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let names: Vec<String> = (0..100).map(|number| format!("n{number}.example")).collect();
    for name in &names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    authority.stop_responding();
    let started = Instant::now();
    let down = || !tier.resolver.snapshot().unwrap().upstreams()[0].healthy;
    while !down() {
        assert!(started.elapsed() < Duration::from_secs(30));
        exchange(tier.address, &query_for("n0.example", RecordType::A)).await;
    }
    tokio::time::sleep(Duration::from_millis(1050)).await;
    authority.clear_queries();
    for name in &names {
        let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
        assert_eq!((response.answers[0].ttl, ede(&response)), (30, Some(3)), "{name}");
    }
    // A server that is down gets one probe a second.
    let sent = authority.queries().len() as u64;
    assert!(sent <= 2 + started.elapsed().as_secs(), "{sent}");
    authority.set_script(|query| Action::Respond(query.default_response(300, 2)));
    while exchange(tier.address, &query_for("n7.example", RecordType::A)).await.answers[0].ttl == 30 {
        assert!(started.elapsed() < Duration::from_secs(60), "it is known to be well again");
    }
}

#[tokio::test]
async fn old_answers_serve_at_once_when_an_upstream_fails_but_not_when_data_are_bogus() {
    let (authority, tier) = with_stale_entries().await;
    authority.set_script(|query| Action::Respond(empty_response(query, ResponseCode::ServFail)));
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::NoError, Some(3)));
    authority.set_script(|query| {
        let mut bogus = empty_response(query, ResponseCode::ServFail);
        let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, vec![0, 6]);
        bogus.edns.as_mut().unwrap().options_mut().insert(option);
        Action::Respond(bogus)
    });
    let response = exchange(tier.address, &query_for("mail.example", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(6)));
}

#[tokio::test]
async fn a_name_that_is_gone_is_not_brought_back_from_memory() {
    let (authority, tier) = with_stale_entries().await;
    authority.set_script(|query| Action::Respond(negative_response(query, ResponseCode::NXDomain, 1)));
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    authority.stop_responding();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::NXDomain, Some(19)));
}

#[tokio::test]
async fn silence_is_a_failure_with_a_reason_at_the_deadline_and_is_remembered_for_a_moment() {
    let authority = Authority::start(|_| Action::Ignore).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    let took = started.elapsed();
    assert!(took > Duration::from_millis(2500) && took < Duration::from_millis(3300), "{took:?}");
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(22)));
    assert_eq!(authority.queries().len(), 3, "no more than three questions");
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert!(started.elapsed() < Duration::from_millis(800));
    assert_eq!((response.metadata.response_code, authority.queries().len()), (ResponseCode::ServFail, 3));
}

#[tokio::test]
async fn a_lowered_cap_and_a_new_route_apply_to_the_running_process() {
    let outside = Authority::start(|query| Action::Respond(query.default_response(3000, 1))).await;
    let corp = Authority::start(|query| Action::Respond(query.default_response(3000, 2))).await;
    let mut config = config(outside.address);
    config.routes = vec![route("example", &[outside.address])];
    let tier = Tier::on_node(&config, None).await;
    let www = query_for("www.corp.example", RecordType::A);
    assert!(exchange(tier.address, &www).await.answers[0].ttl >= 2999);

    config.node_cache.cache.max_ttl = 60;
    tier.apply_on_node(&config, None);
    let response = exchange(tier.address, &www).await;
    assert!(response.answers[0].ttl <= 60, "{}", response.answers[0].ttl);
    assert_eq!(outside.query_count("www.corp.example"), 1, "what is kept stays");

    config.routes.push(route("corp.example", &[corp.address]));
    tier.apply_on_node(&config, None);
    let response = exchange(tier.address, &www).await;
    assert_eq!(response.answers[0].data, address_record("www.corp.example", 0, "192.0.2.2").data);
    assert_eq!(corp.query_count("www.corp.example"), 1);

    config.routes.pop();
    tier.apply_on_node(&config, None);
    let response = exchange(tier.address, &www).await;
    assert_eq!(response.answers[0].data, address_record("www.corp.example", 0, "192.0.2.1").data);
    assert_eq!(outside.query_count("www.corp.example"), 1, "its scope was kept apart and outlived the change");
}

#[tokio::test]
async fn what_an_answer_says_beside_the_question_is_not_believed() {
    let authority = Authority::start(|query| {
        if query.is("www.example") {
            let mut message = query.default_response(300, 1);
            message.add_answer(address_record("bank.example", 300, "203.0.113.66"));
            message.add_authority(address_record("bank.example", 300, "203.0.113.66"));
            message.add_additional(address_record("bank.example", 300, "203.0.113.66"));
            Action::Respond(message)
        } else {
            Action::Respond(query.default_response(300, 7))
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    let response = exchange(tier.address, &query_for("bank.example", RecordType::A)).await;
    assert_eq!(response.answers, [address_record("bank.example", response.answers[0].ttl, "192.0.2.7")]);
}

#[tokio::test]
async fn records_that_come_behind_edns_are_whole() {
    let authority = Authority::start(|query| {
        let mut message = response_with(query, vec![address_record("www.example", 300, "192.0.2.1")]);
        message.edns = None;
        let mut packet = message.to_vec().unwrap();
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        // An A record whose owner is a pointer to the question.
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 9]);
        packet[11] = 2;
        Action::SendRaw(vec![packet])
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.additionals, [address_record("www.example", 300, "192.0.2.9")]);
}
