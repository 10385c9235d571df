//! Looking at the volume again and again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{ActiveRevision, read, select, volume};

/// How often the volume is looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// What is in force, from now on; receivers are woken when it changes. The volume is looked at until the last of them
/// is gone. Where the directory is not a projected volume its files are read each time.
///
/// Must be called inside a Tokio runtime.
#[must_use]
pub fn watch(dir: &Path) -> watch::Receiver<Arc<ActiveRevision>> {
    let version = volume::version(dir);
    let first = select(&ActiveRevision::default(), &read(dir));
    tell(&ActiveRevision::default(), &first);
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(look(dir.to_owned(), version, sender));
    receiver
}

async fn look(dir: PathBuf, mut version: Option<PathBuf>, sender: watch::Sender<Arc<ActiveRevision>>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = sender.closed() => return,
        }
        let current_version = volume::version(&dir);
        if current_version.is_some() && current_version == version {
            continue;
        }
        version = current_version;
        let current = sender.borrow().clone();
        let after = select(&current, &read(&dir));
        if after != *current {
            tell(&current, &after);
            sender.send_replace(Arc::new(after));
        }
    }
}

fn tell(before: &ActiveRevision, after: &ActiveRevision) {
    if before.revision.in_force != after.revision.in_force {
        tracing::info!("revision {} is in force", after.revision.in_force.as_deref().unwrap_or("none"));
    }
    if let Some(refusal) = after.revision.refusal.as_ref().filter(|_| before.revision.refusal != after.revision.refusal)
    {
        tracing::warn!("{refusal}");
    }
    if before.zone != after.zone {
        tracing::info!("this pod is in zone {:?}", after.zone.as_deref().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::json;
    use super::*;

    #[tokio::test]
    async fn a_swapped_volume_is_in_force_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, revision: &str, tier: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("revision"), revision).unwrap();
            std::fs::write(path.join(format!("{revision}.json")), json(tier)).unwrap();
            std::os::unix::fs::symlink(name, dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        version("..1", "r1", "one");
        let mut in_force = watch(dir.path());
        assert_eq!(in_force.borrow().revision.in_force.as_deref(), Some("r1"));
        version("..2", "r2", "two");
        tokio::time::timeout(Duration::from_secs(1), in_force.changed()).await.unwrap().unwrap();
        assert_eq!(in_force.borrow().config.as_ref().unwrap().tier, "two");
    }
}
