//! Pods that ask all the time while something happens, and what became of their questions.

use std::io::Read as _;
use std::process::{Child, Stdio};

use dnstier_tests::{flood, stub_clients};

use crate::lab;
use crate::tier::NODES;

/// Names that the clients of a watch ask for in turn: one of the cluster and one of the world, which a cache soon
/// knows, and one that nobody has asked before (the star becomes a number).
const NAMES: &str = "kubernetes.default.svc.cluster.local,shop.example,*.wild.example";

/// Clients in pods that ask until they are told to stop.
pub(crate) struct Watch<R> {
    clients: Vec<(String, Child)>,
    report: std::marker::PhantomData<R>,
}

/// A client that tries twice, one second apart, over UDP and over TCP, on each of the nodes.
pub(crate) fn stub_clients(nodes: &[&str], servers: &[&str]) -> Watch<stub_clients::Report> {
    let servers = servers.join(",");
    let common = ["/ask", "patience", "--until-stdin-closes", "--json", "--names", NAMES, "--server", &servers];
    let over_tcp = [common.as_slice(), &["--tcp"]].concat();
    Watch::start(nodes.iter().flat_map(|node| [(*node, common.to_vec()), (*node, over_tcp.clone())]))
}

/// A flood of single tries from every node to one address, `rate` questions a second each.
pub(crate) fn flood_from_all_nodes(server: &str, rate: u32) -> Watch<flood::Report> {
    let rate = rate.to_string();
    let command =
        ["/ask", "flood", "--until-stdin-closes", "--json", "--names", NAMES, "--server", server, "--qps", &rate];
    Watch::start(NODES.iter().map(|node| (*node, command.to_vec())))
}

impl<R: serde::de::DeserializeOwned> Watch<R> {
    fn start<'a>(clients: impl Iterator<Item = (&'a str, Vec<&'a str>)>) -> Self {
        let clients = clients.map(|(node, command)| {
            let mut command = lab().exec_command(node, &command).expect("a toolbox pod");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("a client starts");
            // The client says so on its standard error when it begins to ask.
            let mut first = [0; 1];
            let began = child.stderr.as_mut().expect("a pipe").read(&mut first).expect("the client speaks");
            assert_eq!(began, 1, "the client on {node} ended before it asked");
            (node.to_owned(), child)
        });
        Self { clients: clients.collect(), report: std::marker::PhantomData }
    }

    /// Tells the clients to stop and reads what became of their questions, by node.
    pub(crate) fn end(mut self) -> Vec<(String, R)> {
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

impl<R> Drop for Watch<R> {
    /// A test that fails in the middle leaves no client behind.
    fn drop(&mut self) {
        for (_, child) in &mut self.clients {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Watch<stub_clients::Report> {
    /// Ends the watch and asserts that every question was answered well.
    pub(crate) fn assert_none_failed(self) {
        self.assert_servfail_at_most(0);
    }

    /// The same while everything is taken away: a question that is under way to a resolver that goes may be answered
    /// with SERVFAIL, which is an answer, in this share of all (in percent).
    pub(crate) fn assert_servfail_at_most(self, percent: u64) {
        for (node, report) in self.end() {
            assert_eq!(report.failed, 0, "{node}: {report:?}");
            assert!(report.asked > 20, "{node} hardly asked: {report:?}");
            let well = report.rcodes.get("NOERROR").copied().unwrap_or_default();
            assert!(report.asked - well <= report.asked * percent / 100, "{node}: {report:?}");
        }
    }
}

impl Watch<flood::Report> {
    /// Ends the flood and asserts that not one of its single tries was lost.
    pub(crate) fn assert_none_lost(self) {
        for (node, report) in self.end() {
            assert_eq!(report.lost, 0, "{node}: {report:?}");
            assert!(report.sent > 100, "{node} hardly asked: {report:?}");
        }
    }
}
