//! Polling of the projected volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::select::{ActiveRevision, select};
use super::volume;

/// Interval between two polls of the volume.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Watches the volume at `dir`. The receiver starts with the active revision and is notified when it changes. Polling
/// ends when the last receiver is dropped.
///
/// A poll of a projected volume reads one symbolic link, and the files only when the kubelet has swapped it. In a plain
/// directory the files are read at each poll.
///
/// Must be called inside a Tokio runtime.
#[must_use]
pub(crate) fn watch(dir: &Path) -> watch::Receiver<Arc<ActiveRevision>> {
    let version = volume::version(dir);
    let initial = select(&ActiveRevision::default(), &volume::read(dir));
    log_changes(&ActiveRevision::default(), &initial);
    let (sender, receiver) = watch::channel(Arc::new(initial));
    tokio::spawn(poll(dir.to_owned(), version, sender));
    receiver
}

async fn poll(dir: PathBuf, mut last_version: Option<PathBuf>, sender: watch::Sender<Arc<ActiveRevision>>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = sender.closed() => return,
        }
        let version = volume::version(&dir);
        if version.is_some() && version == last_version {
            continue;
        }
        last_version = version;
        let current = sender.borrow().clone();
        let next = select(&current, &volume::read(&dir));
        if next != *current {
            log_changes(&current, &next);
            sender.send_replace(Arc::new(next));
        }
    }
}

fn log_changes(before: &ActiveRevision, after: &ActiveRevision) {
    if before.revision.in_force != after.revision.in_force {
        let revision = after.revision.in_force.as_deref().unwrap_or("none");
        tracing::info!(revision, "revision is active");
    }
    if let Some(refusal) = after.revision.refusal.as_ref().filter(|_| before.revision.refusal != after.revision.refusal)
    {
        let revision = after.revision.asked.as_deref().unwrap_or("stable");
        tracing::warn!(revision, error = %refusal, "revision is not activated");
    }
    if before.zone != after.zone {
        tracing::info!(zone = after.zone.as_deref().unwrap_or_default(), "zone of this pod changed");
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::config_json;
    use super::*;

    #[tokio::test]
    async fn a_swapped_volume_is_active_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        // Writes a version of the volume and swaps `..data` to it, as the kubelet does.
        let publish = |version: &str, revision: &str, tier: &str| {
            let path = dir.path().join(version);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("revision"), revision).unwrap();
            std::fs::write(path.join(format!("{revision}.json")), config_json(tier)).unwrap();
            std::os::unix::fs::symlink(version, dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        publish("..1", "r1", "one");
        let mut active = watch(dir.path());
        assert_eq!(active.borrow().revision.in_force.as_deref(), Some("r1"));
        publish("..2", "r2", "two");
        tokio::time::timeout(Duration::from_secs(1), active.changed()).await.unwrap().unwrap();
        assert_eq!(active.borrow().config.as_ref().unwrap().tier, "two");
    }
}
