//! A server whose answers are a function of the question, and which remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

/// A question that came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) message: Message,
    pub(crate) source: SocketAddr,
    pub(crate) tcp: bool,
}

impl Asked {
    pub(crate) fn name(&self) -> &Name {
        self.message.queries[0].name()
    }

    pub(crate) fn kind(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.name().to_ascii().trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
    }
}

/// What is said to it.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Silence,
    Say(Message),
    After(Duration, Message),
    /// These bytes, one packet each.
    Raw(Vec<Vec<u8>>),
}

type Script = Arc<Mutex<Box<dyn Fn(&Asked) -> Reply + Send>>>;

pub(crate) struct Authority {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Script,
    tasks: [JoinHandle<()>; 2],
}

impl Authority {
    /// A server on a free port of 127.0.0.1, over UDP and TCP.
    pub(crate) async fn start(script: impl Fn(&Asked) -> Reply + Send + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::default();
        let script: Script = Arc::new(Mutex::new(Box::new(script)));
        let tasks = [
            tokio::spawn(serve_udp(udp, Arc::clone(&asked), script.clone())),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&asked), script.clone())),
        ];
        Self { address, asked, script, tasks }
    }

    /// Everything it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often it was asked for this name.
    pub(crate) fn asked_for(&self, name: &str) -> usize {
        self.asked().iter().filter(|asked| asked.is(name)).count()
    }

    pub(crate) fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }

    /// From now on it answers like this.
    pub(crate) fn change(&self, script: impl Fn(&Asked) -> Reply + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// From now on it says nothing.
    pub(crate) fn fall_silent(&self) {
        self.change(|_| Reply::Silence);
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn take(packet: &[u8], source: SocketAddr, tcp: bool, asked: &Mutex<Vec<Asked>>, script: &Script) -> Reply {
    let Ok(message) = Message::from_vec(packet) else { return Reply::Silence };
    let question = Asked { message, source, tcp };
    let reply = if question.message.queries.is_empty() { Reply::Silence } else { (script.lock().unwrap())(&question) };
    asked.lock().unwrap().push(question);
    reply
}

async fn packets(reply: Reply) -> Vec<Vec<u8>> {
    match reply {
        Reply::Silence => Vec::new(),
        Reply::Say(message) => vec![message.to_vec().unwrap()],
        Reply::After(delay, message) => {
            tokio::time::sleep(delay).await;
            vec![message.to_vec().unwrap()]
        }
        Reply::Raw(packets) => packets,
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, asked: Arc<Mutex<Vec<Asked>>>, script: Script) {
    let mut buffer = [0; 65_536];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
        let reply = take(&buffer[..length], source, false, &asked, &script);
        let socket = socket.clone();
        tokio::spawn(async move {
            for packet in packets(reply).await {
                let _ = socket.send_to(&packet, source).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, asked: Arc<Mutex<Vec<Asked>>>, script: Script) {
    loop {
        let Ok((mut stream, source)) = listener.accept().await else { continue };
        let (asked, script) = (asked.clone(), script.clone());
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut message = vec![0; usize::from(length)];
                stream.read_exact(&mut message).await.unwrap();
                let reply = take(&message, source, true, &asked, &script);
                for packet in packets(reply).await {
                    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
                    stream.write_all(&packet).await.unwrap();
                }
            }
        });
    }
}
