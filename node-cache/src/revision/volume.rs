//! Contents of the projected volume.

use std::path::{Path, PathBuf};

use node_cache_config::names::{
    RESOLVERS_ON_NODE_FILE, REVISION_FILE, STABLE_REVISION, ZONE_FILE, ZONE_LABEL_FILE, revision_key,
};

/// Symbolic link to the current version of a projected volume. The kubelet swaps it when all files of a version are
/// written.
const DATA_LINK: &str = "..data";
/// Longest name of a revision, in bytes.
const MAX_REVISION_LEN: usize = 63;

/// Contents of the volume at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeContents {
    /// Revision that the pod's annotation names.
    pub(super) desired: Option<String>,
    /// Content of that revision's file.
    pub(super) desired_content: Option<Vec<u8>>,
    /// Content of the file of the stable revision, for pods without an annotation.
    pub(super) stable_content: Option<Vec<u8>>,
    /// Zone that the annotation names, else that of the label. Empty is a zone too: that of nodes without a label,
    /// which is known only once the pod is annotated.
    pub(super) zone: Option<String>,
    /// Number of zone resolvers on the node, from the annotation; `None` without one, and where it is no number from 1.
    pub(super) resolvers_on_node: Option<u32>,
}

/// Reads the volume at `dir`. Missing and unreadable files are `None` in the result.
pub(super) fn read(dir: &Path) -> VolumeContents {
    // Resolving the link once makes all reads see one version of the volume.
    let dir = version(dir).map_or_else(|| dir.to_owned(), |version| dir.join(version));
    let desired = read_line(dir.join(REVISION_FILE)).filter(|name| is_revision_name(name));
    let desired_content = desired.as_deref().and_then(|name| std::fs::read(dir.join(revision_key(name))).ok());
    let stable_content = std::fs::read(dir.join(revision_key(STABLE_REVISION))).ok();
    let zone = read_line(dir.join(ZONE_FILE))
        .or_else(|| read_line(dir.join(ZONE_LABEL_FILE)))
        .or_else(|| desired.is_some().then(String::new));
    let resolvers_on_node = read_line(dir.join(RESOLVERS_ON_NODE_FILE)).and_then(|text| text.parse().ok());
    let resolvers_on_node = resolvers_on_node.filter(|number| *number > 0);
    VolumeContents { desired, desired_content, stable_content, zone, resolvers_on_node }
}

/// Returns the directory of the current version of the volume; `None` when `dir` is not a projected volume.
pub(super) fn version(dir: &Path) -> Option<PathBuf> {
    std::fs::read_link(dir.join(DATA_LINK)).ok()
}

fn read_line(path: PathBuf) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns whether `name` is safe as part of a path: letters, digits and hyphens only.
fn is_revision_name(name: &str) -> bool {
    name.len() <= MAX_REVISION_LEN && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
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
        std::fs::write(version.join("resolvers-on-node"), "3").unwrap();
        std::os::unix::fs::symlink("..2026_1", dir.path().join("..data")).unwrap();
        let contents = read(dir.path());
        assert_eq!(contents.desired.as_deref(), Some("abc"));
        assert_eq!(contents.desired_content.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(contents.zone.as_deref(), Some("zone-b"));
        assert_eq!(contents.resolvers_on_node, Some(3));
        for nothing in ["0", "-1", "two", ""] {
            std::fs::write(version.join("resolvers-on-node"), nothing).unwrap();
            assert_eq!(read(dir.path()).resolvers_on_node, None, "{nothing:?}");
        }
    }

    #[test]
    fn the_zone_annotation_wins_over_the_label_and_without_either_none_is_known() {
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
    fn a_revision_name_cannot_lead_out_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("revision"), "../../etc/passwd").unwrap();
        assert_eq!(read(dir.path()).desired, None);
    }
}
