//! Forwarder between the operator and the API server, which counts the octets of the encrypted connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Forwarder of TCP connections.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Address that it listens on.
    pub(crate) address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Forwarder {
    /// Starts a forwarder to an address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(crate) async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let received: Arc<AtomicU64> = Arc::default();
        let counter = received.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let counter = counter.clone();
                tokio::spawn(async move { drop(forward(client, to, &counter).await) });
            }
        });
        Ok(Self { address, received })
    }

    /// Returns the number of octets from the API server so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, to: SocketAddr, received: &AtomicU64) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let responses = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return to_client.shutdown().await;
            }
            received.fetch_add(length as u64, Ordering::Relaxed);
            to_client.write_all(&buffer[..length]).await?;
        }
    };
    tokio::try_join!(requests, responses).map(|_| ())
}
