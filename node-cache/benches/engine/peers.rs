//! Other resolvers, from Debian's packages, each as fast as its manual says it can be made for one processor. Each
//! forwards to our own engine, so that it learns the same answers, and is asked only for what it has in memory.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A resolver of somebody else.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Its package in Debian.
    package: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    configuration: &'static str,
}

/// `PORT` and `UPSTREAM`, `CONFIG` and `FOLDER` stand for what they say.
pub(crate) const PEERS: [Peer; 4] = [
    Peer {
        name: "unbound",
        package: "unbound",
        program: "/usr/sbin/unbound",
        arguments: &["-d", "-c", "CONFIG"],
        configuration: "server:\n interface: 127.0.0.1@PORT\n access-control: 127.0.0.0/8 allow\n num-threads: 1\n \
            module-config: \"iterator\"\n do-not-query-localhost: no\n msg-cache-size: 256m\n rrset-cache-size: 512m\n \
            minimal-responses: yes\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: \"FOLDER\"\n pidfile: \"\"\n \
            use-syslog: no\n logfile: \"FOLDER/log\"\n outgoing-range: 4096\n so-rcvbuf: 0\nremote-control:\n \
            control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@UPSTREAM\n",
    },
    Peer {
        name: "dnsdist",
        package: "dnsdist",
        program: "/usr/bin/dnsdist",
        arguments: &["--supervised", "--disable-syslog", "-C", "CONFIG"],
        configuration: "setLocal(\"127.0.0.1:PORT\")\nsetACL({\"127.0.0.0/8\"})\nsetSecurityPollSuffix(\"\")\n\
            newServer({address=\"127.0.0.1:UPSTREAM\"}):setUp()\n\
            getPool(\"\"):setCache(newPacketCache(1000000, {maxTTL=86400}))\n",
    },
    Peer {
        name: "dnsdist, 32 datagrams for a call",
        package: "dnsdist",
        program: "/usr/bin/dnsdist",
        arguments: &["--supervised", "--disable-syslog", "-C", "CONFIG"],
        configuration: "setUDPMultipleMessagesVectorSize(32)\nsetLocal(\"127.0.0.1:PORT\")\nsetACL({\"127.0.0.0/8\"})\n\
            setSecurityPollSuffix(\"\")\nnewServer({address=\"127.0.0.1:UPSTREAM\"}):setUp()\n\
            getPool(\"\"):setCache(newPacketCache(1000000, {maxTTL=86400}))\n",
    },
    Peer {
        name: "dnsmasq",
        package: "dnsmasq-base",
        program: "/usr/sbin/dnsmasq",
        arguments: &["--keep-in-foreground", "--conf-file=CONFIG"],
        configuration: "port=PORT\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\ncache-size=10000\n\
            server=127.0.0.1#UPSTREAM\nuser=root\nlog-facility=FOLDER/log\n",
    },
];

impl Peer {
    /// What its own program calls its version.
    pub(crate) fn version(&self) -> String {
        let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", self.package]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    /// Whether its package is there.
    pub(crate) fn is_installed(&self) -> bool {
        Path::new(self.program).exists()
    }

    /// Starts it on the first processor.
    pub(crate) fn start(&self, folder: &Path, address: SocketAddr, upstream: SocketAddr) -> Child {
        let folder: PathBuf = folder.join(self.name.replace([' ', ','], "-"));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("conf");
        let fill = |text: &str| {
            text.replace("CONFIG", config.to_str().unwrap())
                .replace("FOLDER", folder.to_str().unwrap())
                .replace("PORT", &address.port().to_string())
                .replace("UPSTREAM", &upstream.port().to_string())
        };
        fs::write(&config, fill(self.configuration)).unwrap();
        Command::new("taskset")
            .args(["-c", "0", self.program])
            .args(self.arguments.iter().map(|argument| fill(argument)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("errors")).unwrap())
            .spawn()
            .unwrap()
    }
}
