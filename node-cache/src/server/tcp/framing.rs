//! Framing of DNS messages over TCP: a length of two bytes before each message (RFC 1035 §4.2.2).

use std::io;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time;

use crate::dns::Header;
use crate::resolver::QUERY_BUF_LEN;

/// Longest query that is kept, as over UDP: no query with all of its options needs more bytes.
const MAX_QUERY_LEN: usize = QUERY_BUF_LEN;
/// Length of the buffer through which a longer message is discarded: a client cannot make this process allocate the
/// length that it announces.
const DISCARD_BUF_LEN: usize = 512;

/// Reads one message; `None` when the client closes the connection, or sends no first byte in time. Of a message longer
/// than [`MAX_QUERY_LEN`] only the header is returned, which makes it malformed.
///
/// # Errors
///
/// The message is cut off, or its last byte does not arrive within `message_timeout` after its first.
pub(super) async fn read_message(
    read_half: &mut ReadHalf<'_>,
    first_byte_timeout: Duration,
    message_timeout: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match time::timeout(first_byte_timeout, read_half.read(&mut length[..1])).await {
        Ok(Ok(1)) => {}
        Err(_) | Ok(_) => return Ok(None),
    }
    let read_rest = async {
        read_half.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        let (kept_len, buf_len) =
            if length > MAX_QUERY_LEN { (Header::LENGTH, DISCARD_BUF_LEN) } else { (length, length) };
        let mut message = vec![0; buf_len];
        read_half.read_exact(&mut message).await?;
        let mut remaining = length - message.len();
        while remaining > 0 {
            let discarded = &mut message[kept_len..];
            let count = remaining.min(discarded.len());
            remaining -= read_half.read_exact(&mut discarded[..count]).await?;
        }
        message.truncate(kept_len);
        Ok(message)
    };
    time::timeout(message_timeout, read_rest).await.map_err(|_| io::ErrorKind::TimedOut)?.map(Some)
}

/// Writes one message.
///
/// # Errors
///
/// The client does not take the message within `timeout`.
pub(super) async fn write_message(write_half: &mut WriteHalf<'_>, message: &[u8], timeout: Duration) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?.to_be_bytes();
    // Length and message leave in one packet (RFC 7766 §8).
    let mut framed = Buf::chain(&length[..], message);
    time::timeout(timeout, write_half.write_all_buf(&mut framed)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
