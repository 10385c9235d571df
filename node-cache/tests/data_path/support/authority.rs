//! Scripted DNS server: its response is a function of the query, and it records every query.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

/// Query that an [`Authority`] received.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedQuery {
    pub(crate) message: Message,
    pub(crate) source: SocketAddr,
    pub(crate) tcp: bool,
}

impl ReceivedQuery {
    /// Returns the name in the question section.
    pub(crate) fn name(&self) -> &Name {
        self.message.queries[0].name()
    }

    /// Returns the record type in the question section.
    pub(crate) fn rtype(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    /// Returns whether the query is for this name, in any case, with or without a final dot.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name().to_ascii().trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
    }
}

/// Reaction of an [`Authority`] to a query.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Sends nothing.
    Ignore,
    Respond(Message),
    RespondAfter(Duration, Message),
    /// Sends these octets, one packet each.
    SendRaw(Vec<Vec<u8>>),
}

type Script = Arc<Mutex<Box<dyn Fn(&ReceivedQuery) -> Action + Send>>>;
type QueryLog = Arc<Mutex<Vec<ReceivedQuery>>>;

/// Scripted server on a free port of a loopback address, over UDP and TCP. Dropping it stops it.
pub(crate) struct Authority {
    pub(crate) address: SocketAddr,
    log: QueryLog,
    script: Script,
    tasks: Vec<JoinHandle<()>>,
    /// Bound socket that keeps the TCP port closed, of a server without TCP.
    closed_tcp: Option<Socket>,
}

impl Authority {
    /// Starts a server on 127.0.0.1 with this script.
    pub(crate) async fn start(script: impl Fn(&ReceivedQuery) -> Action + Send + 'static) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), script).await
    }

    /// Starts a server on this address with this script.
    pub(crate) async fn start_on(ip: IpAddr, script: impl Fn(&ReceivedQuery) -> Action + Send + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((ip, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let log = QueryLog::default();
        let script: Script = Arc::new(Mutex::new(Box::new(script)));
        let tasks = vec![
            tokio::spawn(serve_udp(udp, log.clone(), script.clone())),
            tokio::spawn(serve_tcp(tcp, log.clone(), script.clone())),
        ];
        Self { address, log, script, tasks, closed_tcp: None }
    }

    /// Starts a server on this IP address that refuses connections over TCP.
    pub(crate) async fn without_tcp(ip: &str, script: impl Fn(&ReceivedQuery) -> Action + Send + 'static) -> Self {
        let (udp, closed) = loop {
            let udp = UdpSocket::bind((ip, 0)).await.unwrap();
            let address = udp.local_addr().unwrap();
            let closed = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            if closed.bind(&address.into()).is_ok() {
                break (Arc::new(udp), closed);
            }
        };
        let address = udp.local_addr().unwrap();
        let log = QueryLog::default();
        let script: Script = Arc::new(Mutex::new(Box::new(script)));
        let tasks = vec![tokio::spawn(serve_udp(udp, log.clone(), script.clone()))];
        Self { address, log, script, tasks, closed_tcp: Some(closed) }
    }

    /// Returns the socket that keeps the TCP port closed; `None` for a server with TCP.
    pub(crate) const fn closed_tcp(&self) -> Option<&Socket> {
        self.closed_tcp.as_ref()
    }

    /// Returns all queries received since the start or the last [`Self::clear_queries`].
    pub(crate) fn queries(&self) -> Vec<ReceivedQuery> {
        self.log.lock().unwrap().clone()
    }

    /// Returns the number of queries received for this name.
    pub(crate) fn query_count(&self, name: &str) -> usize {
        self.queries().iter().filter(|query| query.is(name)).count()
    }

    /// Forgets the queries received so far.
    pub(crate) fn clear_queries(&self) {
        self.log.lock().unwrap().clear();
    }

    /// Replaces the script.
    pub(crate) fn set_script(&self, script: impl Fn(&ReceivedQuery) -> Action + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// Ignores all queries from now on.
    pub(crate) fn stop_responding(&self) {
        self.set_script(|_| Action::Ignore);
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Logs a query and returns the script's action. Anything that cannot be parsed is ignored and not logged.
fn receive(packet: &[u8], source: SocketAddr, tcp: bool, log: &QueryLog, script: &Script) -> Action {
    let Ok(message) = Message::from_vec(packet) else { return Action::Ignore };
    let query = ReceivedQuery { message, source, tcp };
    let action = if query.message.queries.is_empty() { Action::Ignore } else { (script.lock().unwrap())(&query) };
    log.lock().unwrap().push(query);
    action
}

async fn packets(action: Action) -> Vec<Vec<u8>> {
    match action {
        Action::Ignore => Vec::new(),
        Action::Respond(message) => vec![message.to_vec().unwrap()],
        Action::RespondAfter(delay, message) => {
            tokio::time::sleep(delay).await;
            vec![message.to_vec().unwrap()]
        }
        Action::SendRaw(packets) => packets,
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, log: QueryLog, script: Script) {
    let mut buffer = [0; 65_536];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
        let action = receive(&buffer[..length], source, false, &log, &script);
        let socket = socket.clone();
        tokio::spawn(async move {
            for packet in packets(action).await {
                let _ = socket.send_to(&packet, source).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, log: QueryLog, script: Script) {
    loop {
        let Ok((mut stream, source)) = listener.accept().await else { continue };
        let log = log.clone();
        let script = script.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut message = vec![0; usize::from(length)];
                stream.read_exact(&mut message).await.unwrap();
                let action = receive(&message, source, true, &log, &script);
                for packet in packets(action).await {
                    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
                    stream.write_all(&packet).await.unwrap();
                }
            }
        });
    }
}
