//! What the projected volume holds.

use std::path::{Path, PathBuf};

use node_cache_config::names::{REVISION_FILE, STABLE_REVISION, ZONE_FILE, ZONE_LABEL_FILE, revision_key};

/// One look at the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeContents {
    /// The revision that the pod's annotation names.
    pub asked: Option<String>,
    /// The file of that revision.
    pub asked_content: Option<Vec<u8>>,
    /// The file of the revision for pods that nobody has annotated.
    pub stable_content: Option<Vec<u8>>,
    /// The zone that the annotation names, else the one of the label. Empty is a zone too: the one of nodes without a
    /// label, which is known only once the pod is annotated.
    pub zone: Option<String>,
}

/// Reads the volume. What is missing is absent from the result, what cannot be read is treated as missing.
#[must_use]
pub fn read(dir: &Path) -> VolumeContents {
    // The kubelet swaps the symlink `..data` when everything below it is complete; going through it once makes this
    // look at one version of the volume.
    let dir = std::fs::read_link(dir.join("..data")).map_or_else(|_| dir.to_owned(), |version| dir.join(version));
    let asked = line(dir.join(REVISION_FILE)).filter(|name| is_revision(name));
    let asked_content = asked.as_deref().and_then(|name| std::fs::read(dir.join(revision_key(name))).ok());
    let stable_content = std::fs::read(dir.join(revision_key(STABLE_REVISION))).ok();
    let zone = line(dir.join(ZONE_FILE))
        .or_else(|| line(dir.join(ZONE_LABEL_FILE)))
        .or_else(|| asked.is_some().then(String::new));
    VolumeContents { asked, asked_content, stable_content, zone }
}

/// Which version of the volume is mounted; none where the directory is not a projected volume.
pub(super) fn version(dir: &Path) -> Option<PathBuf> {
    std::fs::read_link(dir.join("..data")).ok()
}

fn line(path: PathBuf) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A revision becomes part of a path, so it may hold nothing that leads elsewhere.
fn is_revision(name: &str) -> bool {
    name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_through_the_link_that_the_kubelet_swaps() {
        let dir = tempfile::tempdir().unwrap();
        let version = dir.path().join("..2026_1");
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("revision"), "abc\n").unwrap();
        std::fs::write(version.join("abc.json"), "{}").unwrap();
        std::fs::write(version.join("zone-label"), "zone-b").unwrap();
        std::fs::write(version.join("zone"), "").unwrap();
        std::os::unix::fs::symlink("..2026_1", dir.path().join("..data")).unwrap();
        let seen = read(dir.path());
        assert_eq!(seen.asked.as_deref(), Some("abc"));
        assert_eq!(seen.asked_content.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(seen.zone.as_deref(), Some("zone-b"));
    }

    #[test]
    fn the_annotation_tells_the_zone_before_the_label_does_and_no_zone_is_known_before_either() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert_eq!(read(path).zone, None);
        std::fs::write(path.join("revision"), "abc").unwrap();
        assert_eq!(read(path).zone.as_deref(), Some(""), "an annotated pod on a node without a zone");
        std::fs::write(path.join("zone-label"), "zone-b").unwrap();
        assert_eq!(read(path).zone.as_deref(), Some("zone-b"));
        std::fs::write(path.join("zone"), "zone-a").unwrap();
        assert_eq!(read(path).zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn a_revision_cannot_lead_out_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("revision"), "../../etc/passwd").unwrap();
        assert_eq!(read(dir.path()).asked, None);
    }
}
