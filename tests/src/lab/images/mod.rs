//! Container images: one cargo call for all programs, and an archive of each image that depends on its files alone.
//! Needs neither root nor a container engine.

mod archive;
mod debian;
mod files;
mod licenses;
mod recipes;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::Compression;

use super::layout::Layout;
use super::process::{build_tool, run};
use super::programs::CHECKOUT;
use super::progress::Progress;
use archive::{Archive, PlatformImage};
use files::Files;
pub use recipes::ImageSet;
use recipes::Recipe;

/// Registry part of every image's name, which nothing can be pulled from.
pub(super) const REGISTRY: &str = "localhost";

/// Options of a build.
#[derive(Clone, Debug)]
pub struct Build {
    /// Selection of images.
    pub set: ImageSet,
    /// Whether to optimize the programs and to leave no path of this machine in them; otherwise the profile of the
    /// tests is used.
    pub release: bool,
    /// Whether the images are for others: with labels and licenses, and the chart's default tag. Otherwise their tag is
    /// a hash of their content, so that a build without a change is the same image.
    pub published: bool,
    /// Folder of the workspace.
    pub checkout: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// Folder of the archives.
    pub archives: PathBuf,
    /// Folder with archives of the same images for other platforms, built on other machines.
    pub others: Option<PathBuf>,
    /// CoreDNS, which the images of a cluster need.
    pub coredns: Option<PathBuf>,
    /// Folder for intermediate files; the caller removes it.
    pub scratch: PathBuf,
    /// Lab that the build belongs to, if any: its processes carry the lab's mark.
    pub lab: Option<Layout>,
}

/// Image in an archive.
#[derive(Clone, Debug)]
pub struct Image {
    /// Short name, such as `dnstier-operator`.
    pub name: &'static str,
    /// Tag.
    pub tag: String,
    /// Archive that holds the image.
    pub archive: PathBuf,
    /// Digest of the image; `None` when its archive was there already.
    pub digest: Option<String>,
    /// Size of the files in bytes.
    pub size: u64,
}

impl Image {
    /// Returns the name that pods refer to.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{REGISTRY}/{}:{}", self.name, self.tag)
    }
}

/// Parts of a build that all of its images share.
struct Parts {
    /// Programs of the workspace by name, as they are put into images.
    programs: BTreeMap<String, PathBuf>,
    /// Output of `cargo metadata` and the compiler's folder, where licenses are found; `None` without licenses.
    licenses: Option<(String, PathBuf)>,
    /// Labels of every image.
    labels: BTreeMap<String, String>,
}

impl Build {
    /// Options of a build for others: of this checkout, in its target folder.
    #[must_use]
    pub fn for_others(release: bool, scratch: PathBuf) -> Self {
        let target = target_folder();
        Self {
            set: ImageSet::Product,
            release,
            published: true,
            checkout: CHECKOUT.into(),
            archives: target.join("images"),
            target,
            others: None,
            coredns: None,
            scratch,
            lab: None,
        }
    }

    /// Options of a build for a lab.
    #[must_use]
    pub(super) fn for_lab(set: ImageSet, coredns: PathBuf, scratch: PathBuf, lab: Layout) -> Self {
        let product = Self::for_others(false, scratch);
        Self { set, published: false, coredns: Some(coredns), lab: Some(lab), ..product }
    }

    /// Builds the images that are not there yet.
    ///
    /// # Errors
    /// When a program does not compile or an image cannot be packed.
    pub fn run(&self, progress: &Progress) -> Result<Vec<Image>> {
        let profile = if self.release { "image" } else { "dev" };
        let compile = || self.compile();
        let programs = progress.step(&format!("images: compile our programs ({profile} profile)"), compile)?;
        fs::create_dir_all(&self.archives)?;
        progress.detailed_step("images: pack", || {
            let parts = self.parts(programs)?;
            let images: Vec<Image> =
                self.set.recipes().map(|recipe| self.pack(recipe, &parts)).collect::<Result<_>>()?;
            let new = images.iter().filter(|image| image.digest.is_some());
            let new: Vec<String> = new.map(|image| format!("{} {}", image.name, megabytes(image.size))).collect();
            let remark = if new.is_empty() { "nothing has changed".to_owned() } else { new.join(", ") };
            Ok((images, remark))
        })
    }

    /// Builds the programs of the workspace in one call and returns their paths.
    fn compile(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut cargo = build_tool("cargo", self.lab.as_ref())?;
        // Variables that an outer cargo sets for its own crate would make an inner one rebuild.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let crate_variables = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
            if crate_variables.iter().any(|prefix| name.starts_with(prefix))
                || name == "CARGO"
                || name == "LD_LIBRARY_PATH"
            {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(&self.checkout).args(["build", "--locked", "--message-format=json-render-diagnostics"]);
        cargo.arg("--target-dir").arg(&self.target);
        // With the whole workspace selected, dependencies have the same features in every build, and are compiled once.
        cargo.arg("--workspace");
        cargo.args(self.set.recipes().flat_map(|recipe| recipe.programs).map(|name| format!("--bin={name}")));
        if self.release {
            let flags = serde_json::to_string(&self.remap_flags()?)?;
            cargo.args(["--profile=image", "--config"]).arg(format!("target.{}.rustflags={flags}", host_target()?));
        }
        let programs = executables(&run(&mut cargo)?);
        if self.release { Ok(programs) } else { self.strip(programs) }
    }

    /// Returns flags for the compiler that replace the folders of this machine, whose names would be in the programs.
    fn remap_flags(&self) -> Result<Vec<String>> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
        fs::create_dir_all(&self.target)?;
        let folders = [
            (Some(self.checkout.clone()), "/dnstier"),
            (Some(sysroot()?), "/rust"),
            (cargo, "/cargo"),
            // Last, because the last one that matches counts: it may be inside of the checkout or not.
            (Some(self.target.clone()), "/target"),
        ];
        let canonical = folders.into_iter().filter_map(|(folder, name)| Some((folder?.canonicalize().ok()?, name)));
        Ok(canonical.map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display())).collect())
    }

    /// Removes symbols and debug information, which the profile of the tests keeps.
    fn strip(&self, programs: BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
        let folder = self.scratch.join("stripped");
        fs::create_dir_all(&folder)?;
        let strip = |(name, path): (String, PathBuf)| {
            let stripped = folder.join(&name);
            run(build_tool("strip", self.lab.as_ref())?.arg("-o").arg(&stripped).arg(path))?;
            Ok((name, stripped))
        };
        programs.into_iter().map(strip).collect()
    }

    fn parts(&self, programs: BTreeMap<String, PathBuf>) -> Result<Parts> {
        if !self.published {
            return Ok(Parts { programs, licenses: None, labels: BTreeMap::new() });
        }
        let mut cargo = build_tool("cargo", self.lab.as_ref())?;
        cargo.current_dir(&self.checkout).args(["metadata", "--locked", "--format-version=1", "--filter-platform"]);
        let metadata = run(cargo.arg(host_target()?))?;
        let labels = [
            ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("revision", source::revision(&self.checkout)),
            ("source", source::repository(&self.checkout)),
        ];
        let labels = labels.into_iter().filter_map(|(name, value)| Some((label(name), value?))).collect();
        Ok(Parts { programs, licenses: Some((metadata, sysroot()?)), labels })
    }

    fn pack(&self, recipe: &Recipe, parts: &Parts) -> Result<Image> {
        let mut files = Files::default();
        for name in recipe.programs {
            let built = parts.programs.get(*name).with_context(|| format!("cargo built no program `{name}`"))?;
            files.add_program(name, built)?;
        }
        let of_packages = recipe.others.add(&mut files, self.coredns.as_deref())?;
        let mut settings = recipe.settings();
        if let Some((metadata, sysroot)) = &parts.licenses {
            let own = self.checkout.join("LICENSE");
            let text = fs::read(&own).with_context(|| format!("cannot read {}", own.display()))?;
            files.add_data(&format!("{}/DnsTier.txt", licenses::FOLDER), text);
            let mut all = vec![env!("CARGO_PKG_LICENSE").to_owned()];
            all.extend(licenses::add(&mut files, metadata, recipe.programs, sysroot)?);
            all.extend(debian::add_licenses(&mut files, &of_packages)?);
            settings.labels.clone_from(&parts.labels);
            settings.labels.insert(label("title"), recipe.name.to_owned());
            settings.labels.insert(label("licenses"), licenses::expression(all.iter().map(String::as_str)));
        }
        let size = files.size();
        let packed = PlatformImage::new(architecture(), &settings, &files)?;
        let name = recipe.name;
        if self.published {
            let tag = env!("CARGO_PKG_VERSION").to_owned();
            let archive = self.archives.join(archive_name(name));
            let mut image = Image { name, tag, archive, digest: None, size };
            image.digest = Some(self.write(&image, packed, Compression::default())?);
            return Ok(image);
        }
        // The name of an archive has the hash of its content: an existing one needs no build.
        let tag = packed.id();
        let archive = self.archives.join(format!("{name}-{tag}.tar"));
        let mut image = Image { name, tag, archive, digest: None, size };
        if !image.archive.exists() {
            image.digest = Some(self.write(&image, packed, Compression::fast())?);
            remove_older_archives(&image, &self.archives)?;
        }
        Ok(image)
    }

    /// Writes the archive of an image, with the platforms that other machines have built, and returns its digest.
    fn write(&self, image: &Image, packed: PlatformImage, compression: Compression) -> Result<String> {
        let mut archive = Archive::pack(&image.reference(), vec![packed], compression)?;
        if let Some(others) = &self.others {
            let path = others.join(archive_name(image.name));
            ensure!(!is_same_file(&path, &image.archive), "{} is about to be replaced", path.display());
            let file = fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let other = Archive::read(file).with_context(|| path.display().to_string())?;
            archive.merge(other)?;
        }
        let partial = image.archive.with_extension("partial");
        let file = fs::File::create(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        archive.write(std::io::BufWriter::new(file))?;
        fs::rename(&partial, &image.archive)?;
        archive.digest()
    }
}

/// Returns the references of the images for others, with the names of their archives.
#[must_use]
pub fn published_images() -> Vec<(String, String)> {
    let names = ImageSet::Product.recipes().map(|recipe| recipe.name);
    names.map(|name| (format!("{REGISTRY}/{name}:{}", env!("CARGO_PKG_VERSION")), archive_name(name))).collect()
}

/// Returns the name of an archive for others, which README has in its commands: without version.
fn archive_name(image: &str) -> String {
    format!("{image}.tar")
}

fn label(name: &str) -> String {
    format!("org.opencontainers.image.{name}")
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

/// Returns this machine's architecture in the words of image-spec, which are those of Go.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns the target triple that cargo builds for.
fn host_target() -> Result<String> {
    let output = run(build_tool("rustc", None)?.arg("-vV"))?;
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not name its host")
}

/// Returns the folder of the compiler.
fn sysroot() -> Result<PathBuf> {
    Ok(run(build_tool("rustc", None)?.args(["--print", "sysroot"]))?.trim().into())
}

/// Keeps an image's three newest archives: other labs may be about to import them.
fn remove_older_archives(image: &Image, archives: &Path) -> Result<()> {
    let prefix = format!("{}-", image.name);
    let is_tag = |text: &str| text.len() == image.tag.len() && text.chars().all(|c| c.is_ascii_hexdigit());
    let mut archives_of_image: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(archives)?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let tag = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".tar"));
            tag.is_some_and(is_tag)
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    archives_of_image.sort();
    archives_of_image
        .iter()
        .rev()
        .skip(3)
        .try_for_each(|(_, path)| fs::remove_file(path))
        .context("cannot remove an archive")
}

/// Returns names and paths of the programs in cargo's messages.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter_map(|message| {
            let path = PathBuf::from(message.get("executable")?.as_str()?);
            Some((message.get("target")?.get("name")?.as_str()?.to_owned(), path))
        })
        .collect()
}

/// Returns cargo's target folder.
fn target_folder() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(CHECKOUT).join("target"), PathBuf::from);
    // Without `..`, for messages.
    folder.canonicalize().unwrap_or(folder)
}

/// Returns a table of images: names, sizes, archives, digests. Paths are those from the current folder.
#[must_use]
pub fn table(images: &[Image]) -> String {
    let current = std::env::current_dir().unwrap_or_default();
    let mut lines = format!("{:<38} {:>9}   ARCHIVE, DIGEST\n", "IMAGE", "SIZE");
    for image in images {
        let archive = image.archive.strip_prefix(&current).unwrap_or(&image.archive).display();
        lines += &format!("{:<38} {:>9}   {archive}\n", image.reference(), megabytes(image.size));
        if let Some(digest) = &image.digest {
            lines += &format!("{:<50} {digest}\n", "");
        }
    }
    lines
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs the product with two copies of a program in the place of ours, as a checkout in this folder would.
    fn pack_in(folder: &Path, published: bool) -> Vec<Image> {
        let scratch = folder.join("scratch");
        let archives = folder.join("archives");
        fs::create_dir_all(&archives).unwrap();
        let build = Build { published, archives, ..Build::for_others(false, scratch) };
        let copies = ImageSet::Product.recipes().flat_map(|recipe| recipe.programs).map(|name| {
            let copy = folder.join(name);
            fs::copy("/bin/true", &copy).unwrap();
            ((*name).to_owned(), copy)
        });
        let parts = build.parts(build.strip(copies.collect()).unwrap()).unwrap();
        ImageSet::Product.recipes().map(|recipe| build.pack(recipe, &parts).unwrap()).collect()
    }

    fn can_pack_here() -> bool {
        ["/usr/sbin/nft", "/usr/bin/dpkg-query", "/usr/bin/strip"].iter().all(|file| Path::new(file).exists())
    }

    #[test]
    fn the_same_programs_make_the_same_archives_in_every_folder() {
        crate::require!(can_pack_here().then_some(()).ok_or_else(|| "needs nft, dpkg-query and strip".to_owned()));
        for published in [true, false] {
            let folders = [tempfile::tempdir().unwrap(), tempfile::Builder::new().prefix("longer").tempdir().unwrap()];
            let [one, other] = folders.each_ref().map(|folder| pack_in(folder.path(), published));
            assert_eq!(one.len(), 2);
            for (one, other) in one.iter().zip(&other) {
                assert!(one.digest.is_some() && one.digest == other.digest, "{one:?} and {other:?}");
                assert_eq!(one.archive.file_name(), other.archive.file_name());
                assert!(fs::read(&one.archive).unwrap() == fs::read(&other.archive).unwrap(), "{one:?}");
            }
        }
    }

    #[test]
    fn an_image_for_others_says_what_it_is_and_has_the_licenses_of_all_that_is_in_it() {
        crate::require!(can_pack_here().then_some(()).ok_or_else(|| "needs nft, dpkg-query and strip".to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let build = Build::for_others(false, folder.path().to_owned());
        let program = |name: &&str| ((*name).to_owned(), PathBuf::from("/bin/true"));
        let programs = ImageSet::Product.recipes().flat_map(|recipe| recipe.programs).map(program).collect();
        let parts = build.parts(programs).unwrap();
        assert_eq!(parts.labels[&label("version")], env!("CARGO_PKG_VERSION"));
        assert_eq!(parts.labels.get(&label("revision")).cloned(), source::revision(CHECKOUT.as_ref()));
        for image in pack_in(folder.path(), true) {
            let texts = texts(&image.archive);
            let (_, config) =
                texts.iter().find(|(path, text)| path.starts_with("blobs") && text.contains("diff_ids")).unwrap();
            let config: serde_json::Value = serde_json::from_str(config).unwrap();
            let licenses = config["config"]["Labels"][label("licenses")].as_str().unwrap();
            for license in ["Apache-2.0", "MIT", "LGPL-2.1-or-later", "GPL-3.0-or-later WITH GCC-exception-3.1"] {
                assert!(licenses.split(" AND ").any(|other| other == license), "{license} is not in {licenses}");
            }
            assert_eq!(licenses.contains("GPL-2.0-only"), image.name == "dnstier-node-cache", "nft's: {licenses}");
            let mut expected = vec!["licenses/DnsTier.txt", "licenses/THIRD-PARTY.txt", "licenses/debian/libc6.txt"];
            expected.extend(["licenses/rust-standard-library.html", "licenses/debian/common-licenses/LGPL-2.1"]);
            expected.extend((image.name == "dnstier-node-cache").then_some("licenses/debian/nftables.txt"));
            for path in expected {
                assert!(texts.get(path).is_some_and(|text| !text.is_empty()), "{} lacks {path}", image.name);
            }
            let notices = &texts["licenses/THIRD-PARTY.txt"];
            assert!(notices.contains("\ntokio 1.") && notices.contains("Tokio Contributors"), "{}", image.name);
            assert_eq!(notices.contains("\nkube-client "), image.name == "dnstier-operator", "{}", image.name);
        }
    }

    /// Returns all files in an archive and in its layer.
    fn texts(archive: &Path) -> BTreeMap<String, String> {
        use std::io::Read;
        let mut found = BTreeMap::new();
        let mut read_all = |tar: &[u8]| {
            let mut inner = Vec::new();
            for entry in tar::Archive::new(tar).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let path = entry.path().unwrap().to_str().unwrap().to_owned();
                found.insert(path, String::from_utf8_lossy(&content).into_owned());
                if content.starts_with(&[0x1f, 0x8b]) {
                    flate2::read::GzDecoder::new(&content[..]).read_to_end(&mut inner).unwrap();
                }
            }
            inner
        };
        let layer = read_all(&fs::read(archive).unwrap());
        read_all(&layer);
        found
    }

    #[test]
    fn released_programs_are_compiled_without_the_folders_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let build = Build { target: target.clone(), ..Build::for_others(true, folder.path().to_owned()) };
        let flags = build.remap_flags().unwrap();
        let checkout = Path::new(CHECKOUT).canonicalize().unwrap();
        let flag = |path: &Path, name: &str| format!("--remap-path-prefix={}={name}", path.display());
        assert_eq!(flags.first(), Some(&flag(&checkout, "/dnstier")));
        assert_eq!(flags.last(), Some(&flag(&target.canonicalize().unwrap(), "/target")));
        assert!(flags.iter().any(|flag| flag.ends_with("=/cargo")), "{flags:?}");
    }

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ask\"},\"executable\":\"/t/ask\"}\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\nnoise\n";
        assert_eq!(executables(messages), BTreeMap::from([("ask".to_owned(), PathBuf::from("/t/ask"))]));
    }
}
