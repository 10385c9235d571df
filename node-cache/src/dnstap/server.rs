//! The listening side of a tap: a line that says what is wanted, and frames until the reader has gone.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{MessageFilter, READERS, Tap, TapOptions, frames};

/// Everybody in the pod's group may look, nobody else.
const MODE: u32 = 0o660;
/// How long a reader has to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// A reader that takes nothing for this long is sent away, so that another one has its place.
const STALL: Duration = Duration::from_secs(30);
/// The longest line, in octets.
const LONGEST_LINE: u64 = 64;
/// Connections at one time, those included that have not said yet what they want; further ones wait to be accepted.
const CONNECTIONS: usize = 2 * READERS;

impl TapOptions {
    /// The line on the wire: a number, and which messages.
    pub(super) fn line(self) -> String {
        let what = match self.what {
            MessageFilter::Both => "both",
            MessageFilter::Queries => "queries",
            MessageFilter::Responses => "responses",
        };
        format!("{} {what}\n", self.sample_rate)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (number, what) = line.strip_suffix('\n')?.split_once(' ')?;
        let what = match what {
            "both" => MessageFilter::Both,
            "queries" => MessageFilter::Queries,
            "responses" => MessageFilter::Responses,
            _ => return None,
        };
        Some(Self { sample_rate: number.parse().ok()?, what })
    }
}

/// Lets readers in at `path` until it is dropped. A socket left there by a former process is replaced.
///
/// # Errors
///
/// When the socket cannot be created.
pub async fn serve(path: &Path, tap: Arc<Tap>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let tap = tap.clone();
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, &tap).await {
                        tracing::debug!("a reader of the tap: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("{}: {error}", path.display());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Hears what a reader wants and gives it frames until it has gone. One that finds no place is closed without a frame.
async fn attend(mut stream: UnixStream, tap: &Arc<Tap>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    timeout(PATIENCE, (&mut read).take(LONGEST_LINE).read_line(&mut line)).await??;
    let wanted = TapOptions::from_line(&line).ok_or(io::ErrorKind::InvalidData)?;
    let Some(seat) = tap.sit_down(wanted) else { return Ok(()) };
    timeout(STALL, write.write_all(&frames::start())).await??;
    loop {
        let frames = tokio::select! {
            // It has nothing more to say; whatever comes is its end.
            _ = read.read_u8() => break,
            frames = seat.frames() => frames,
        };
        timeout(STALL, write.write_all(&frames)).await??;
    }
    timeout(STALL, write.write_all(&frames::stop())).await??;
    write.shutdown().await
}
