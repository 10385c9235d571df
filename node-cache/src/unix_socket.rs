//! Unix sockets of a pod: binding at a path in the directory that all containers share, and the user of a peer.
//!
//! Any process of the pod may write to that directory, and caches are less trusted than the agent: what is at a path
//! may be anything, and a peer may be one that was taken over.

pub(crate) mod connections;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Mode of the sockets: the owner and the group of the directory may connect, others not.
const SOCKET_MODE: u32 = 0o660;
/// Attempts to bind at a path where another process puts something again and again.
const MAX_BIND_ATTEMPTS: usize = 8;

/// Listens at `path` and replaces what is there: the socket of an earlier process, or a directory that was put in its
/// way. The owner and the group of the directory (the pod's `fsGroup`, if the directory hands its group on) may
/// connect.
///
/// Must be called inside a Tokio runtime.
///
/// # Errors
///
/// Any error of creating the socket.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut attempts = 0;
    let listener = loop {
        clear(path)?;
        attempts += 1;
        match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < MAX_BIND_ATTEMPTS => {}
            result => break result?,
        }
    };
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Makes a path free. A directory is moved aside under another name and removed if it is empty: its content may belong
/// to another user, and may be of any size.
fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) => {
            let aside = name_aside(path);
            tracing::warn!(path = %path.display(), aside = %aside.display(), "a directory is in the way of a socket");
            fs::rename(path, &aside)?;
            let _ = fs::remove_dir(&aside);
            Ok(())
        }
        result => result,
    }
}

/// Returns a name beside `path` that no other process can know in advance.
fn name_aside(path: &Path) -> PathBuf {
    path.with_extension(format!("stale-{:016x}", rand::random::<u64>()))
}

/// Returns whether the peer has the user of this process, as probes of its own container have (`SO_PEERCRED`).
pub(crate) fn is_own_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Returns text of another process without control characters, and at most 300 characters of it: for logs and errors.
pub(crate) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    text.chars().take(MAX_CHARS).map(|letter| if is_harmless(letter) { letter } else { '\u{fffd}' }).collect()
}

/// Returns whether a character neither controls a terminal nor changes the order or the lines of a text.
fn is_harmless(letter: char) -> bool {
    let turns_text = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !letter.is_control() && !turns_text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_is_at_the_path_a_socket_is_bound_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "an earlier process leaves its socket");
        drop(bind(&path).unwrap());

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        drop(bind(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "an empty directory leaves nothing");

        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("below")).unwrap();
        drop(bind(&path).unwrap());

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("none"), &path).unwrap();
        let listener = bind(&path).unwrap();
        let stream = UnixStream::connect(&path).await.unwrap();
        assert!(is_own_user(&stream));
        drop(listener);
    }

    #[test]
    fn control_characters_reach_no_log() {
        assert_eq!(
            printable("a\nb\r\u{1b}[2Jc\u{202e}d\u{2028}e\u{85}"),
            "a\u{fffd}b\u{fffd}\u{fffd}[2Jc\u{fffd}d\u{fffd}e\u{fffd}"
        );
        assert_eq!(printable("Straße 東京"), "Straße 東京");
        assert_eq!(printable(&"x".repeat(1000)).len(), 300);
    }
}
