//! `ask`: the DNS client of the lab's toolbox pods. Exit status 0 means that a response came, whatever its response
//! code.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use dnstier_tests::compare::Comparison;
use dnstier_tests::dns::resolv_conf::{self, ResolvConf};
use dnstier_tests::dns::{Client, Query, Response, with_port};
use dnstier_tests::flood::{self, Flood};
use dnstier_tests::stub_clients::StubClients;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use serde::Serialize;

/// Query DNS servers.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    once: Once,
}

#[derive(Subcommand)]
enum Mode {
    /// Send single tries at a steady rate and count what is lost.
    Flood(FloodArgs),
    /// Send two servers the same generated queries and show where their responses differ.
    Compare(CompareArgs),
    /// Send a query every 20 ms with two tries one second apart and count the queries that fail.
    Patience(PatienceArgs),
}

#[derive(Args)]
struct Once {
    /// The name; a full one unless --search is given.
    name: Option<Name>,
    /// The record type.
    #[arg(default_value = "A", value_parser = upper::<RecordType>)]
    record_type: RecordType,
    #[command(flatten)]
    servers: Servers,
    /// Start with TCP.
    #[arg(long)]
    tcp: bool,
    /// The class: IN or CH.
    #[arg(long, default_value = "IN", value_parser = upper::<DNSClass>)]
    class: DNSClass,
    /// Try the name with the search path of /etc/resolv.conf.
    #[arg(long)]
    search: bool,
    /// Ask for DNSSEC records.
    #[arg(long)]
    dnssec: bool,
    /// The size offered for an answer over UDP, in bytes.
    #[arg(long, default_value_t = 1232)]
    bufsize: u16,
    /// The timeout of one try, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
    /// The number of tries.
    #[arg(long, default_value_t = 2)]
    tries: u32,
    /// Query the server's identity, too (id.server CH TXT).
    #[arg(long)]
    who: bool,
    /// Print the response as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Print the data of the records alone, one a line.
    #[arg(long, conflicts_with = "json")]
    short: bool,
}

#[derive(Args)]
struct Servers {
    /// The servers, separated by commas; those of /etc/resolv.conf without it.
    #[arg(long, value_delimiter = ',')]
    server: Vec<IpAddr>,
    /// Their port.
    #[arg(long, default_value_t = 53)]
    port: u16,
}

#[derive(Args)]
struct FloodArgs {
    #[command(flatten)]
    servers: Servers,
    /// Queries a second.
    #[arg(long, default_value_t = 500)]
    qps: u32,
    #[command(flatten)]
    span: Span,
}

#[derive(Args)]
struct CompareArgs {
    #[command(flatten)]
    servers: Servers,
    /// The names that queries are made from, separated by commas.
    #[arg(long)]
    names: String,
    /// The number of queries.
    #[arg(long, default_value_t = 1000)]
    questions: u32,
    /// The seed of the queries.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct PatienceArgs {
    #[command(flatten)]
    servers: Servers,
    /// Use TCP.
    #[arg(long)]
    tcp: bool,
    #[command(flatten)]
    span: Span,
}

#[derive(Args)]
struct Span {
    /// The names to query in turn, separated by commas, or a file with one a line; a first label `*` becomes a new one
    /// each time.
    #[arg(long, default_value = "kubernetes.default.svc.cluster.local")]
    names: String,
    /// The duration in seconds; 1,200 at most.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Send queries until the standard input is closed, 1,200 s at most.
    #[arg(long, conflicts_with = "seconds")]
    until_stdin_closes: bool,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.mode {
        Some(Mode::Flood(args)) => {
            let flood = Flood {
                servers: args.servers.addresses()?,
                rate: args.qps,
                duration: args.span.duration(),
                names: args.span.names()?,
            };
            print_report(&flood.run(&args.span.stop())?, args.span.json)
        }
        Some(Mode::Compare(args)) => {
            let servers = args.servers.addresses()?.try_into().ok().context("name two servers with --server")?;

            print_report(
                &Comparison { servers, names: names(&args.names)?, queries: args.questions, seed: args.seed }.run(),
                args.json,
            )
        }
        Some(Mode::Patience(args)) => {
            let clients = StubClients {
                servers: args.servers.addresses()?,
                names: args.span.names()?,
                tcp: args.tcp,
                duration: args.span.duration(),
            };
            print_report(&clients.run(&args.span.stop())?, args.span.json)
        }
        None => cli.once.run(),
    }
}

impl Once {
    fn run(&self) -> anyhow::Result<()> {
        let client = Client {
            servers: self.servers.addresses()?,
            tcp: self.tcp,
            timeout: Duration::from_millis(self.timeout),
            tries: self.tries,
        };
        let mut response = self.resolve(&client)?;
        if self.who {
            response.identity = Client { servers: vec![response.server], ..client }.identity();
        }
        if self.short {
            return response.answers.iter().try_for_each(|record| print_line(&record.data));
        }
        if self.json { print_line(&serde_json::to_string(&response)?) } else { print_line(&response.to_string()) }
    }

    /// Returns the first response with records, along the search path; else the last response.
    fn resolve(&self, client: &Client) -> anyhow::Result<Response> {
        let mut last = None;
        for name in self.names()? {
            let response = client.resolve(&self.query(name.clone())).with_context(|| name.to_string())?;
            if !response.answers.is_empty() {
                return Ok(response);
            }
            last = Some(response);
        }
        last.context("there is no name to ask for")
    }

    fn query(&self, name: Name) -> Query {
        let plain = Query::new(name, self.record_type);
        Query { class: self.class, dnssec: self.dnssec, bufsize: self.bufsize, ..plain }
    }

    fn names(&self) -> anyhow::Result<Vec<Name>> {
        let mut name = self.name.clone().context("name what to ask for")?;
        if self.search {
            return Ok(read_resolv_conf()?.candidates(&name));
        }
        name.set_fqdn(true);
        Ok(vec![name])
    }
}

impl Servers {
    fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        if self.server.is_empty() {
            return Ok(with_port(&read_resolv_conf()?.nameservers, self.port));
        }
        Ok(with_port(&self.server, self.port))
    }
}

impl Span {
    fn duration(&self) -> Duration {
        if self.until_stdin_closes { flood::MAX_DURATION } else { Duration::from_secs(self.seconds) }
    }

    fn names(&self) -> anyhow::Result<Vec<Name>> {
        let text = match std::fs::read_to_string(&self.names) {
            Ok(text) => text,
            Err(_) => self.names.clone(),
        };
        names(&text)
    }

    /// Returns a flag that becomes true when the standard input is closed, if that is waited for. Writes a line to
    /// standard error, by which the caller knows that queries are sent from now on.
    fn stop(&self) -> Arc<AtomicBool> {
        let stop = Arc::new(AtomicBool::new(false));
        eprintln!("ask: asking");
        if self.until_stdin_closes {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut sink = [0; 64];
                while matches!(std::io::stdin().read(&mut sink), Ok(size) if size > 0) {}
                stop.store(true, Ordering::Relaxed);
            });
        }
        stop
    }
}

fn read_resolv_conf() -> anyhow::Result<ResolvConf> {
    let text = std::fs::read_to_string(resolv_conf::PATH).with_context(|| resolv_conf::PATH.to_owned())?;
    Ok(ResolvConf::parse(&text))
}

/// Parses full names, separated by commas or one a line.
fn names(text: &str) -> anyhow::Result<Vec<Name>> {
    let names = text.split(['\n', ',']).map(str::trim).filter(|name| !name.is_empty()).map(|text| {
        let mut name = Name::from_ascii(text).with_context(|| format!("{text} is not a name"))?;
        name.set_fqdn(true);
        Ok(name)
    });
    names.collect()
}

fn upper<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.to_uppercase().parse().map_err(|_| format!("{text} is not known"))
}

fn print_report(report: &impl Serialize, json: bool) -> anyhow::Result<()> {
    print_line(&if json { serde_json::to_string(report)? } else { serde_json::to_string_pretty(report)? })
}

fn print_line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let once = Cli::parse_from(["ask", "web", "aaaa", "--search", "--class", "in"]).once;
        assert_eq!((once.record_type, once.class), (RecordType::AAAA, DNSClass::IN));
        let flood = Cli::parse_from(["ask", "flood", "--server", "10.96.0.10,fd96::a", "--qps", "1000"]);
        assert!(matches!(flood.mode, Some(Mode::Flood(args)) if args.servers.server.len() == 2));
    }
}
