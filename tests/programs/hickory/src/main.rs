//! hickory-server as a forwarder: listens on a port of 127.0.0.1, forwards to another one, and caches this many names.
//! One thread does all of it, which costs one processor the least.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_server::Server;
use hickory_server::proto::rr::{LowerName, Name};
use hickory_server::store::forwarder::{ForwardConfig, ForwardZoneHandler};
use hickory_server::zone_handler::Catalog;
use tokio::net::UdpSocket;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, upstream, names] = &arguments[..] else {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    };
    let (port, upstream, names) = (port.parse()?, upstream.parse()?, names.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut server = Server::new(forwarder(upstream, names)?);
        server.register_socket(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
        Ok(server.block_until_done().await?)
    })
}

/// Forwards every query to one server over UDP, without retries, and caches the responses.
fn forwarder(port: u16, names: u64) -> Result<Catalog, String> {
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let mut options = ResolverOpts::default();
    options.cache_size = names;
    options.num_concurrent_reqs = 1;
    options.edns0 = false;
    let config = ForwardConfig {
        name_servers: vec![NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection])],
        options: Some(options),
    };
    let handler = ForwardZoneHandler::builder_tokio(config).build()?;
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::from(Name::root()), vec![Arc::new(handler)]);
    Ok(catalog)
}
