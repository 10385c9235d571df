//! The reading side: the frames of all processes of a pod as one stream.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::TapOptions;
use super::frames::{self, Frame};

/// How long a process has to begin its stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames that may wait to be written.
const WAITING: usize = 64;

/// A process whose messages are wanted.
#[derive(Clone, Debug)]
pub struct TapSource {
    /// Its name.
    pub name: String,
    /// Where it lets readers in.
    pub path: PathBuf,
}

/// Why there is nothing to see of a process, or nothing to see it with.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no process.
    #[error("no process of this pod offers a tap")]
    Nobody,
    /// It cannot be connected to, or what it says is no stream.
    #[error("{name}: {source}")]
    Socket {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It did not begin to talk in time, or not at all.
    #[error("{name} begins no stream: it may have as many readers as it can have")]
    NoStream {
        /// Its name.
        name: String,
    },
    /// The stream cannot be written.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

/// Writes the frames of these processes to `out` as one stream, until there were `count` of them, `over` is, all processes
/// are gone, or nobody takes the stream any more.
///
/// # Errors
///
/// [`TapError`] of the first process that could not be heard; the others were.
pub async fn copy(
    sources: &[TapSource],
    wanted: TapOptions,
    count: u64,
    over: impl Future<Output = ()>,
    out: impl Write,
) -> Result<(), TapError> {
    let (sender, mut frames) = mpsc::channel(WAITING);
    let mut failed = if sources.is_empty() { Some(TapError::Nobody) } else { None };
    for source in sources {
        match begin(source, wanted).await {
            Ok(stream) => drop(tokio::spawn(forward(stream, sender.clone()))),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    drop(sender);
    let mut out = BufWriter::new(out);
    let written = async {
        out.write_all(&frames::start())?;
        let mut over = std::pin::pin!(over);
        for _ in 0..count {
            if frames.is_empty() {
                out.flush()?;
            }
            let frame: Vec<u8> = tokio::select! {
                () = &mut over => break,
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
        // Whoever took the stream has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(TapError::Output)?,
    }
    failed.map_or(Ok(()), Err)
}

/// Asks a process for its stream and waits until it begins.
async fn begin(source: &TapSource, wanted: TapOptions) -> Result<BufReader<UnixStream>, TapError> {
    let failed = |error| TapError::Socket { name: source.name.clone(), source: error };
    let mut stream = UnixStream::connect(&source.path).await.map_err(failed)?;
    stream.write_all(wanted.line().as_bytes()).await.map_err(failed)?;
    let mut stream = BufReader::new(stream);
    match timeout(PATIENCE, frames::read(&mut stream)).await {
        Ok(Ok(Some(Frame::Start))) => Ok(stream),
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(_)) | Err(_) => Err(TapError::NoStream { name: source.name.clone() }),
    }
}

/// Hands on data frames until the stream ends, in whatever way, or nobody wants them.
async fn forward(mut stream: BufReader<UnixStream>, frames: mpsc::Sender<Vec<u8>>) {
    while let Ok(Some(Frame::Data(frame))) = frames::read(&mut stream).await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}
