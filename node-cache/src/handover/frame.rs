//! One message on the wire: four octets of length (big-endian), then JSON; descriptors ride on the first octet.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::{Message, VERSION};

/// The longest JSON of a frame, in bytes.
const MAX_LENGTH: usize = 64 * 1024;
/// The most descriptors of a frame: UDP and TCP for 32 addresses.
const MAX_FDS: usize = 64;
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));
const HEADER: usize = 4;

/// What went wrong with a frame. The connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The Unix socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side closed in the middle of a frame.
    #[error("the connection was closed in the middle of a message")]
    Cut,
    /// A frame over the bound.
    #[error("a message of {0} bytes is over the bound of {MAX_LENGTH}")]
    TooLong(usize),
    /// More descriptors than a frame may carry, or some in a place where none belongs.
    #[error("a message carries more than {MAX_FDS} sockets, or carries them in the wrong place")]
    Descriptors,
    /// The descriptors are not as many as the message names.
    #[error("a message names {named} sockets and carries {carried}")]
    Count {
        /// How many names.
        named: usize,
        /// How many descriptors.
        carried: usize,
    },
    /// The JSON is not a message of this protocol.
    #[error("not a message of version {VERSION}: {0}")]
    Syntax(#[from] serde_json::Error),
}

impl Message {
    fn sockets_named(&self) -> usize {
        match self {
            Self::Hello { held, .. } => held.len(),
            Self::Sockets { sockets, .. } => sockets.len(),
            Self::Refused { .. } => 0,
        }
    }
}

/// Sends one frame. Not to be cancelled in the middle: what is left of the stream would be garbage.
pub(super) async fn send(stream: &UnixStream, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    if fds.len() > MAX_FDS {
        return Err(FrameError::Descriptors);
    }
    let json = serde_json::to_vec(message)?;
    if json.len() > MAX_LENGTH {
        return Err(FrameError::TooLong(json.len()));
    }
    let length = u32::try_from(json.len()).map_err(|_| FrameError::TooLong(json.len()))?;
    let bytes = [&length.to_be_bytes(), json.as_slice()].concat();
    let mut sent = 0;
    while sent < bytes.len() {
        let fds = if sent == 0 { fds } else { &[] };
        let rest = &bytes[sent..];
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream, rest, fds)).await?;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads one frame; none when the other side closed the connection between two frames.
pub(super) async fn receive(stream: &UnixStream) -> Result<Option<(Message, Vec<OwnedFd>)>, FrameError> {
    let mut fds = Vec::new();
    let mut header = [0; HEADER];
    if !fill(stream, &mut header, &mut fds).await? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_LENGTH {
        return Err(FrameError::TooLong(length));
    }
    let carried = fds.len();
    let mut json = vec![0; length];
    if !fill(stream, &mut json, &mut fds).await? {
        return Err(FrameError::Cut);
    }
    if fds.len() != carried {
        return Err(FrameError::Descriptors);
    }
    let message: Message = serde_json::from_slice(&json)?;
    let named = message.sockets_named();
    if named != carried {
        return Err(FrameError::Count { named, carried });
    }
    Ok(Some((message, fds)))
}

/// Fills `bytes`; false when the other side closed before the first of them.
async fn fill(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool, FrameError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let (read, truncated) =
            stream.async_io(Interest::READABLE, || receive_some(stream, &mut bytes[filled..], fds)).await?;
        if truncated || fds.len() > MAX_FDS {
            return Err(FrameError::Descriptors);
        }
        if read == 0 {
            return if filled == 0 { Ok(false) } else { Err(FrameError::Cut) };
        }
        filled += read;
    }
    Ok(true)
}

fn receive_some(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::handover::{Protocol, SocketName};

    fn hello(held: usize) -> Message {
        let name = SocketName { address: "127.0.0.1".parse().unwrap(), protocol: Protocol::Udp };
        Message::Hello { version: VERSION, instance: "cache-0".to_owned(), held: vec![name; held] }
    }

    #[tokio::test]
    async fn a_message_arrives_with_its_descriptors_in_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let sockets: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        send(&here, &hello(64), &fds).await.unwrap();
        send(&here, &hello(0), &[]).await.unwrap();
        let (message, received) = receive(&there).await.unwrap().unwrap();
        assert_eq!(message, hello(64));
        for (sent, received) in sockets.iter().zip(received) {
            assert_eq!(sent.local_addr().unwrap(), UdpSocket::from(received).local_addr().unwrap());
        }
        assert_eq!(receive(&there).await.unwrap().unwrap().0, hello(0));
        drop(here);
        assert!(receive(&there).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_longer_than_the_socket_buffer_arrives_whole() {
        let (here, there) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&here).set_send_buffer_size(4096).unwrap();
        let long = Message::Refused { version: VERSION, reason: "x".repeat(60_000) };
        let sender = tokio::spawn({
            let long = long.clone();
            async move { send(&here, &long, &[]).await }
        });
        assert_eq!(receive(&there).await.unwrap().unwrap().0, long);
        sender.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_a_frame_is_refused_in_words() {
        let (here, there) = UnixStream::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        send(&here, &hello(2), &[socket.as_fd()]).await.unwrap();
        let error = receive(&there).await.unwrap_err().to_string();
        assert_eq!(error, "a message names 2 sockets and carries 1");

        for (bytes, sentence) in [
            (&[0xff, 0, 0, 0][..], "a message of 4278190080 bytes is over the bound of 65536"),
            (&[0, 0, 0, 9, b'{'][..], "the connection was closed in the middle of a message"),
            (&[0, 0][..], "the connection was closed in the middle of a message"),
            (&[0, 0, 0, 2, b'{', b'}'][..], "not a message of version 2: missing field `type` at line 1 column 2"),
        ] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).await.unwrap();
            drop(here);
            assert_eq!(receive(&there).await.unwrap_err().to_string(), sentence);
        }
    }
}
