//! Network of the replay: a bridge in this process's namespace, where the clients are, and namespaces of the world and
//! of three nodes at it. All of it ends with this process, and nothing of it is in the machine's own namespaces.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Folder of all files, on a file system in memory that is mounted in this process's namespace alone.
pub(super) const FOLDER: &str = "/run/replay";
/// Provider's resolver: link-local, as in clouds.
pub(super) const PROVIDER: &str = "169.254.169.253";
/// Resolver that casts may ask beside the provider's.
pub(super) const FALLBACK: &str = "192.0.2.53";
/// Address from which both of them query.
pub(super) const OUTGOING: &str = "192.0.2.54";
/// Authoritative server of all names.
pub(super) const AUTHORITY: &str = "192.0.2.1";
/// Address to which a tenth of the domains is delegated, and that answers nothing.
pub(super) const DEAD: [u8; 4] = [192, 0, 2, 200];
/// Address of the world on the bridge, and that of the cluster DNS, which knows the zone resolvers.
pub(super) const CLUSTER_DNS: &str = "10.88.0.254:5300";
/// Addresses of everybody who may query.
pub(super) const CLIENTS: &str = "10.88.0.0/24";
/// Clients of each server, each with an address of its own, as pods have.
pub(super) const CLIENTS_PER_SERVER: usize = 8;
/// Nodes, one a zone.
pub(super) const NODES: usize = 3;
/// Zone resolvers of a node.
pub(super) const RESOLVERS_PER_NODE: usize = 2;
/// Central resolvers at most.
pub(super) const CENTRAL: usize = 10;

/// Returns the address of a node, from which everything on it sends to the world.
pub(super) fn node_address(node: usize) -> String {
    format!("10.88.0.{}", 2 + node)
}

/// Returns the address of a client.
pub(super) fn client_address(number: usize) -> String {
    format!("10.88.0.{}", 61 + number)
}

/// Returns the address of a zone resolver on a node.
pub(super) fn resolver_address(node: usize, resolver: usize) -> String {
    format!("10.88.0.{}", 12 + node + 10 * resolver)
}

/// Returns the address of a central resolver. They are spread over the nodes.
pub(super) fn central_address(number: usize) -> String {
    format!("10.88.0.{}", 41 + number)
}

/// Namespace of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    World,
    Node(usize),
}

impl Member {
    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::World).chain((0..NODES).map(Self::Node))
    }

    fn name(self) -> String {
        match self {
            Self::World => "world".to_owned(),
            Self::Node(node) => format!("node-{}", char::from(b'a' + node as u8)),
        }
    }

    fn pin(self) -> PathBuf {
        Path::new(FOLDER).join(format!("{}.net", self.name()))
    }

    /// Returns a command in this namespace that the kernel kills when this process ends.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        let mut network = std::ffi::OsString::from("--net=");
        network.push(self.pin());
        command.args(["--pdeathsig", "KILL", "nsenter"]).arg(network).arg(program);
        command
    }
}

/// Namespaces and links. There is one a process.
pub(super) struct Network(());

impl Network {
    /// Makes the namespaces and connects them.
    pub(super) fn create() -> Self {
        fs::create_dir_all(FOLDER).unwrap();
        let mut bridge = "link add br0 type bridge\nlink set br0 up\naddress add 10.88.0.1/24 dev br0\n".to_owned();
        for client in 0..CLIENTS_PER_SERVER {
            bridge += &format!("address add {}/24 dev br0\n", client_address(client));
        }
        for member in Member::all() {
            let pin = member.pin();
            fs::write(&pin, "").unwrap();
            let mut net = std::ffi::OsString::from("--net=");
            net.push(&pin);
            output_of(Command::new("unshare").arg(net).arg("true"), "");
            let (name, pin) = (member.name(), pin.display());
            bridge += &format!("link add {name} type veth peer name eth0 netns {pin}\n");
            bridge += &format!("link set {name} master br0 up\n");
        }
        output_of(Command::new("ip").args(["-batch", "-"]), &bridge);
        for member in Member::all() {
            output_of(member.command("ip").args(["-batch", "-"]), &addresses(member));
        }
        Self(())
    }
}

/// Returns the `ip` commands of a member.
fn addresses(member: Member) -> String {
    let mut lines = "link set lo up\nlink set eth0 up\n".to_owned();
    match member {
        Member::World => {
            lines += "address add 10.88.0.254/24 dev eth0\n";
            let [a, b, c, d] = DEAD;
            for address in [PROVIDER, FALLBACK, OUTGOING, AUTHORITY, &format!("{a}.{b}.{c}.{d}")] {
                lines += &format!("address add {address}/32 dev lo\n");
            }
        }
        Member::Node(node) => {
            // The first one is what the node sends from.
            let resolvers = (0..RESOLVERS_PER_NODE).map(|resolver| resolver_address(node, resolver));
            let central = (node..CENTRAL).step_by(NODES).map(central_address);
            for address in std::iter::once(node_address(node)).chain(resolvers).chain(central) {
                lines += &format!("address add {address}/24 dev eth0\n");
            }
            lines += "route add default via 10.88.0.254\n";
        }
    }
    lines
}

/// Runs a command to its end with this text as its input; returns what it prints.
pub(super) fn output_of(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Running servers. Dropping them kills each process and waits for its end.
#[derive(Default)]
pub(super) struct Servers(Vec<Child>);

impl Servers {
    /// Starts a server whose output goes to a file of this name.
    pub(super) fn start(&mut self, name: &str, command: &mut Command) {
        let log = fs::File::create(Path::new(FOLDER).join(format!("{name}.log"))).unwrap();
        let output = log.try_clone().unwrap();
        self.0.push(command.stdin(Stdio::null()).stdout(output).stderr(log).spawn().unwrap());
    }
}

/// Prints the last lines that each server has written, for whoever looks for the cause of a failure.
pub(super) fn print_logs() {
    const LINES: usize = 5;
    for file in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        if file.path().extension().is_some_and(|extension| extension == "log") && !text.is_empty() {
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
            println!("{}:\n  {last}", file.file_name().display());
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|child| drop(child.kill()));
        self.0.iter_mut().for_each(|child| drop(child.wait()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        CENTRAL, CLIENTS_PER_SERVER, Member, NODES, RESOLVERS_PER_NODE, addresses, central_address, client_address,
        node_address, resolver_address,
    };

    #[test]
    fn no_address_is_given_twice() {
        let resolvers = (0..NODES).flat_map(|node| (0..RESOLVERS_PER_NODE).map(move |r| resolver_address(node, r)));
        let all = (0..NODES).map(node_address).chain(resolvers).chain((0..CENTRAL).map(central_address));
        let all: Vec<String> = all.collect();
        let clients = (0..CLIENTS_PER_SERVER).map(client_address);
        let distinct: BTreeSet<String> = all.iter().cloned().chain(clients).collect();
        assert_eq!(distinct.len(), all.len() + CLIENTS_PER_SERVER, "{all:?}");
        let lines: String = (0..NODES).map(|node| addresses(Member::Node(node))).collect();
        assert!(all.iter().all(|address| lines.matches(&format!(" {address}/24 ")).count() == 1), "{lines}");
    }

    #[test]
    fn a_node_sends_from_its_own_address() {
        let lines = addresses(Member::Node(1));
        assert_eq!(lines.lines().find(|line| line.starts_with("address")), Some("address add 10.88.0.3/24 dev eth0"));
    }
}
