//! Files of an image, and the layer that they make: no owner, no time and no order but that of their names, so that the
//! files alone decide its bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// Files of an image by their paths, which begin without a slash.
#[derive(Debug, Default)]
pub(super) struct Files {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Folder,
    Link(String),
    File { content: Vec<u8>, executable: bool },
}

impl Files {
    /// Adds a file that is data, and the folders that it is in.
    pub(super) fn add_data(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.add(path, Entry::File { content: content.into(), executable: false });
    }

    /// Adds a copy of a program or a library.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn add_program(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.add(path, Entry::File { content, executable: true });
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn add_link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// Adds a folder.
    pub(super) fn add_folder(&mut self, path: &str) {
        self.add(path, Entry::Folder);
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Returns the size of all files in bytes.
    pub(super) fn size(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| match entry {
            Entry::File { content, .. } => content.len() as u64,
            Entry::Folder | Entry::Link(_) => 0,
        });
        sizes.sum()
    }

    /// Returns the files as a tar archive.
    ///
    /// # Errors
    /// When a path does not fit into one.
    pub(super) fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let appended = match entry {
                Entry::Folder => layer.append_data(&mut header(EntryType::Directory, 0o755, 0), path, &[][..]),
                Entry::Link(target) => layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target),
                Entry::File { content, executable } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    layer.append_data(&mut header(EntryType::Regular, mode, content.len()), path, &content[..])
                }
            };
            appended.with_context(|| format!("cannot put {path} into a layer"))?;
        }
        layer.into_inner().context("cannot complete a layer")
    }
}

/// Returns the header of an entry that belongs to root and was never changed.
pub(super) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_layer_depends_on_the_content_of_files_and_on_nothing_else() {
        let layers = ["one", "another folder"].map(|name| {
            let folder = tempfile::tempdir().unwrap();
            let source = folder.path().join(name);
            fs::write(&source, "program").unwrap();
            // Neither the time nor the mode of the source counts, nor the order.
            let file = fs::File::open(&source).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(name.len() as u64)).unwrap();
            fs::set_permissions(&source, fs::Permissions::from_mode(0o400 + name.len() as u32 % 8)).unwrap();
            let mut files = Files::default();
            let mut steps: [&dyn Fn(&mut Files); 3] = [
                &|files| files.add_program("program", &source).unwrap(),
                &|files| files.add_data("licenses/text", "text"),
                &|files| files.add_link("bin/sh", "busybox"),
            ];
            if name == "one" {
                steps.reverse();
            }
            steps.iter().for_each(|step| step(&mut files));
            files.layer().unwrap()
        });
        assert!(layers[0] == layers[1]);
        let mut changed = Files::default();
        changed.add_data("program", "program");
        changed.add_data("licenses/text", "text");
        changed.add_link("bin/sh", "busybox");
        assert!(changed.layer().unwrap() != layers[0], "a program that cannot be run is another file");
    }

    #[test]
    fn folders_come_before_their_files_and_all_belongs_to_root() {
        let mut files = Files::default();
        let long = format!("usr/lib/{}", "x".repeat(120));
        files.add_data("usr/lib/x", "12345");
        files.add_data(&long, "");
        files.add_folder("tmp");
        let layer = files.layer().unwrap();
        let mut archive = tar::Archive::new(&layer[..]);
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            paths.push(entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned());
        }
        assert_eq!(paths, ["tmp", "usr", "usr/lib", "usr/lib/x", &long]);
        assert_eq!(files.size(), 5);
    }
}
