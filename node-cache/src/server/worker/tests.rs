use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use super::*;
use crate::dns::Name;
use crate::dns::codes::{class, rtype};
use crate::dns::cookie_secret::Secrets;
use crate::dns::question::Question;
use crate::identity::Identity;
use crate::resolver::Resolver;
use crate::server::{Server, TcpLimits};

const SOON: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(100);

fn held(fd: impl Into<OwnedFd>) -> HeldSocket {
    let address = "127.0.0.1".parse().unwrap();
    HeldSocket { address, protocol: Protocol::Udp, fd: Arc::new(fd.into()) }
}

fn start(workers: usize, sockets: &watch::Sender<Vec<HeldSocket>>) -> Server {
    let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
    let (_, secrets) = watch::channel(Secrets::default());
    Server::start(workers, resolver, TcpLimits::default(), sockets.subscribe(), secrets).unwrap()
}

/// Has a worker do something in its thread.
async fn inside(worker: &Worker, work: impl FnOnce() + Send + 'static) {
    worker.words.send(Command::Do(Box::new(work))).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_hangs_is_told_although_the_others_read_on() {
    let (sockets, _) = watch::channel(vec![held(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    let serving = start(3, &sockets);
    let workers = serving.workers();
    workers.all_read(SOON).await.unwrap();
    let (release, held_up) = std::sync::mpsc::channel::<()>();
    inside(&workers.0[1], move || {
        let _ = held_up.recv();
    })
    .await;
    assert_eq!(workers.all_read(SHORT).await, Err(WorkerFault::Hung { worker: 1, limit: SHORT }));
    release.send(()).unwrap();
    workers.all_read(SOON).await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_thread_is_gone_is_told() {
    let (sockets, _) = watch::channel(vec![held(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    let serving = start(2, &sockets);
    inside(&serving.workers().0[0], || panic!("on purpose")).await;
    assert_eq!(serving.workers().all_read(SOON).await, Err(WorkerFault::Ended(0)));
}

#[tokio::test]
async fn a_socket_that_cannot_be_read_is_told_by_all_workers_until_it_is_taken_back() {
    let (sockets, _) = watch::channel(Vec::new());
    let serving = start(2, &sockets);
    serving.workers().all_read(SOON).await.unwrap();
    // epoll takes no files.
    sockets.send_replace(vec![held(tempfile::tempfile().unwrap())]);
    let told = serving.workers().all_read(SOON).await.unwrap_err();
    assert_eq!(told.to_string(), "worker 0 does not read Udp at 127.0.0.1");
    sockets.send_replace(vec![held(UdpSocket::bind("127.0.0.1:0").unwrap())]);
    serving.workers().all_read(SOON).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_a_turn_does_not_empty_is_read_until_it_is_and_after_that_as_before() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(socket.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let name = Name::from_text("id.server").unwrap();
    let question = Question { class: class::CH, ..Question::plain(&name, rtype::TXT) };
    let ask = |id| assert!(client.send(&question.to_wire(id, false)).is_ok());
    let mut told = std::collections::HashSet::new();
    let mut hear = |number: usize| {
        for _ in 0..number {
            let mut answer = [0; 512];
            client.recv(&mut answer).unwrap();
            assert!(told.insert([answer[0], answer[1]]));
        }
    };
    // More than a turn reads, less than a socket holds.
    (0..200).for_each(ask);
    let (sockets, _) = watch::channel(vec![held(socket)]);
    let serving = start(1, &sockets);
    hear(200);
    for id in 200..220 {
        ask(id);
        hear(1);
    }
    drop(serving);
}

#[tokio::test]
async fn sockets_are_laid_down_by_all_before_a_process_ends() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (sockets, _) = watch::channel(vec![held(socket)]);
    let serving = start(4, &sockets);
    serving.workers().all_read(SOON).await.unwrap();
    serving.finish().await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.send(b"anything").unwrap();
    serving.workers().all_read(SOON).await.unwrap();
    assert_eq!(serving.workers().datagrams(), [0; 4], "nobody reads what will not be answered");
}
