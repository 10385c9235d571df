//! Several workers in one process.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use node_cache::handover::{HeldSocket, Protocol};

use crate::require::{open_files, require};
use crate::support::{
    Action, Authority, Tier, address_record, config, exchange, exchange_from, exchange_over_tcp, query_for, route,
};

const WORKER_COUNT: usize = 4;

/// Starts the cache of a node with four workers, whose cluster DNS is `cluster`; `outside` serves `example`.
fn tier(cluster: SocketAddr, outside: SocketAddr) -> Tier {
    let tier = Tier::with_workers(WORKER_COUNT, Default::default());
    let mut config = config(cluster);
    config.routes = vec![route("example", &[outside])];
    tier.apply_on_node(&config, None);
    tier
}

/// Builds the query of one of many clients: each writes the name in another case and sends another client subnet (RFC
/// 7871).
fn query_of(client: usize, name: &str) -> Message {
    let letters = name.chars().enumerate();
    let name: String =
        letters.map(|(place, c)| if client >> (place % 10) & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
    let mut query = query_for(&name, RecordType::A);
    let [high, low] = (client as u16).to_be_bytes();
    let subnet = EdnsOption::Unknown(8, vec![0, 1, 24, 0, 10, high, low]);
    query.edns.as_mut().unwrap().options_mut().insert(subnet);
    query
}

/// Sends a query until it is answered, as a stub resolver does when a full socket buffer has lost it.
async fn exchange_with_retries(server: SocketAddr, query: &Message) -> Message {
    for _ in 0..10 {
        if let Some(response) = exchange_from("127.0.0.1:0", server, query, Duration::from_secs(2)).await {
            return response;
        }
    }
    panic!("no answer to {query}");
}

#[tokio::test]
async fn a_thousand_clients_of_four_workers_cause_one_question() {
    require!(open_files(8192));
    let times = Arc::new(Mutex::new(Vec::new()));
    let authority = Authority::start({
        let times = times.clone();
        move |query| {
            times.lock().unwrap().push((query.name().to_ascii().to_lowercase(), Instant::now()));
            match query.is("slow.example") {
                true => Action::RespondAfter(Duration::from_millis(200), query.default_response(300, 1)),
                false => Action::Respond(query.default_response(300, 1)),
            }
        }
    })
    .await;
    let tier = tier(authority.address, authority.address);
    for name in ["slow.example", "quick-1.example", "quick-2.example", "quick-3.example", "quick-4.example"] {
        let queries: Vec<_> = (0..1000).map(|client| query_of(client, name)).collect();
        assert_eq!(queries.iter().map(|query| query.to_vec().unwrap()).collect::<HashSet<_>>().len(), 1000);
        let responses = join_all(queries.iter().map(|query| exchange_with_retries(tier.address, query))).await;
        let expected = address_record("x", 0, "192.0.2.1").data;
        assert!(responses.iter().all(|response| response.answers[0].data == expected), "{name}");
        let queries: Vec<_> = authority.queries().into_iter().filter(|query| query.is(name)).collect();
        let times = times.lock().unwrap().clone();
        let times: Vec<_> =
            times.iter().filter(|(of, _)| of.trim_end_matches('.') == name).map(|(_, at)| *at).collect();
        // On a busy machine a response may be late; then the query is sent once more, after 350 ms.
        let soon = times.iter().filter(|at| at.duration_since(times[0]) < Duration::from_millis(340)).count();
        assert_eq!(soon, 1, "{name}");
        let options = queries[0].message.edns.as_ref().unwrap().options();
        assert!(options.get(8.into()).is_none(), "nobody is told of a client's network");
    }
}

#[tokio::test]
async fn a_question_that_fails_for_many_clients_of_four_workers_fails_once() {
    let authority = Authority::start(|query| {
        Action::Respond(crate::support::empty_response(query, hickory_proto::op::ResponseCode::ServFail))
    })
    .await;
    let tier = tier(authority.address, authority.address);
    for number in 0..20 {
        let name = format!("n{number}.example");
        let queries: Vec<_> = (0..50).map(|client| query_of(client, &name)).collect();
        join_all(queries.iter().map(|query| exchange_with_retries(tier.address, query))).await;
        assert_eq!(authority.query_count(&name), 1, "{name}");
    }
}

#[tokio::test]
async fn all_workers_are_used() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = tier(authority.address, authority.address);
    let limit = Instant::now() + Duration::from_secs(30);
    while tier.serving.workers().datagrams().contains(&0) {
        assert!(Instant::now() < limit, "{:?}", tier.serving.workers().datagrams());
        let queries: Vec<_> = (0..200).map(|client| query_of(client, "www.example")).collect();
        join_all(queries.iter().map(|query| exchange_with_retries(tier.address, query))).await;
    }
    tier.serving.workers().check_readers(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn all_is_answered_while_sockets_and_configuration_change() {
    const CLIENTS: usize = 16;
    const QUERIES: usize = 400;
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Arc::new(tier(authority.address, authority.address));
    let done = Arc::new(AtomicBool::new(false));
    let changing = tokio::spawn({
        let tier = tier.clone();
        let done = done.clone();
        let server = authority.address;
        async move {
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                let extra = UdpSocket::bind("127.0.0.1:0").unwrap();
                let ip = extra.local_addr().unwrap().ip();
                let socket = HeldSocket { address: ip, protocol: Protocol::Udp, fd: Arc::new(extra.into()) };
                tier.sockets.send_modify(|sockets| {
                    sockets.truncate(2);
                    sockets.push(socket);
                });
                let mut config = config(server);
                config.routes = vec![route("example", &[server]), route(&format!("r{changes}.test"), &[server])];
                tier.apply_on_node(&config, None);
                changes += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            changes
        }
    });
    let clients = (0..CLIENTS).map(async |client| {
        for number in 0..QUERIES {
            // Every other query is a hit for all clients but the first.
            let name = if number % 2 == 0 { "www.example".into() } else { format!("n{client}-{number}.example") };
            let query = query_of(client, &name);
            let response = match number % 50 {
                7 => exchange_over_tcp(tier.address, &query).await,
                _ => exchange(tier.address, &query).await,
            };
            assert_eq!(response.answers.len(), 1, "{name}");
        }
    });
    join_all(clients).await;
    done.store(true, Ordering::Relaxed);
    assert!(changing.await.unwrap() > 10, "sockets and configuration have changed");
    assert_eq!(authority.query_count("www.example"), 1);
    tier.serving.workers().check_readers(Duration::from_secs(5)).await.unwrap();
}
