use std::future::poll_fn;

use super::*;
use crate::upstream::transport::socket_pool::PoolGuard;

fn server() -> (std::net::UdpSocket, SocketAddr) {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

fn port(socket: &PooledSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_socket_that_was_answered_serves_again_and_one_that_was_not_is_closed() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let socket = sockets.acquire().unwrap();
    let first = port(&socket);
    assert_ne!(port(&sockets.acquire().unwrap()), first, "one query at a time");
    sockets.release(socket);
    let socket = sockets.acquire().unwrap();
    assert_eq!(port(&socket), first);
    drop(socket);
    assert!(sockets.idle().is_empty());
    std::net::UdpSocket::bind(("0.0.0.0", first)).unwrap();
}

#[tokio::test]
async fn an_icmp_error_is_reported_once_a_later_response_too_and_the_socket_is_closed() {
    let (closed, address) = server();
    drop(closed);
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let mut socket = sockets.acquire().unwrap();
    socket.send(b"?").unwrap();
    let mut buffer = [MaybeUninit::uninit(); 16];
    let interest = poll_fn(|context| socket.poll_ready(context)).await.unwrap();
    assert_eq!(socket.recv(interest, &mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let reopened = std::net::UdpSocket::bind(address).unwrap();
    reopened.send_to(b"late", socket.local_addr().unwrap()).unwrap();
    let mut recv = |socket: &mut PooledSocket, interest| socket.recv(interest, &mut buffer).map(<[u8]>::to_vec);
    loop {
        let interest = poll_fn(|context| socket.poll_ready(context)).await.unwrap();
        match recv(&mut socket, interest) {
            Ok(packet) => break assert_eq!(packet, b"late"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    sockets.release(socket);
    assert!(sockets.idle().is_empty());
}

#[tokio::test]
async fn a_socket_to_a_foreign_server_serves_once() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Fresh);
    sockets.release(sockets.acquire().unwrap());
    assert!(sockets.idle().is_empty());
}

#[tokio::test]
async fn sockets_are_bounded_in_number_queries_and_age_and_go_with_their_server() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let acquired: Vec<_> = (0..MAX_IDLE_PER_SERVER + 10).map(|_| sockets.acquire().unwrap()).collect();
    acquired.into_iter().for_each(|socket| sockets.release(socket));
    assert_eq!(sockets.idle().len(), MAX_IDLE_PER_SERVER);
    sockets.close_expired(Instant::now());
    assert_eq!(sockets.idle().len(), MAX_IDLE_PER_SERVER);
    sockets.close_expired(Instant::now() + MAX_SOCKET_AGE);
    assert_eq!(sockets.idle().len(), 0);

    let socket = sockets.acquire().unwrap();
    let first = port(&socket);
    sockets.release(socket);
    for _ in 1..MAX_QUERIES_PER_SOCKET {
        let socket = sockets.acquire().unwrap();
        assert_eq!(port(&socket), first);
        sockets.release(socket);
    }
    assert!(sockets.idle().is_empty(), "the maximum number of queries is reached");
    let socket = sockets.acquire().unwrap();
    let second = port(&socket);
    sockets.release(socket);
    drop(sockets);
    std::net::UdpSocket::bind(("0.0.0.0", second)).unwrap();
}

#[tokio::test]
async fn each_thread_uses_sockets_of_its_own() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Reuse);
    let socket = sockets.acquire().unwrap();
    let first = port(&socket);
    sockets.release(socket);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            assert_ne!(port(&sockets.acquire().unwrap()), first);
        });
    });
    assert_eq!(port(&sockets.acquire().unwrap()), first);
}

/// Pearson's X² of values in `0..classes` against an even distribution. Its expected value is about `classes`.
fn chi_squared(values: impl Iterator<Item = usize>, classes: usize) -> f64 {
    let mut counts = vec![0.0; classes];
    values.for_each(|value| counts[value] += 1.0);
    let expected = counts.iter().sum::<f64>() / classes as f64;
    counts.iter().map(|count| (count - expected).powi(2) / expected).sum()
}

#[test]
fn all_threads_pick_from_all_ports() {
    let (_server, address) = server();
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let [low, high] = [0, 1].map(|at| range.split_whitespace().nth(at).unwrap().parse::<usize>().unwrap());
    // With new sockets, and with sockets from the pool.
    let ports_of_a_thread = |has_pool: bool| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let _pool = has_pool.then(PoolGuard::new);
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
        let class = |port: &usize| (port - low) * 32 / (high - low + 1);
        assert!(chi_squared(ports.iter().map(class), 32) < 83.0, "thirty-seconds of the range");
        assert!(chi_squared(ports.iter().map(|port| port % 16), 16) < 56.0, "the last bits");
    }
}

#[tokio::test]
async fn kept_ports_are_64_of_a_server_one_of_them_at_random_for_each_query() {
    let (_server, address) = server();
    let sockets = Sockets::new(address, PortPolicy::Keep);
    let use_once = || {
        let socket = sockets.acquire().unwrap();
        let port = port(&socket);
        sockets.release(socket);
        port
    };
    let fresh: std::collections::HashSet<u16> = (0..64).map(|_| use_once()).collect();
    assert_eq!(fresh.len(), 64, "fresh ones until there are as many");
    let kept: Vec<u16> = (0..1_000).map(|_| use_once()).collect();
    assert!(kept.iter().all(|port| fresh.contains(port)));
    let most = fresh.iter().map(|port| kept.iter().filter(|other| *other == port).count()).max().unwrap();
    assert!(most < 50, "at random: {most}");
    sockets.close_after_silence();
    assert!(fresh.contains(&use_once()), "silence is no reason for fresh ports");
    // One that waits for a response keeps its port, and counts.
    let waiting = sockets.acquire().unwrap();
    assert!(fresh.contains(&use_once()));
    drop(waiting);
    assert!(!fresh.contains(&use_once()), "a fresh one takes its place");
    // A near miss makes all of them known.
    sockets.close_all();
    assert!(!fresh.contains(&use_once()));
    drop(sockets);
    assert_eq!(count_kept(address, |ports| *ports), 0);
}

#[test]
fn ports_are_kept_for_link_local_upstreams_alone() {
    for (address, policy) in [
        ("169.254.169.253", PortPolicy::Keep),
        ("fe80::1", PortPolicy::Keep),
        ("168.63.129.16", PortPolicy::Fresh),
        ("10.0.0.2", PortPolicy::Fresh),
        ("fd00:ec2::253", PortPolicy::Fresh),
    ] {
        assert_eq!(PortPolicy::of_upstream(address.parse().unwrap()), policy, "{address}");
    }
}
