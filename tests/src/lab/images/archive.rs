//! Archives of images: an OCI layout (image-spec 1.1) in a tar file, with an index of the platforms that were built. An
//! archive of one platform is in the format of `docker save`, too, so that every Docker loads it.
//!
//! An archive has no time and no path of the machine in it: its inputs decide its bytes.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use super::super::programs::hexadecimal;
use super::files::{Files, header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Annotations of an index with the image's name: containerd reads the first, everybody else the second.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Time at which every image was created, in place of one that nobody can reproduce.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Settings of a container, from which the image's configuration is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Program that a container runs.
    pub(super) entrypoint: String,
    /// User and group, by number; root without one.
    pub(super) user: Option<String>,
    /// Environment variables, as `NAME=value`.
    pub(super) environment: Vec<String>,
    /// Labels of the image, which become annotations as well.
    pub(super) labels: BTreeMap<String, String>,
}

/// Image for one architecture: its configuration and its only layer, not compressed yet.
#[derive(Debug)]
pub(super) struct PlatformImage {
    architecture: String,
    config: Vec<u8>,
    layer: Vec<u8>,
    labels: BTreeMap<String, String>,
}

impl PlatformImage {
    /// Builds the image of these files for an architecture in Go's words, such as `amd64`.
    ///
    /// # Errors
    /// When the files make no layer.
    pub(super) fn new(architecture: &str, settings: &Settings, files: &Files) -> Result<Self> {
        let layer = files.layer()?;
        let mut config = json!({ "Entrypoint": [settings.entrypoint], "WorkingDir": "/" });
        if let Some(user) = &settings.user {
            config["User"] = json!(user);
        }
        if !settings.environment.is_empty() {
            config["Env"] = json!(settings.environment);
        }
        if !settings.labels.is_empty() {
            config["Labels"] = json!(settings.labels);
        }
        let config = json!({
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": CREATED, "created_by": "DnsTier" }],
        });
        let config = serde_json::to_vec(&config)?;
        Ok(Self { architecture: architecture.to_owned(), config, layer, labels: settings.labels.clone() })
    }

    /// Returns 12 hexadecimal digits of a hash of everything in the image.
    pub(super) fn id(&self) -> String {
        hexadecimal(&Sha256::digest(&self.config), 12)
    }
}

/// Image for one or more platforms, as an archive holds it.
#[derive(Debug)]
pub(super) struct Archive {
    reference: String,
    /// Descriptors of the platforms' manifests, by architecture.
    platforms: BTreeMap<String, Value>,
    annotations: BTreeMap<String, String>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Packs the images of some platforms under one name. `compression` is that of their layers.
    ///
    /// # Errors
    /// When a layer cannot be compressed.
    pub(super) fn pack(reference: &str, images: Vec<PlatformImage>, compression: Compression) -> Result<Self> {
        let annotations = images.first().map(|image| image.labels.clone()).unwrap_or_default();
        let mut archive =
            Self { reference: reference.to_owned(), platforms: BTreeMap::new(), annotations, blobs: BTreeMap::new() };
        for image in images {
            let mut compressed = GzBuilder::new().write(Vec::new(), compression);
            compressed.write_all(&image.layer)?;
            let layer = archive.add_blob(LAYER, compressed.finish()?);
            let config = archive.add_blob(CONFIG, image.config);
            let mut manifest =
                json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
            if !image.labels.is_empty() {
                manifest["annotations"] = json!(image.labels);
            }
            let mut descriptor = archive.add_blob(MANIFEST, serde_json::to_vec(&manifest)?);
            descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
            archive.platforms.insert(image.architecture, descriptor);
        }
        Ok(archive)
    }

    fn add_blob(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let descriptor = descriptor(media_type, &content);
        self.blobs.insert(digest(&content), content);
        descriptor
    }

    /// Reads an archive that [`Self::write`] wrote.
    ///
    /// # Errors
    /// When it holds something else, or a file in it is damaged.
    pub(super) fn read(archive: impl Read) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut names = None;
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            if path == "index.json" {
                names = Some(serde_json::from_slice::<Value>(&content)?);
            } else if entry.header().entry_type().is_file()
                && let Some(hash) = path.strip_prefix("blobs/sha256/")
            {
                ensure!(digest(&content) == format!("sha256:{hash}"), "{path} is damaged");
                blobs.insert(digest(&content), content);
            }
        }
        let names = names.context("no index.json")?;
        let [named] = names["manifests"].as_array().map_or(&[][..], Vec::as_slice) else {
            bail!("index.json does not name one image");
        };
        let reference = named["annotations"][NAMES[0]].as_str().context("the image has no name")?.to_owned();
        let index = blobs.remove(named["digest"].as_str().unwrap_or_default()).context("the image has no index")?;
        let index: Value = serde_json::from_slice(&index)?;
        let annotations = serde_json::from_value::<Option<_>>(index["annotations"].clone())?.unwrap_or_default();
        let mut platforms = BTreeMap::new();
        for platform in index["manifests"].as_array().into_iter().flatten() {
            let architecture = platform["platform"]["architecture"].as_str().context("a manifest without platform")?;
            platforms.insert(architecture.to_owned(), platform.clone());
        }
        Ok(Self { reference, platforms, annotations, blobs })
    }

    /// Takes over the platforms of another archive of the same image.
    ///
    /// # Errors
    /// When the other one has another name, another revision, or a platform that is here already.
    pub(super) fn merge(&mut self, other: Self) -> Result<()> {
        ensure!(other.reference == self.reference, "{} is not {}", other.reference, self.reference);
        let revision = |archive: &Self| archive.annotations.get("org.opencontainers.image.revision").cloned();
        let (ours, theirs) = (revision(self), revision(&other));
        ensure!(ours == theirs, "{} was built from revision {theirs:?}, not from {ours:?}", self.reference);
        for architecture in other.platforms.keys() {
            ensure!(!self.platforms.contains_key(architecture), "{} has {architecture} twice", self.reference);
        }
        self.platforms.extend(other.platforms);
        self.blobs.extend(other.blobs);
        Ok(())
    }

    fn index(&self) -> Result<Vec<u8>> {
        let platforms: Vec<_> = self.platforms.values().collect();
        let mut index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": platforms });
        if !self.annotations.is_empty() {
            index["annotations"] = json!(self.annotations);
        }
        Ok(serde_json::to_vec(&index)?)
    }

    /// Returns the digest of the image: that of its index.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn digest(&self) -> Result<String> {
        Ok(digest(&self.index()?))
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When the output fails.
    pub(super) fn write(&self, output: impl Write) -> Result<()> {
        let index = self.index()?;
        let mut named = descriptor(INDEX, &index);
        named["annotations"] = NAMES.iter().map(|name| ((*name).to_owned(), json!(self.reference))).collect();
        let mut files = vec![
            ("oci-layout".to_owned(), serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?),
            (
                "index.json".to_owned(),
                serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] }))?,
            ),
        ];
        // The older format knows one platform only.
        let mut platforms = self.platforms.values();
        if let (Some(platform), None) = (platforms.next(), platforms.next()) {
            files.push(("manifest.json".to_owned(), self.docker_manifest(platform)?));
        }
        let mut archive = Builder::new(output);
        let folders = ["blobs/", "blobs/sha256/"];
        let blobs = self.blobs.values().chain([&index]).map(|blob| (blob_path(&digest(blob)), blob.clone()));
        let mut blobs: Vec<_> = blobs.collect();
        blobs.sort();
        for folder in folders {
            archive.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, &[][..])?;
        }
        for (path, content) in files.into_iter().chain(blobs) {
            archive.append_data(&mut header(EntryType::Regular, 0o644, content.len()), path, &content[..])?;
        }
        archive.into_inner()?.flush().context("cannot complete an archive")
    }

    /// Returns the manifest.json of an archive of `docker save`.
    fn docker_manifest(&self, platform: &Value) -> Result<Vec<u8>> {
        let manifest = self.blobs.get(platform["digest"].as_str().unwrap_or_default()).context("no manifest")?;
        let manifest: Value = serde_json::from_slice(manifest)?;
        let path = |descriptor: &Value| blob_path(descriptor["digest"].as_str().unwrap_or_default());
        let layers: Vec<String> = manifest["layers"].as_array().into_iter().flatten().map(path).collect();
        let entry = json!({ "Config": path(&manifest["config"]), "RepoTags": [self.reference], "Layers": layers });
        Ok(serde_json::to_vec(&json!([entry]))?)
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(content), 64))
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "localhost/dnstier-operator:0.1.0";

    fn image(architecture: &str, revision: &str) -> PlatformImage {
        let mut files = Files::default();
        files.add_data("program", format!("for {architecture}"));
        let labels = [("org.opencontainers.image.revision".to_owned(), revision.to_owned())].into();
        let settings = Settings { entrypoint: "/program".to_owned(), labels, ..Settings::default() };
        PlatformImage::new(architecture, &settings, &files).unwrap()
    }

    fn pack(images: Vec<PlatformImage>) -> Archive {
        Archive::pack(REFERENCE, images, Compression::default()).unwrap()
    }

    fn written(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    /// Returns the files of an archive, read by nothing that wrote it.
    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
        }
        files
    }

    fn blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = &files[&format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())];
        assert_eq!(hexadecimal(&Sha256::digest(content), 64), digest[7..], "the digest of {descriptor}");
        assert_eq!(content.len() as u64, descriptor["size"].as_u64().unwrap(), "the size of {descriptor}");
        if descriptor["mediaType"].as_str().unwrap().ends_with("+json") {
            serde_json::from_slice(content).unwrap()
        } else {
            let mut layer = Vec::new();
            flate2::read::GzDecoder::new(&content[..]).read_to_end(&mut layer).unwrap();
            json!(format!("sha256:{}", hexadecimal(&Sha256::digest(&layer), 64)))
        }
    }

    #[test]
    fn an_archive_is_an_oci_layout_of_the_platforms_that_were_built() {
        for platforms in [&["amd64"][..], &["arm64"], &["amd64", "arm64"]] {
            let archive = pack(platforms.iter().map(|platform| image(platform, "1")).collect());
            let files = files(&written(&archive));
            let read = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
            assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
            let named = &read("index.json")["manifests"];
            assert_eq!(named.as_array().unwrap().len(), 1, "skopeo needs no name for the only image");
            for name in NAMES {
                assert_eq!(named[0]["annotations"][name], REFERENCE);
            }
            assert_eq!(named[0]["digest"], archive.digest().unwrap());
            let index = blob(&files, &named[0]);
            assert_eq!(index["annotations"]["org.opencontainers.image.revision"], "1");
            let found: Vec<_> = index["manifests"].as_array().unwrap().iter().collect();
            assert_eq!(found.len(), platforms.len());
            for (descriptor, platform) in found.into_iter().zip(platforms) {
                assert_eq!(descriptor["platform"], json!({ "architecture": platform, "os": "linux" }));
                let manifest = blob(&files, descriptor);
                let config = blob(&files, &manifest["config"]);
                assert_eq!(config["architecture"], *platform);
                assert_eq!(config["config"]["Labels"]["org.opencontainers.image.revision"], "1");
                assert_eq!(config["rootfs"]["diff_ids"], json!([blob(&files, &manifest["layers"][0])]));
            }
        }
    }

    #[test]
    fn an_archive_of_one_platform_is_one_of_docker_save_as_well() {
        let files_of_one = files(&written(&pack(vec![image("amd64", "1")])));
        let docker: Value = serde_json::from_slice(&files_of_one["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!([REFERENCE]));
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files_of_one.contains_key(path.as_str().unwrap()), "{path}");
        }
        let files_of_two = files(&written(&pack(vec![image("amd64", "1"), image("arm64", "1")])));
        assert!(!files_of_two.contains_key("manifest.json"), "one of two platforms would be lost without a word");
    }

    #[test]
    fn archives_from_two_machines_merge_into_the_one_of_both_platforms() {
        let both = written(&pack(vec![image("arm64", "1"), image("amd64", "1")]));
        for (first, second) in [("amd64", "arm64"), ("arm64", "amd64")] {
            let mut merged = Archive::read(&written(&pack(vec![image(first, "1")]))[..]).unwrap();
            merged.merge(Archive::read(&written(&pack(vec![image(second, "1")]))[..]).unwrap()).unwrap();
            assert!(written(&merged) == both, "{first} and {second}");
        }
        let mut archive = pack(vec![image("amd64", "1")]);
        let refused = |archive: &mut Archive, other: Archive| archive.merge(other).unwrap_err().to_string();
        assert!(refused(&mut archive, pack(vec![image("arm64", "2")])).contains("revision"));
        assert!(refused(&mut archive, pack(vec![image("amd64", "1")])).contains("amd64 twice"));
        let other = Archive::pack("localhost/other:1", vec![image("arm64", "1")], Compression::default()).unwrap();
        assert!(refused(&mut archive, other).contains("localhost/other:1 is not"));
    }

    #[test]
    fn a_damaged_archive_is_refused() {
        let whole = written(&pack(vec![image("amd64", "1")]));
        Archive::read(&whole[..]).unwrap();
        let content = b"\"architecture\":\"amd64\"";
        let at = whole.windows(content.len()).position(|window| window == content).unwrap();
        let mut damaged = whole.clone();
        damaged[at + content.len() - 2] = b'5';
        assert!(Archive::read(&damaged[..]).unwrap_err().to_string().contains("is damaged"));
        Archive::read(&whole[..whole.len() / 2]).unwrap_err();
        Archive::read(&[][..]).unwrap_err();
    }

    #[test]
    fn an_image_is_another_when_a_file_a_label_or_the_platform_is() {
        let ids = [image("amd64", "1"), image("amd64", "2"), image("arm64", "1")].map(|image| image.id());
        assert_eq!(image("amd64", "1").id(), ids[0]);
        assert!(ids[0] != ids[1] && ids[0] != ids[2], "{ids:?}");
    }
}
