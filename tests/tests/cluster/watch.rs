//! Clients in pods that send queries while a test injects a fault, and the results of their queries.

use std::io::Read as _;
use std::process::{Child, Stdio};

use dnstier_tests::{flood, stub_clients};

use crate::lab;

/// Names that the clients query in turn: one of the cluster and one of the world, which are soon cache hits, and a
/// unique one (the star becomes a number).
const NAMES: &str = "kubernetes.default.svc.cluster.local,shop.example,*.wild.example";

/// Clients in pods that send queries until they are stopped.
pub(crate) struct Clients<R> {
    clients: Vec<(String, Child)>,
    report: std::marker::PhantomData<R>,
}

/// Starts stub clients on each of the nodes, over UDP and over TCP. A stub client tries twice, one second apart.
pub(crate) fn stub_clients(nodes: &[&str], servers: &[&str]) -> Clients<stub_clients::Report> {
    let servers = servers.join(",");
    let common = ["/ask", "patience", "--until-stdin-closes", "--json", "--names", NAMES, "--server", &servers];
    let over_tcp = [common.as_slice(), &["--tcp"]].concat();
    Clients::start(nodes.iter().flat_map(|node| [(*node, common.to_vec()), (*node, over_tcp.clone())]))
}

/// Starts a flood of single tries from every node to one address, `rate` queries a second each.
pub(crate) fn flood_from_all_nodes(server: &str, rate: u32) -> Clients<flood::Report> {
    flood_of_names_from_all_nodes(server, rate, NAMES)
}

/// Starts a flood like [`flood_from_all_nodes`] for these names.
pub(crate) fn flood_of_names_from_all_nodes(server: &str, rate: u32, names: &str) -> Clients<flood::Report> {
    let rate = rate.to_string();
    let command =
        ["/ask", "flood", "--until-stdin-closes", "--json", "--names", names, "--server", server, "--qps", &rate];
    Clients::start(lab().nodes().iter().map(|node| (node.name, command.to_vec())))
}

impl<R: serde::de::DeserializeOwned> Clients<R> {
    fn start<'a>(clients: impl Iterator<Item = (&'a str, Vec<&'a str>)>) -> Self {
        let clients = clients.map(|(node, command)| {
            let mut command = lab().exec_command(node, &command).expect("a toolbox pod");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("a client starts");
            // The client writes to standard error when it begins to send queries.
            let mut first = [0; 1];
            let read = child.stderr.as_mut().expect("a pipe").read(&mut first).expect("the client speaks");
            assert_eq!(read, 1, "the client on {node} ended before it asked");
            (node.to_owned(), child)
        });
        Self { clients: clients.collect(), report: std::marker::PhantomData }
    }

    /// Stops the clients and returns their reports, by node.
    pub(crate) fn stop(mut self) -> Vec<(String, R)> {
        for (_, child) in &mut self.clients {
            drop(child.stdin.take());
        }
        let clients = std::mem::take(&mut self.clients);
        let reports = clients.into_iter().map(|(node, child)| {
            let output = child.wait_with_output().expect("the client ends");
            let text = String::from_utf8_lossy(&output.stdout);
            let report = serde_json::from_str(text.trim());
            (node, report.unwrap_or_else(|error| panic!("{error} in {output:?}")))
        });
        reports.collect()
    }
}

impl<R> Drop for Clients<R> {
    /// Leaves no client behind when a test fails in the middle.
    fn drop(&mut self) {
        for (_, child) in &mut self.clients {
            let _ = child.kill();
            let _ = child.wait();
        }
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
        for (node, report) in self.stop() {
            assert_eq!(report.failed, 0, "{node}: {report:?}");
            assert!(report.asked > 20, "{node} hardly asked: {report:?}");
            let noerror = report.rcodes.get("NOERROR").copied().unwrap_or_default();
            assert!(report.asked - noerror <= report.asked * percent / 100, "{node}: {report:?}");
        }
    }
}

impl Clients<flood::Report> {
    /// Stops the flood and asserts that not one of its single tries was lost. Returns the reports, by node.
    pub(crate) fn assert_none_lost(self) -> Vec<(String, flood::Report)> {
        let reports = self.stop();
        for (node, report) in &reports {
            assert_eq!(report.lost, 0, "{node}: {report:?}");
            assert!(report.sent > 100, "{node} hardly asked: {report:?}");
        }
        reports
    }
}
