//! Framing of messages on the wire: four bytes of length (big-endian), then JSON. Descriptors are ancillary data of the
//! first byte (SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::message::{Message, VERSION};

/// Longest JSON of a frame, in bytes.
const MAX_JSON_LEN: usize = 64 * 1024;
/// Most descriptors of a frame: UDP and TCP for 32 addresses.
const MAX_FDS: usize = 64;
/// Bytes of a control message with [`MAX_FDS`] descriptors.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));
/// Longest JSON of a Hello, in bytes: 64 sockets at IPv6 addresses are 5 KiB.
const MAX_HELLO_LEN: usize = 8 * 1024;
/// Bytes of the length before the JSON.
const LENGTH_PREFIX_LEN: usize = 4;

/// Failure to send or receive a frame. The connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The Unix socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side closed the connection in the middle of a frame.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    /// The JSON is longer than a frame may be.
    #[error("a message of {0} bytes is over the bound of {MAX_JSON_LEN}")]
    TooLong(usize),
    /// More descriptors than a frame may carry, or descriptors at another byte than the first.
    #[error("a message carries more than {MAX_FDS} sockets, or carries them in the wrong place")]
    UnexpectedFds,
    /// The number of descriptors differs from the number of sockets that the message lists.
    #[error("a message names {named} sockets and carries {carried}")]
    FdCount {
        /// Number of sockets in the message.
        named: usize,
        /// Number of descriptors.
        carried: usize,
    },
    /// The JSON is not a message of this version.
    #[error("not a message of version {VERSION}: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// Sends one frame. Not cancel safe: a frame that is sent in part leaves the stream unusable.
pub(super) async fn send(stream: &UnixStream, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    if fds.len() > MAX_FDS {
        return Err(FrameError::UnexpectedFds);
    }
    let json = serde_json::to_vec(message)?;
    if json.len() > MAX_JSON_LEN {
        return Err(FrameError::TooLong(json.len()));
    }
    let length = u32::try_from(json.len()).map_err(|_| FrameError::TooLong(json.len()))?;
    let bytes = [&length.to_be_bytes(), json.as_slice()].concat();
    let mut sent = 0;
    while sent < bytes.len() {
        let fds = if sent == 0 { fds } else { &[] };
        let rest = &bytes[sent..];
        sent += stream.async_io(Interest::WRITABLE, || send_part(stream, rest, fds)).await?;
    }
    Ok(())
}

/// Sends as many of these bytes as the socket takes, with the descriptors. Returns the number of bytes.
fn send_part(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives one frame; `None` when the other side closed the connection between two frames.
pub(super) async fn receive(stream: &UnixStream) -> Result<Option<(Message, Vec<OwnedFd>)>, FrameError> {
    let mut fds = Vec::new();
    let mut prefix = [0; LENGTH_PREFIX_LEN];
    if !receive_exact(stream, &mut prefix, &mut fds).await? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX_JSON_LEN {
        return Err(FrameError::TooLong(length));
    }
    let carried = fds.len();
    let mut json = vec![0; length];
    if !receive_exact(stream, &mut json, &mut fds).await? {
        return Err(FrameError::Truncated);
    }
    if fds.len() != carried {
        return Err(FrameError::UnexpectedFds);
    }
    let message: Message = serde_json::from_slice(&json)?;
    let named = message.socket_count();
    if named != carried {
        return Err(FrameError::FdCount { named, carried });
    }
    Ok(Some((message, fds)))
}

/// Treatment of the descriptors that a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descriptors {
    /// Taken, at most 64.
    Take,
    /// Closed by the kernel: this process never has them.
    Drop,
}

/// Receives the first frame of an instance; `None` when it closed the connection before.
///
/// Instances are less trusted than the agent. So nothing is taken, neither a byte nor a descriptor, before the whole
/// frame has arrived: a frame that is sent in part holds no descriptors of this process. A frame whose bytes do not
/// arrive together with its descriptors never counts as arrived.
pub(super) async fn receive_hello(
    stream: &UnixStream,
    descriptors: Descriptors,
) -> Result<Option<(Message, Vec<OwnedFd>)>, FrameError> {
    let mut bytes = vec![0; LENGTH_PREFIX_LEN + MAX_HELLO_LEN];
    let length = stream.async_io(Interest::READABLE, || peek_frame(stream, &mut bytes)).await?;
    let length = match length {
        ArrivedFrame::Whole(length) => length,
        ArrivedFrame::TooLong(length) => return Err(FrameError::TooLong(length)),
        ArrivedFrame::EndOfStream => return Ok(None),
    };
    let frame = &mut bytes[..length];
    let mut fds = Vec::new();
    let part = match descriptors {
        Descriptors::Take => receive_part(stream, frame, &mut fds)?,
        Descriptors::Drop => ReceivedPart { length: receive_bytes(stream, frame)?, is_control_truncated: false },
    };
    if part.is_control_truncated || fds.len() > MAX_FDS {
        return Err(FrameError::UnexpectedFds);
    }
    if part.length < length {
        return Err(FrameError::Truncated);
    }
    let message: Message = serde_json::from_slice(&frame[LENGTH_PREFIX_LEN..])?;
    let named = message.socket_count();
    if descriptors == Descriptors::Take && named != fds.len() {
        return Err(FrameError::FdCount { named, carried: fds.len() });
    }
    Ok(Some((message, fds)))
}

/// Waits until the other side closes the connection. Returns whether it sent something instead; descriptors are never
/// taken.
pub(super) async fn has_more(stream: &UnixStream) -> Result<bool, FrameError> {
    Ok(stream.async_io(Interest::READABLE, || receive_bytes(stream, &mut [0])).await? > 0)
}

/// Progress of a frame of which nothing was received yet.
enum ArrivedFrame {
    /// Length of the frame, its prefix included.
    Whole(usize),
    /// Length of a JSON that is over [`MAX_HELLO_LEN`].
    TooLong(usize),
    EndOfStream,
}

/// Looks at the frame that arrives. Fails with `WouldBlock` while it is not whole.
fn peek_frame(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<ArrivedFrame> {
    let peeked = recvmsg(
        stream,
        &mut [IoSliceMut::new(bytes)],
        &mut RecvAncillaryBuffer::default(),
        RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC,
    )?;
    let Some(prefix) = bytes[..peeked.bytes].first_chunk::<LENGTH_PREFIX_LEN>() else {
        return if peeked.bytes == 0 { Ok(ArrivedFrame::EndOfStream) } else { Err(io::ErrorKind::WouldBlock.into()) };
    };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > MAX_HELLO_LEN {
        return Ok(ArrivedFrame::TooLong(length));
    }
    match LENGTH_PREFIX_LEN + length {
        whole if whole <= peeked.bytes => Ok(ArrivedFrame::Whole(whole)),
        _ => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Receives bytes alone: the kernel closes descriptors that come with them.
fn receive_bytes(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    let mut no_descriptors = RecvAncillaryBuffer::default();
    Ok(recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut no_descriptors, RecvFlags::CMSG_CLOEXEC)?.bytes)
}

/// Fills `bytes` and appends the descriptors that arrive with them. Returns false when the other side closed the
/// connection before the first byte.
async fn receive_exact(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool, FrameError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let part = stream.async_io(Interest::READABLE, || receive_part(stream, &mut bytes[filled..], fds)).await?;
        if part.is_control_truncated || fds.len() > MAX_FDS {
            return Err(FrameError::UnexpectedFds);
        }
        if part.length == 0 {
            return if filled == 0 { Ok(false) } else { Err(FrameError::Truncated) };
        }
        filled += part.length;
    }
    Ok(true)
}

/// Result of one `recvmsg`.
struct ReceivedPart {
    /// Number of bytes; 0 at the end of the stream.
    length: usize,
    /// Whether more ancillary data arrived than there was room for (`MSG_CTRUNC`).
    is_control_truncated: bool,
}

fn receive_part(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<ReceivedPart> {
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let is_control_truncated = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(ReceivedPart { length: received.bytes, is_control_truncated })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::handover::message::SocketName;
    use crate::handover::socket::Protocol;

    /// A Hello that lists this many sockets.
    fn hello(socket_count: usize) -> Message {
        let name = SocketName { address: "127.0.0.1".parse().unwrap(), protocol: Protocol::Udp };
        Message::Hello { version: VERSION, instance: "cache-0".to_owned(), held: vec![name; socket_count] }
    }

    #[tokio::test]
    async fn a_message_arrives_with_its_descriptors_in_order() {
        let (local, remote) = UnixStream::pair().unwrap();
        let sockets: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        send(&local, &hello(64), &fds).await.unwrap();
        send(&local, &hello(0), &[]).await.unwrap();
        let (message, received) = receive(&remote).await.unwrap().unwrap();
        assert_eq!(message, hello(64));
        for (sent, received) in sockets.iter().zip(received) {
            assert_eq!(sent.local_addr().unwrap(), UdpSocket::from(received).local_addr().unwrap());
        }
        assert_eq!(receive(&remote).await.unwrap().unwrap().0, hello(0));
        drop(local);
        assert!(receive(&remote).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_longer_than_the_socket_buffer_arrives_whole() {
        let (local, remote) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&local).set_send_buffer_size(4096).unwrap();
        let long = Message::Refused { version: VERSION, reason: "x".repeat(60_000) };
        let sender = tokio::spawn({
            let long = long.clone();
            async move { send(&local, &long, &[]).await }
        });
        assert_eq!(receive(&remote).await.unwrap().unwrap().0, long);
        sender.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_hello_is_taken_whole_and_one_sent_in_part_brings_no_descriptor() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (local, remote) = UnixStream::pair().unwrap();
        send(&local, &hello(1), &[socket.as_fd()]).await.unwrap();
        let (message, fds) = receive_hello(&remote, Descriptors::Take).await.unwrap().unwrap();
        assert_eq!((message, fds.len()), (hello(1), 1));
        drop(fds);

        send(&local, &hello(1), &[socket.as_fd()]).await.unwrap();
        let (message, fds) = receive_hello(&remote, Descriptors::Drop).await.unwrap().unwrap();
        assert_eq!((message, fds.len()), (hello(1), 0));

        // The length and a byte, with as many descriptors as the kernel sends at once.
        let sockets = vec![socket.as_fd(); 64];
        send_part(&local, &[0, 0, 0, 200, b'{'], &sockets).unwrap();
        let waiting = receive_hello(&remote, Descriptors::Take);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), waiting).await.is_err());
        let held = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let links = held.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let own = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket))).unwrap();
        assert_eq!(links.filter(|link| *link == own).count(), 1, "no second descriptor of the socket");
        drop(local);
        assert!(has_more(&remote).await.unwrap());
    }

    #[tokio::test]
    async fn a_hello_that_is_too_long_is_refused_before_it_is_read() {
        let (local, remote) = UnixStream::pair().unwrap();
        send_part(&local, &[0, 1, 0, 0, b'{'], &[]).unwrap();
        let error = receive_hello(&remote, Descriptors::Take).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong(65536)), "{error}");
        drop(local);
        let (local, remote) = UnixStream::pair().unwrap();
        drop(local);
        assert!(receive_hello(&remote, Descriptors::Take).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_invalid_frame_is_rejected_with_a_reason() {
        let (local, remote) = UnixStream::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        send(&local, &hello(2), &[socket.as_fd()]).await.unwrap();
        let error = receive(&remote).await.unwrap_err().to_string();
        assert_eq!(error, "a message names 2 sockets and carries 1");

        for (bytes, sentence) in [
            (&[0xff, 0, 0, 0][..], "a message of 4278190080 bytes is over the bound of 65536"),
            (&[0, 0, 0, 9, b'{'][..], "the connection was closed in the middle of a message"),
            (&[0, 0][..], "the connection was closed in the middle of a message"),
            (&[0, 0, 0, 2, b'{', b'}'][..], "not a message of version 2: missing field `type` at line 1 column 2"),
        ] {
            let (mut local, remote) = UnixStream::pair().unwrap();
            local.write_all(bytes).await.unwrap();
            drop(local);
            assert_eq!(receive(&remote).await.unwrap_err().to_string(), sentence);
        }
    }
}
