use std::future::poll_fn;

use super::*;
use crate::upstream::transport::socket_pool::PoolGuard;

fn server() -> (std::net::UdpSocket, SocketAddr) {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

fn port(lent: &PooledSocket) -> u16 {
    lent.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_socket_that_was_answered_serves_again_and_one_that_was_not_is_closed() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let lent = sockets.acquire().unwrap();
    let first = port(&lent);
    assert_ne!(port(&sockets.acquire().unwrap()), first, "one question at a time");
    sockets.release(lent);
    let lent = sockets.acquire().unwrap();
    assert_eq!(port(&lent), first);
    drop(lent);
    assert!(sockets.waiting().is_empty());
    std::net::UdpSocket::bind(("0.0.0.0", first)).unwrap();
}

#[tokio::test]
async fn a_report_is_heard_once_an_answer_after_it_as_well_and_the_socket_serves_no_more() {
    let (nobody, address) = server();
    drop(nobody);
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let mut lent = sockets.acquire().unwrap();
    lent.send(b"?").unwrap();
    let mut buffer = [MaybeUninit::uninit(); 16];
    let heard = poll_fn(|context| lent.poll_heard(context)).await.unwrap();
    assert_eq!(lent.read(heard, &mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let somebody = std::net::UdpSocket::bind(address).unwrap();
    somebody.send_to(b"late", lent.local_addr().unwrap()).unwrap();
    let mut read = |lent: &mut PooledSocket, heard| lent.read(heard, &mut buffer).map(<[u8]>::to_vec);
    loop {
        let heard = poll_fn(|context| lent.poll_heard(context)).await.unwrap();
        match read(&mut lent, heard) {
            Ok(packet) => break assert_eq!(packet, b"late"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    sockets.release(lent);
    assert!(sockets.waiting().is_empty());
}

#[tokio::test]
async fn a_socket_to_a_foreign_server_serves_once() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Fresh);
    sockets.release(sockets.acquire().unwrap());
    assert!(sockets.waiting().is_empty());
}

#[tokio::test]
async fn sockets_are_bounded_in_number_questions_and_age_and_go_with_their_server() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let lent: Vec<_> = (0..MOST_OF_ONE + 10).map(|_| sockets.acquire().unwrap()).collect();
    lent.into_iter().for_each(|lent| sockets.release(lent));
    assert_eq!(sockets.waiting().len(), MOST_OF_ONE);
    sockets.close_old(Instant::now());
    assert_eq!(sockets.waiting().len(), MOST_OF_ONE);
    sockets.close_old(Instant::now() + LONGEST);
    assert_eq!(sockets.waiting().len(), 0);

    let one = sockets.acquire().unwrap();
    let first = port(&one);
    sockets.release(one);
    for _ in 1..MOST_QUESTIONS {
        let one = sockets.acquire().unwrap();
        assert_eq!(port(&one), first);
        sockets.release(one);
    }
    assert!(sockets.waiting().is_empty(), "it has served often enough");
    let one = sockets.acquire().unwrap();
    let second = port(&one);
    sockets.release(one);
    drop(sockets);
    std::net::UdpSocket::bind(("0.0.0.0", second)).unwrap();
}

#[tokio::test]
async fn each_thread_uses_sockets_of_its_own() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let lent = sockets.acquire().unwrap();
    let first = port(&lent);
    sockets.release(lent);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            assert_ne!(port(&sockets.acquire().unwrap()), first);
        });
    });
    assert_eq!(port(&sockets.acquire().unwrap()), first);
}

/// How far numbers are from being spread evenly over these many classes: Pearson's X², which is about as large as the
/// number of classes where they are.
fn unevenness(server_ids: impl Iterator<Item = usize>, classes: usize) -> f64 {
    let mut counts = vec![0.0; classes];
    server_ids.for_each(|number| counts[number] += 1.0);
    let expected = counts.iter().sum::<f64>() / classes as f64;
    counts.iter().map(|count| (count - expected).powi(2) / expected).sum()
}

#[test]
fn all_threads_pick_from_all_ports() {
    let (_server, address) = server();
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let [low, high] = [0, 1].map(|at| range.split_whitespace().nth(at).unwrap().parse::<usize>().unwrap());
    // New sockets and such as are used again and again.
    let ports_of_a_thread = |keeps_some: bool| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let _keeper = keeps_some.then(PoolGuard::new);
        let sockets = Sockets::new(address, PortPolicy::Fresh);
        (0..4096).map(|_| usize::from(port(&sockets.acquire().unwrap()))).collect::<Vec<_>>()
    };
    let threads = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || ports_of_a_thread(thread % 2 == 0))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for ports in threads {
        assert!(ports.iter().all(|port| (low..=high).contains(port)));
        // 31 and 15 on average; these are reached once in a million times.
        let place = |port: &usize| (port - low) * 32 / (high - low + 1);
        assert!(unevenness(ports.iter().map(place), 32) < 83.0, "thirty-seconds of the range");
        assert!(unevenness(ports.iter().map(|port| port % 16), 16) < 56.0, "the last bits");
    }
}
