//! The cluster DNS that people have: a real CoreDNS whose Corefile adds names with `hosts`, `template`, `rewrite` and
//! `file`, at several depths, inside and outside of the cluster domain. Whatever it answers when it is asked directly
//! is answered through a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::require::{Requirement, require};
use crate::support::{Tier, config, exchange, query_for, route, wait_until, zone};

/// Made-up queries, and the seed that they are made from.
const QUERIES: usize = 1500;
const SEED: u64 = 17;

const COREFILE: &str = r#"
.:{port} {
    bind 127.0.0.1
    rewrite stop name exact forge.tools.cluster.local git.tools.cluster.local
    rewrite stop name exact sql.corp.test db.eu.corp.test
    rewrite stop name suffix .old.cluster.local .shop.svc.cluster.local answer auto
    hosts {folder}/hosts {
        ttl 30
        fallthrough
    }
    template IN A build.cluster.local {
        match ^ci-[0-9]+\.(a|b)\.build\.cluster\.local\.$
        answer "{{ .Name }} 30 IN A 10.9.8.7"
        fallthrough
    }
    template IN ANY dyn.corp.test {
        match ^x[0-9]+\.dyn\.corp\.test\.$
        answer "{{ .Name }} 30 IN CNAME db.eu.corp.test."
        fallthrough
    }
    file {folder}/cluster.zone cluster.local
    file {folder}/corp.zone corp.test
    file {folder}/outside.zone test
}
"#;

const HOSTS: &str = "
10.1.1.1 git.tools.cluster.local
10.1.1.2 a.b.c.d.cluster.local
fd00::2 a.b.c.d.cluster.local
10.1.1.3 db.legacy.svc.cluster.local
10.1.1.4 printer.floor.corp.test
10.1.1.5 api.shop.test.cluster.local
";

const SOA: &str = "@ 30 IN SOA ns hostmaster 1 7200 1800 86400 30\n@ 30 IN NS ns\n";

const CLUSTER_ZONE: &str = "
web.shop.svc 30 IN A 10.96.1.2
cache.shop.svc 30 IN A 10.96.1.3
_http._tcp.web.shop.svc 30 IN SRV 0 100 80 web.shop.svc
external.shop.svc 30 IN CNAME www.shop.test.
internal.shop.svc 30 IN CNAME db.eu.corp.test.
";

const CORP_ZONE: &str = "
db.eu 30 IN A 10.2.2.2
portal 30 IN CNAME www.shop.test.
jobs 30 IN CNAME web.shop.svc.cluster.local.
gone 30 IN CNAME none.shop.svc.cluster.local.
";

const OUTSIDE_ZONE: &str = "
www.shop 30 IN A 192.0.2.80
mail.shop 30 IN MX 10 www.shop
private.shop 30 IN CNAME db.eu.corp.test.
inside.shop 30 IN CNAME cache.shop.svc.cluster.local.
twice.shop 30 IN CNAME portal.corp.test.
nothing.shop 30 IN CNAME none.corp.test.
";

/// Names that CoreDNS has, from every plugin, and names beside and above them that it denies.
const NAMES: [&str; 27] = [
    "git.tools.cluster.local",
    "forge.tools.cluster.local",
    "a.b.c.d.cluster.local",
    "db.legacy.svc.cluster.local",
    "ci-1.a.build.cluster.local",
    "ci-2.b.build.cluster.local",
    "ci-3.c.build.cluster.local",
    "web.shop.svc.cluster.local",
    "cache.shop.svc.cluster.local",
    "web.old.cluster.local",
    "none.old.cluster.local",
    "_http._tcp.web.shop.svc.cluster.local",
    "external.shop.svc.cluster.local",
    "internal.shop.svc.cluster.local",
    "api.shop.test.cluster.local",
    "www.shop.test.shop.svc.cluster.local",
    "db.eu.corp.test",
    "sql.corp.test",
    "x1.dyn.corp.test",
    "printer.floor.corp.test",
    "portal.corp.test",
    "jobs.corp.test",
    "gone.corp.test",
    "private.shop.test",
    "inside.shop.test",
    "twice.shop.test",
    "nothing.shop.test",
];
const TYPES: [RecordType; 7] = [
    RecordType::A,
    RecordType::A,
    RecordType::AAAA,
    RecordType::TXT,
    RecordType::MX,
    RecordType::CNAME,
    RecordType::SRV,
];

/// A running CoreDNS. Dropping it stops it.
struct CoreDns {
    address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl CoreDns {
    /// Starts CoreDNS on a free port, and on another one when it ends because something else has taken the port.
    async fn start(program: &PathBuf) -> Self {
        for _ in 0..5 {
            let mut started = Self::start_once(program);
            let mut has_ended = false;
            // Its port refuses packets at first.
            wait_until("CoreDNS answers", Duration::from_secs(60), async || {
                has_ended = started.process.try_wait().is_ok_and(|status| status.is_some());
                has_ended || has_answer(started.address, "web.shop.svc.cluster.local").await
            })
            .await;
            if !has_ended {
                return started;
            }
        }
        panic!("CoreDNS ends with each port");
    }

    fn start_once(program: &PathBuf) -> Self {
        let folder = TempDir::new().unwrap();
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let path = folder.path().to_str().unwrap();
        let corefile = COREFILE.replace("{port}", &address.port().to_string()).replace("{folder}", path);
        write("Corefile", &corefile);
        write("hosts", HOSTS);
        write("cluster.zone", &format!("$ORIGIN cluster.local.\n{SOA}{CLUSTER_ZONE}"));
        write("corp.zone", &format!("$ORIGIN corp.test.\n{SOA}{CORP_ZONE}"));
        write("outside.zone", &format!("$ORIGIN test.\n{SOA}{OUTSIDE_ZONE}"));
        let mut command = Command::new("setpriv");
        // It ends with this process, however that ends.
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("-conf").arg(folder.path().join("Corefile"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { address, process, _folder: folder }
    }
}

/// Returns whether a server has records of a name.
async fn has_answer(server: SocketAddr, name: &str) -> bool {
    let query = query_for(name, RecordType::A).to_vec().unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 512];
    if socket.connect(server).await.is_err() || socket.send(&query).await.is_err() {
        return false;
    }
    let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
    let length = received.ok().and_then(Result::ok).unwrap_or_default();
    Message::from_vec(&buffer[..length]).is_ok_and(|response| !response.answers.is_empty())
}

/// Requires CoreDNS as the lab compiles it, and returns its path. It is compiled where `make test` runs the test;
/// elsewhere it must be there already.
fn coredns() -> Result<PathBuf, String> {
    let is_compiled = std::env::var_os("HOME").is_some_and(|home| {
        let folders = fs::read_dir(PathBuf::from(home).join(".cache/dnstier/lab")).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| folder.path().join("coredns").is_file())
    });
    if !is_compiled && std::env::var_os("DNSTIER_TESTS_REQUIRE_ALL").is_none() {
        return Err("needs CoreDNS: `make test` compiles it, and so does `lab program coredns`".into());
    }
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let lab = test.ancestors().nth(2).map(|folder| folder.join("lab")).filter(|lab| lab.is_file());
    let lab = lab.ok_or("needs the program `lab`, which `make test` compiles")?;
    let output = Command::new(lab).args(["program", "coredns"]).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err(format!("needs CoreDNS: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn is_coredns_there() -> Requirement {
    crate::require::program("setpriv")?;
    coredns().map(drop)
}

/// Makes the name of a query: one of the names, one below or beside it, or one above it, in any case.
fn made_up_name(random: &mut StdRng) -> String {
    let base = *NAMES.choose(random).unwrap();
    let parent = base.split_once('.').map_or(base, |(_, parent)| parent);
    let name = match random.random_range(0..8) {
        0..=3 => base.to_owned(),
        4 => format!("x{}.{base}", random.random_range(0..20)),
        5 | 6 => format!("y{}.{parent}", random.random_range(0..20)),
        _ => parent.to_owned(),
    };
    let in_any_case = |letter: char| if random.random_ratio(1, 4) { letter.to_ascii_uppercase() } else { letter };
    name.chars().map(in_any_case).collect()
}

/// Returns what has to be equal in two responses: the rcode, the answers in any order, and the chain of aliases.
fn comparable(response: &Message) -> (String, BTreeSet<(String, String, String)>, Vec<String>) {
    let fields = |record: &hickory_proto::rr::Record| {
        let [owner, data] = [record.name.to_ascii(), record.data.to_string()].map(|text| text.to_lowercase());
        (owner, record.record_type().to_string(), data)
    };
    let aliases = response.answers.iter().filter(|record| record.record_type() == RecordType::CNAME);
    let chain = aliases.map(|record| record.name.to_ascii().to_lowercase()).collect();
    (response.metadata.response_code.to_string(), response.answers.iter().map(fields).collect(), chain)
}

#[tokio::test]
async fn whatever_a_coredns_with_names_of_its_own_answers_is_answered_through_a_node() {
    require!(is_coredns_there());
    let coredns = CoreDns::start(&coredns().unwrap()).await;
    let mut config = config(coredns.address);
    config.zones = vec![zone("zone-a", coredns.address)];
    config.routes = vec![route("corp.test", &[coredns.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut kinds: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for number in 0..QUERIES {
        let name = made_up_name(&mut random);
        let query = query_for(&name, *TYPES.choose(&mut random).unwrap());
        let direct = comparable(&exchange(coredns.address, &query).await);
        let through = comparable(&exchange(tier.address, &query).await);
        assert_eq!(through, direct, "query {number}: {}", query.queries[0]);
        *kinds.entry((direct.0, !direct.2.is_empty())).or_default() += 1;
    }
    eprintln!("{kinds:?}");
    // Names that exist and names that do not, with and without aliases.
    assert!(kinds.len() >= 4 && kinds.values().all(|count| *count >= 5), "{kinds:?}");
}
