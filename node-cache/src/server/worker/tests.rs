use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use super::*;
use crate::dns::Name;
use crate::dns::codes::{class, rtype};
use crate::dns::cookie_secret::CookieSecrets;
use crate::dns::question::Question;
use crate::identity::Identity;
use crate::resolver::Resolver;
use crate::server::{Server, TcpLimits};

const GENEROUS_TIMEOUT: Duration = Duration::from_secs(5);
const SHORT_TIMEOUT: Duration = Duration::from_millis(100);

fn held_socket(fd: impl Into<OwnedFd>) -> HeldSocket {
    let address = "127.0.0.1".parse().unwrap();
    HeldSocket { address, protocol: Protocol::Udp, fd: Arc::new(fd.into()) }
}

fn start_server(workers: usize, sockets: &watch::Sender<Vec<HeldSocket>>) -> Server {
    let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
    let (_, secrets) = watch::channel(CookieSecrets::default());
    Server::start(workers, resolver, TcpLimits::default(), sockets.subscribe(), secrets).unwrap()
}

/// Runs a function in a worker's thread.
async fn run_in(worker: &Worker, function: impl FnOnce() + Send + 'static) {
    worker.commands.send(Command::Run(Box::new(function))).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_hangs_is_reported_although_the_others_read_on() {
    let (sockets, _) = watch::channel(vec![held_socket(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    let server = start_server(3, &sockets);
    let workers = server.workers();
    workers.check_readers(GENEROUS_TIMEOUT).await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    run_in(&workers.threads[1], move || {
        let _ = released.recv();
    })
    .await;
    let fault = WorkerFault::Hung { worker: 1, timeout: SHORT_TIMEOUT };
    assert_eq!(workers.check_readers(SHORT_TIMEOUT).await, Err(fault));
    release.send(()).unwrap();
    workers.check_readers(GENEROUS_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_thread_has_ended_is_reported() {
    let (sockets, _) = watch::channel(vec![held_socket(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    let server = start_server(2, &sockets);
    run_in(&server.workers().threads[0], || panic!("on purpose")).await;
    assert_eq!(server.workers().check_readers(GENEROUS_TIMEOUT).await, Err(WorkerFault::Ended(0)));
}

#[tokio::test]
async fn a_socket_that_cannot_be_read_is_reported_by_all_workers_until_it_is_withdrawn() {
    let (sockets, _) = watch::channel(Vec::new());
    let server = start_server(2, &sockets);
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
    // epoll takes no files.
    sockets.send_replace(vec![held_socket(tempfile::tempfile().unwrap())]);
    let fault = server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap_err();
    assert_eq!(fault.to_string(), "worker 0 does not read Udp at 127.0.0.1");
    sockets.send_replace(vec![held_socket(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_a_turn_does_not_drain_is_read_until_it_is_and_after_that_as_before() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(socket.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(GENEROUS_TIMEOUT)).unwrap();
    let name = Name::from_text("id.server").unwrap();
    let question = Question { class: class::CH, ..Question::plain(&name, rtype::TXT) };
    let send_query = |id| assert!(client.send(&question.to_wire(id, false)).is_ok());
    let mut answered_ids = std::collections::HashSet::new();
    let mut receive_responses = |count: usize| {
        for _ in 0..count {
            let mut response = [0; 512];
            client.recv(&mut response).unwrap();
            assert!(answered_ids.insert([response[0], response[1]]));
        }
    };
    // More than a turn reads, less than a socket holds.
    (0..200).for_each(send_query);
    let (sockets, _) = watch::channel(vec![held_socket(socket)]);
    let server = start_server(1, &sockets);
    receive_responses(200);
    for id in 200..220 {
        send_query(id);
        receive_responses(1);
    }
    drop(server);
}

#[tokio::test]
async fn an_address_whose_socket_is_gone_is_counted_no_more_and_goes_on_where_it_comes_back() {
    let address = |number: u8| IpAddr::from([127, 0, 8, number]);
    let bind = |number: u8| {
        let socket = UdpSocket::bind((address(number), 0)).unwrap();
        let local = socket.local_addr().unwrap();
        (HeldSocket { address: address(number), ..held_socket(socket) }, local)
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ((old, old_server), (new, new_server)) = (bind(1), bind(2));
    let (sockets, _) = watch::channel(vec![old.clone()]);
    let server = start_server(1, &sockets);
    let read = || server.workers().datagrams()[0];
    let ask = async |server| {
        let before = read();
        client.send_to(b"anything", server).unwrap();
        while read() == before {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = || -> Vec<_> {
        let of_addresses = server.workers().queries_by_address();
        of_addresses.iter().map(|counted| (counted.address, counted.queries)).collect()
    };
    for _ in 0..3 {
        ask(old_server).await;
    }
    sockets.send_replace(vec![new.clone()]);
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
    ask(new_server).await;
    assert_eq!(counted(), [(address(2), 1)]);
    sockets.send_replace(vec![old, new]);
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
    ask(old_server).await;
    assert_eq!(counted(), [(address(1), 4), (address(2), 1)]);
}

#[tokio::test]
async fn all_workers_stop_reading_before_a_process_ends() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (sockets, _) = watch::channel(vec![held_socket(socket)]);
    let server = start_server(4, &sockets);
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
    server.drain().await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.send(b"anything").unwrap();
    server.workers().check_readers(GENEROUS_TIMEOUT).await.unwrap();
    assert_eq!(server.workers().datagrams(), [0; 4], "no worker reads what will not be answered");
}
