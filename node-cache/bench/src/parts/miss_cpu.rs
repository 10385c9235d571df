//! Part `miss-cpu`: CPU time of a miss that DnsTier forwards to an upstream, from a new socket for each query, and to a
//! resolver of the zone, from sockets that are reused. Prints both, and writes nothing.

use crate::host::processors::{CLIENT_CPU, pin_current_thread};
use crate::load::hit_client::HitClient;
use crate::servers::miss_resolver::{self, MissTarget};
use crate::statistics::median;

/// Queries of one turn, each for another name.
const QUERIES: usize = 10_000;
const TURNS: usize = 15;

/// Measures both targets in turns.
pub(crate) fn run() {
    pin_current_thread(CLIENT_CPU);
    let upstream = miss_resolver::start_upstream();
    let mut servers = MissTarget::ALL.map(|target| {
        let server = miss_resolver::spawn(target, upstream);
        let client = HitClient::new(server.address, TURNS * QUERIES);
        (target, server, client, Vec::new())
    });
    for _ in 0..TURNS {
        for (target, server, client, times) in &mut servers {
            let before = server.cpu_time();
            let report = client.send_queries(QUERIES);
            assert!(report.answered > QUERIES / 2, "{}: {report:?}", target.name());
            times.push((server.cpu_time() - before) / report.answered as f64);
        }
    }
    for (target, _, _, times) in &servers {
        println!("{:<14} {:>7.0} ns of CPU time per miss", target.name(), median(times));
    }
}
