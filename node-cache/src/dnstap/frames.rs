//! Frame Streams encoding (farsightsec.github.io/fstrm), as stored in files and sent over a unidirectional socket: a
//! START frame, data frames, a STOP frame. Integers are big-endian.
//!
//! ```text
//! data frame      length │ bytes
//! control frame   0 │ length of the rest │ type │ fields, each: type, length, bytes
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Content type that the START frame declares.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

const START: u32 = 2;
const STOP: u32 = 3;
/// The only type of control field that Frame Streams defines.
const FIELD_CONTENT_TYPE: u32 = 1;
/// Longest control frame that the format allows, in bytes.
const MAX_CONTROL_LEN: u32 = 512;
/// Longest data frame that is read, in bytes: a DNS message over TCP with its dnstap envelope.
const MAX_DATA_LEN: u32 = (64 << 10) + 1024;

/// One decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Control frame at the beginning of a stream.
    Start,
    /// Payload of a data frame.
    Data(Vec<u8>),
    /// Control frame at the end of a stream.
    Stop,
}

/// Returns the START frame of a dnstap stream.
pub(super) fn start() -> Vec<u8> {
    let mut field = FIELD_CONTENT_TYPE.to_be_bytes().to_vec();
    field.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
    field.extend_from_slice(CONTENT_TYPE);
    control_frame(START, &field)
}

/// Returns the STOP frame.
pub(super) fn stop() -> Vec<u8> {
    control_frame(STOP, &[])
}

fn control_frame(frame_type: u32, fields: &[u8]) -> Vec<u8> {
    let length = (size_of::<u32>() + fields.len()) as u32;
    [&0_u32.to_be_bytes()[..], &length.to_be_bytes(), &frame_type.to_be_bytes(), fields].concat()
}

/// Appends a data frame whose payload `write` appends.
pub(super) fn append(stream: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = stream.len();
    stream.extend_from_slice(&[0; 4]);
    write(stream);
    let length = (stream.len() - start - 4) as u32;
    if let Some(length_field) = stream.get_mut(start..start + 4) {
        length_field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads the next frame; `None` when the stream ends before one.
///
/// # Errors
///
/// `InvalidData` for a frame over its length bound, an unknown control frame, or a START frame of another content type;
/// any error of the stream itself.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let Some(length) = read_length(stream).await? else { return Ok(None) };
    if length > MAX_DATA_LEN {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if length > 0 {
        return Ok(Some(Frame::Data(read_bytes(stream, length).await?)));
    }
    let length = stream.read_u32().await?;
    if !(4..=MAX_CONTROL_LEN).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match read_bytes(stream, length).await? {
        control if start().get(8..) == Some(&control) => Ok(Some(Frame::Start)),
        control if control.starts_with(&STOP.to_be_bytes()) => Ok(Some(Frame::Stop)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u32>> {
    match stream.read_u32().await {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_read_as_it_was_written() {
        let mut stream = start();
        append(&mut stream, |frame| frame.extend_from_slice(b"one"));
        append(&mut stream, |frame| frame.extend_from_slice(b"another"));
        stream.extend_from_slice(&stop());
        let mut reader = &stream[..];
        let mut frames = Vec::new();
        while let Some(frame) = read(&mut reader).await.unwrap() {
            frames.push(frame);
        }
        let data = |payload: &[u8]| Frame::Data(payload.to_vec());
        assert_eq!(frames, [Frame::Start, data(b"one"), data(b"another"), Frame::Stop]);
    }

    #[tokio::test]
    async fn an_invalid_frame_is_rejected_before_memory_is_allocated_for_it() {
        for stream in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\0\0\0\xff\xff",
            b"\0\0\0\0\0\0\0\x04\0\0\0\x09",
            b"\0\0\0\0\0\0\0\x04\0\0\0\x02",
        ] {
            assert_eq!(read(&mut &stream[..]).await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{stream:?}");
        }
        assert_eq!(read(&mut &b"\0\0"[..]).await.unwrap(), None);
    }
}
