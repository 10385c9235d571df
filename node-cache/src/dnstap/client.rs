//! Reading side of a tap: merges the frames of all processes of a pod into one Frame Streams file.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frames::{self, Frame};
use super::tap::TapOptions;

/// Longest time from the request to the START frame of a process.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of frames, of all sources together, that may wait to be written.
const FRAME_QUEUE_LEN: usize = 64;

/// Tap socket of one process.
#[derive(Clone, Debug)]
pub struct TapSource {
    /// Name of the process.
    pub name: String,
    /// Path of its tap socket.
    pub path: PathBuf,
}

/// Failure of one tap source, or of the output.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The list of sources is empty.
    #[error("no process of this pod offers a tap")]
    NoSource,
    /// The socket cannot be connected to, or its content is not a dnstap stream.
    #[error("{name}: {source}")]
    Socket {
        /// Name of the process.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// No START frame arrived within 5 s, or the process closed the connection without one.
    #[error("{name} sends no stream: it may have its maximum of readers already")]
    NotStarted {
        /// Name of the process.
        name: String,
    },
    /// The merged stream cannot be written.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

/// Copies the data frames of `sources` to `out` as one stream. Ends after `count` frames, when `stop` completes, when
/// all sources have ended, or when the reader of `out` closes it.
///
/// # Errors
///
/// [`TapError`] of the first source that could not be read; the frames of the others are written nevertheless.
pub async fn copy(
    sources: &[TapSource],
    options: TapOptions,
    count: u64,
    stop: impl Future<Output = ()>,
    out: impl Write,
) -> Result<(), TapError> {
    let (sender, mut frames) = mpsc::channel(FRAME_QUEUE_LEN);
    let mut first_error = if sources.is_empty() { Some(TapError::NoSource) } else { None };
    for source in sources {
        match open(source, options).await {
            Ok(stream) => drop(tokio::spawn(forward(stream, sender.clone()))),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    drop(sender);
    let mut out = BufWriter::new(out);
    let written = async {
        out.write_all(&frames::start())?;
        let mut stop = std::pin::pin!(stop);
        for _ in 0..count {
            if frames.is_empty() {
                out.flush()?;
            }
            let frame: Vec<u8> = tokio::select! {
                () = &mut stop => break,
                frame = frames.recv() => match frame {
                    Some(frame) => frame,
                    None => break,
                },
            };
            let mut framed = Vec::with_capacity(frame.len() + 4);
            frames::append(&mut framed, |out| out.extend_from_slice(&frame));
            out.write_all(&framed)?;
        }
        out.write_all(&frames::stop())?;
        out.flush()
    };
    match written.await {
        // The reader of the stream has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(TapError::Output)?,
    }
    first_error.map_or(Ok(()), Err)
}

/// Requests the stream of a process and waits for its START frame.
async fn open(source: &TapSource, options: TapOptions) -> Result<BufReader<UnixStream>, TapError> {
    let socket_error = |error| TapError::Socket { name: source.name.clone(), source: error };
    let mut stream = UnixStream::connect(&source.path).await.map_err(socket_error)?;
    stream.write_all(options.to_line().as_bytes()).await.map_err(socket_error)?;
    let mut stream = BufReader::new(stream);
    match timeout(START_TIMEOUT, frames::read(&mut stream)).await {
        Ok(Ok(Some(Frame::Start))) => Ok(stream),
        Ok(Err(error)) => Err(socket_error(error)),
        Ok(Ok(_)) | Err(_) => Err(TapError::NotStarted { name: source.name.clone() }),
    }
}

/// Forwards data frames until the stream ends or fails, or the receiver is gone.
async fn forward(mut stream: BufReader<UnixStream>, frames: mpsc::Sender<Vec<u8>>) {
    while let Ok(Some(Frame::Data(frame))) = frames::read(&mut stream).await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}
