//! Clients in pods that send queries while a test injects a fault, and the results of their queries.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::Instant;

use dnstier_tests::{flood, stub_clients};

use crate::lab;

/// Names that the clients query in turn: one of the cluster and one of the world, which are soon cache hits, and a
/// unique one (the star becomes a number).
const NAMES: &str = "kubernetes.default.svc.cluster.local,shop.example,*.wild.example";

/// Share of its queries, in percent, that a client has to have sent when it is stopped. What it was late with it sends
/// together once it runs again, so that only the queries due in its last moments are missing. A fifth leaves room for a
/// machine that lets no client run for some seconds.
const MIN_SENT_PERCENT: u64 = 80;

/// Clients in pods that send queries until they are stopped.
pub(crate) struct Clients<R> {
    clients: Vec<Client>,
    report: std::marker::PhantomData<R>,
}

/// Client that sends queries.
struct Client {
    node: String,
    process: Child,
    /// Queries a second.
    rate: u32,
    started: Instant,
}

/// Report of a client that was stopped.
struct Stopped<R> {
    node: String,
    /// Queries that it was to send.
    due: u64,
    report: R,
}

/// Starts stub clients on each of the nodes, over UDP and over TCP. A stub client tries twice, one second apart.
pub(crate) fn stub_clients(nodes: &[&str], servers: &[&str]) -> Clients<stub_clients::Report> {
    let servers = servers.join(",");
    let common = ["/ask", "patience", "--until-stdin-closes", "--json", "--names", NAMES, "--server", &servers];
    let over_tcp = [common.as_slice(), &["--tcp"]].concat();
    let clients = nodes.iter().flat_map(|node| [(*node, common.to_vec()), (*node, over_tcp.clone())]);
    Clients::start(clients, stub_clients::RATE)
}

/// Starts a flood of single tries from every node to one address, `rate` queries a second each.
pub(crate) fn flood_from_all_nodes(server: &str, rate: u32) -> Clients<flood::Report> {
    flood_from_all_nodes_but(&[], server, rate)
}

/// Starts a flood like [`flood_from_all_nodes`] that leaves these nodes out.
pub(crate) fn flood_from_all_nodes_but(out: &[&str], server: &str, rate: u32) -> Clients<flood::Report> {
    let nodes = lab().nodes().iter().map(|node| node.name);
    start_flood(nodes.filter(|node| !out.contains(node)), server, rate, NAMES)
}

/// Starts a flood like [`flood_from_all_nodes`] for these names.
pub(crate) fn flood_of_names_from_all_nodes(server: &str, rate: u32, names: &str) -> Clients<flood::Report> {
    start_flood(lab().nodes().iter().map(|node| node.name), server, rate, names)
}

fn start_flood(
    nodes: impl Iterator<Item = &'static str>,
    server: &str,
    rate: u32,
    names: &str,
) -> Clients<flood::Report> {
    let qps = rate.to_string();
    let command =
        ["/ask", "flood", "--until-stdin-closes", "--json", "--names", names, "--server", server, "--qps", &qps];
    Clients::start(nodes.map(|node| (node, command.to_vec())), rate)
}

impl<R: serde::de::DeserializeOwned> Clients<R> {
    fn start<'a>(clients: impl Iterator<Item = (&'a str, Vec<&'a str>)>, rate: u32) -> Self {
        let clients = clients.map(|(node, command)| {
            let mut command = lab().exec_command(node, &command).expect("a toolbox pod");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut process = command.spawn().expect("a client starts");
            // The client writes to standard error when it begins to send queries.
            let mut first = [0; 1];
            let read = process.stderr.as_mut().expect("a pipe").read(&mut first).expect("the client speaks");
            assert_eq!(read, 1, "the client on {node} ended before it asked");
            Client { node: node.to_owned(), process, rate, started: Instant::now() }
        });
        Self { clients: clients.collect(), report: std::marker::PhantomData }
    }

    /// Stops the clients and returns their reports, by node. Asserts that none of them has ended before.
    pub(crate) fn stop(self) -> Vec<(String, R)> {
        self.end().into_iter().map(|stopped| (stopped.node, stopped.report)).collect()
    }

    fn end(mut self) -> Vec<Stopped<R>> {
        // All are stopped before the first one is waited for.
        let due: Vec<u64> = self.clients.iter_mut().map(Client::stop).collect();
        let clients = std::mem::take(&mut self.clients).into_iter().zip(due);
        let reports = clients.map(|(Client { node, process, .. }, due)| {
            let output = process.wait_with_output().expect("the client ends");
            let text = String::from_utf8_lossy(&output.stdout);
            let report = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error} in {output:?}"));
            Stopped { node, due, report }
        });
        reports.collect()
    }
}

impl Client {
    /// Stops the client, which has to send until now. Returns the number of queries that it was to send.
    fn stop(&mut self) -> u64 {
        let span = self.started.elapsed();
        let ended = self.process.try_wait().expect("the state of a process");
        assert_eq!(ended, None, "the client on {} ended by itself within {span:?}", self.node);
        drop(self.process.stdin.take());
        span.as_secs() * u64::from(self.rate)
    }
}

impl<R> Drop for Clients<R> {
    /// Leaves no client behind when a test fails in the middle.
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.process.kill();
            let _ = client.process.wait();
        }
    }
}

impl<R: std::fmt::Debug> Stopped<R> {
    /// Asserts that the client has sent about as many queries as it was to.
    fn assert_sent(&self, queries: u64) {
        let Self { node, due, report } = self;
        assert!(queries * 100 >= due * MIN_SENT_PERCENT, "{node} sent {queries} of {due} queries: {report:?}");
    }
}

impl Clients<stub_clients::Report> {
    /// Stops the clients and asserts that every query was answered with NOERROR.
    pub(crate) fn assert_none_failed(self) {
        self.assert_servfail_at_most(0);
    }

    /// Stops the clients and asserts that no query failed and that at most this share (in percent) was answered with
    /// SERVFAIL: a query in flight to a resolver that is removed may get that response.
    pub(crate) fn assert_servfail_at_most(self, percent: u64) {
        for stopped in self.end() {
            let Stopped { node, report, .. } = &stopped;
            assert_eq!(report.failed, 0, "{node}: {report:?}");
            stopped.assert_sent(report.asked);
            let noerror = report.rcodes.get("NOERROR").copied().unwrap_or_default();
            assert!(report.asked - noerror <= report.asked * percent / 100, "{node}: {report:?}");
        }
    }
}

impl Clients<flood::Report> {
    /// Stops the flood and asserts that it lasted until now and that not one of its single tries was lost. Returns the
    /// reports, by node.
    pub(crate) fn assert_none_lost(self) -> Vec<(String, flood::Report)> {
        let all = self.end();
        for stopped in &all {
            let Stopped { node, report, .. } = stopped;
            assert_eq!(report.lost, 0, "{node}: {report:?}");
            stopped.assert_sent(report.sent);
        }
        all.into_iter().map(|stopped| (stopped.node, stopped.report)).collect()
    }
}
