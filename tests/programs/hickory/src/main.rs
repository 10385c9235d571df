//! hickory-server as a forwarder with a cache, for the benchmark. Its arguments are its port of 127.0.0.1, the port
//! of its upstream, and the number of responses that its cache holds; without them it prints its version. It has one
//! thread, which is the fastest configuration for one processor.

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
    let [port, upstream_port, cache_size] = &arguments[..] else {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    };
    let port = port.parse()?;
    let upstream_port = upstream_port.parse()?;
    let cache_size = cache_size.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut server = Server::new(forwarder(upstream_port, cache_size)?);
        server.register_socket(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
        Ok(server.block_until_done().await?)
    })
}

/// Creates the catalog of a forwarder to one upstream, over UDP and without parallel queries.
fn forwarder(upstream_port: u16, cache_size: u64) -> Result<Catalog, String> {
    let mut connection = ConnectionConfig::udp();
    connection.port = upstream_port;
    let mut options = ResolverOpts::default();
    options.cache_size = cache_size;
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
