//! A node, a pod on it and a cluster DNS, each in a network namespace of its own, and a Service between them.
//!
//! ```text
//! pod 10.9.1.2, fd09:1::2 ── node ── cluster DNS 10.9.2.2, fd09:2::2
//!                             └ Service 10.96.0.10, fd96::a: rewritten to the cluster DNS, as kube-proxy does
//! ```

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SERVICE: &str = r#"
table inet service {
	chain rewrite {
		meta l4proto { tcp, udp } th dport 53 ip daddr 10.96.0.10 dnat ip to 10.9.2.2
		meta l4proto { tcp, udp } th dport 53 ip6 daddr fd96::a dnat ip6 to fd09:2::2
	}
	chain prerouting { type nat hook prerouting priority dstnat; jump rewrite; }
	chain output { type nat hook output priority -100; jump rewrite; }
}
"#;

/// Network namespace, removed on drop.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("dta{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Runs a command in the namespace and returns its output; `None` when it failed.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Option<String> {
        let net = format!("--net={}", self.path().display());
        let output = Command::new("nsenter").arg(net).args(arguments).output().expect("nsenter can be run");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a closure on a new thread in the namespace. Its sockets stay in the namespace.
    pub(crate) fn inside<T: Send + 'static>(&self, closure: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path();
        let thread = std::thread::spawn(move || {
            let namespace = File::open(path).expect("the namespace is there");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("these tests need root");
            closure()
        });
        thread.join().expect("the closure does not panic")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Network namespaces of a node, a pod and the cluster DNS.
pub(crate) struct Network {
    pub(crate) pod: Namespace,
    pub(crate) cluster_dns: Namespace,
    pub(crate) node: Namespace,
}

impl Network {
    pub(crate) fn new() -> Self {
        let network =
            Self { pod: Namespace::new("pod"), cluster_dns: Namespace::new("dns"), node: Namespace::new("node") };
        network.connect(&network.pod, 1);
        network.connect(&network.cluster_dns, 2);
        network.node.ip("route add default dev to2 src 10.9.2.1");
        network.node.ip("-6 route add default dev to2 src fd09:2::1");
        network.node.try_run(&["sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]).unwrap();
        network.nft(SERVICE);
        network
    }

    fn connect(&self, other: &Namespace, number: u8) {
        self.node.ip(&format!("link add to{number} type veth peer name eth0 netns {}", other.name));
        self.node.ip(&format!("addr add 10.9.{number}.1/24 dev to{number}"));
        self.node.ip(&format!("addr add fd09:{number}::1/64 dev to{number} nodad"));
        self.node.ip(&format!("link set to{number} up"));
        other.ip(&format!("addr add 10.9.{number}.2/24 dev eth0"));
        other.ip(&format!("addr add fd09:{number}::2/64 dev eth0 nodad"));
        other.ip("link set eth0 up");
        other.ip(&format!("route add default via 10.9.{number}.1"));
        other.ip(&format!("-6 route add default via fd09:{number}::1"));
    }

    /// Adds a pod at 10.9.`number`.2 and fd09:`number`::2.
    pub(crate) fn add_pod(&self, number: u8) -> Namespace {
        let pod = Namespace::new("pod");
        self.connect(&pod, number);
        pod
    }

    /// Runs a script of packet rules on the node.
    pub(crate) fn nft(&self, script: &str) {
        use std::io::Write;
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.node.path().display()))
            .args(["nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
    }

    /// Returns the addresses of the node's loopback link, as `ip` prints them.
    pub(crate) fn loopback(&self) -> String {
        self.node.ip("addr show dev lo")
    }

    /// Returns the agent's table, as `nft` prints it.
    pub(crate) fn table(&self) -> Option<String> {
        self.node.try_run(&["nft", "list", "table", "inet", "dnstier_test"])
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
