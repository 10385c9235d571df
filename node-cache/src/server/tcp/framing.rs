//! Messages on a connection: two octets that say how long each one is, and so many octets (RFC 1035 §4.2.2).

use std::io;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::dns::Header;
use crate::resolver::QUERY_BUF_LEN;

/// No question needs more octets, with all options that it may carry, here as in a datagram.
const LONGEST: usize = QUERY_BUF_LEN;
/// Room in which what is longer is read and forgotten, so that a client cannot make us hold what it says that it will send.
const RESPONSE_BUF_LEN: usize = 512;

/// One message; none when the client has closed or was silent for too long. Of one that is longer than any needs to be only
/// the header is left, which makes it malformed.
///
/// # Errors
///
/// It breaks off.
pub(super) async fn read(read: &mut ReadHalf<'_>, first: Duration, whole: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match timeout(first, read.read(&mut length[..1])).await {
        Ok(Ok(1)) => {}
        Err(_) | Ok(_) => return Ok(None),
    }
    let rest = async {
        read.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        let (keep, room) = if length > LONGEST { (Header::LENGTH, RESPONSE_BUF_LEN) } else { (length, length) };
        let mut message = vec![0; room];
        read.read_exact(&mut message).await?;
        let mut left = length - message.len();
        while left > 0 {
            let room = &mut message[keep..];
            let some = left.min(room.len());
            left -= read.read_exact(&mut room[..some]).await?;
        }
        message.truncate(keep);
        Ok(message)
    };
    timeout(whole, rest).await.map_err(|_| io::ErrorKind::TimedOut)?.map(Some)
}

/// Writes one.
///
/// # Errors
///
/// The client does not take it within this time.
pub(super) async fn write(write: &mut WriteHalf<'_>, message: &[u8], limit: Duration) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?.to_be_bytes();
    // Both in one packet (RFC 7766 §8).
    let mut framed = Buf::chain(&length[..], message);
    timeout(limit, write.write_all_buf(&mut framed)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
