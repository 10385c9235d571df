//! Frame Streams as they lie in a file and go over a socket in one direction: a START, data frames, a STOP. Numbers are
//! big-endian (farsightsec.github.io/fstrm).
//!
//! ```text
//! data frame      length │ octets
//! control frame   0 │ length of what follows │ kind │ fields, each: kind, length, octets
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What every data frame holds.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

const START: u32 = 2;
const STOP: u32 = 3;
/// The only kind of field that there is.
const FIELD_CONTENT_TYPE: u32 = 1;
/// The longest control frame, and so no reader has to take a longer one.
const LONGEST_CONTROL: u32 = 512;
/// The longest data frame that is read here: a message over TCP with its envelope.
const LONGEST_DATA: u32 = (64 << 10) + 1024;

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The stream begins.
    Start,
    /// What it is for.
    Data(Vec<u8>),
    /// The stream is over.
    Stop,
}

/// What a stream begins with.
pub(super) fn start() -> Vec<u8> {
    let mut field = FIELD_CONTENT_TYPE.to_be_bytes().to_vec();
    field.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
    field.extend_from_slice(CONTENT_TYPE);
    control(START, &field)
}

/// What it ends with.
pub(super) fn stop() -> Vec<u8> {
    control(STOP, &[])
}

fn control(kind: u32, fields: &[u8]) -> Vec<u8> {
    let length = (size_of::<u32>() + fields.len()) as u32;
    [&0_u32.to_be_bytes()[..], &length.to_be_bytes(), &kind.to_be_bytes(), fields].concat()
}

/// Appends a data frame whose content is appended by `write`.
pub(super) fn append(stream: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = stream.len();
    stream.extend_from_slice(&[0; 4]);
    write(stream);
    let length = (stream.len() - start - 4) as u32;
    if let Some(place) = stream.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads the next frame; none where the stream breaks off.
///
/// # Errors
///
/// What comes is no frame, or is for another content than ours, or cannot be read.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let Some(length) = read_number(stream).await? else { return Ok(None) };
    if length > LONGEST_DATA {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if length > 0 {
        return Ok(Some(Frame::Data(read_octets(stream, length).await?)));
    }
    let length = stream.read_u32().await?;
    if !(4..=LONGEST_CONTROL).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match read_octets(stream, length).await? {
        control if start().get(8..) == Some(&control) => Ok(Some(Frame::Start)),
        control if control.starts_with(&STOP.to_be_bytes()) => Ok(Some(Frame::Stop)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn read_number(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u32>> {
    match stream.read_u32().await {
        Ok(number) => Ok(Some(number)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read_octets(stream: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; length as usize];
    stream.read_exact(&mut octets).await?;
    Ok(octets)
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
        let mut left = &stream[..];
        let mut frames = Vec::new();
        while let Some(frame) = read(&mut left).await.unwrap() {
            frames.push(frame);
        }
        let data = |octets: &[u8]| Frame::Data(octets.to_vec());
        assert_eq!(frames, [Frame::Start, data(b"one"), data(b"another"), Frame::Stop]);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_memory_is_taken_for_it() {
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
