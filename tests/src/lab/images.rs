//! Container images: one cargo call for all programs, a folder with an image's files for each, and buildah or docker to
//! pack it. An image's tag is a hash of its content, so that a build without a change is the same image.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::layout::Layout;
use super::process::{build_tool, run};
use super::programs::{CHECKOUT, Programs, hexadecimal};
use super::progress::Progress;

/// Registry part of every image's name, which nothing can be pulled from.
pub(super) const REGISTRY: &str = "localhost";

/// Program that packs an archive from a Containerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Builder {
    /// buildah, without any daemon.
    Buildah,
    /// docker; the images stay in its store, too.
    Docker,
}

/// Selection of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSet {
    /// Images of a bare cluster: pause, toolbox and coredns.
    Cluster,
    /// Images that are installed in a cluster: the operator and the node cache.
    Product,
    /// Both.
    All,
}

/// Options of a build.
#[derive(Clone, Debug)]
pub struct Build {
    /// Selection of images.
    pub set: ImageSet,
    /// Whether to use the release profile, for publishing; otherwise that of the tests.
    pub release: bool,
    /// Program that packs the images.
    pub builder: Builder,
    /// Folder for intermediate files; the caller removes it.
    pub scratch: PathBuf,
    /// Tag of the images; without one, a hash of their content.
    pub tag: Option<String>,
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
    /// Size of the files in bytes.
    pub size: u64,
    /// Whether this build packed it.
    pub is_new: bool,
}

impl Image {
    /// Returns the name that pods refer to.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{REGISTRY}/{}:{}", self.name, self.tag)
    }
}

/// Sources of an image.
struct Recipe {
    name: &'static str,
    /// Folder of its Containerfile in the checkout.
    folder: &'static str,
    /// Programs of the workspace, each at the image's root.
    binaries: &'static [&'static str],
    /// Adds all other files to the image's root.
    add_files: fn(&Programs, &Path) -> Result<()>,
    product: bool,
}

const RECIPES: [Recipe; 5] = [
    Recipe { name: "pause", folder: "tests/pause", binaries: &["pause"], add_files: |_, _| Ok(()), product: false },
    Recipe {
        name: "toolbox",
        folder: "tests/toolbox",
        binaries: &["ask", "pause"],
        add_files: busybox,
        product: false,
    },
    Recipe { name: "coredns", folder: "tests/coredns", binaries: &[], add_files: coredns, product: false },
    Recipe {
        name: "dnstier-operator",
        folder: "operator",
        binaries: &["dnstier-operator"],
        add_files: |_, _| Ok(()),
        product: true,
    },
    Recipe {
        name: "dnstier-node-cache",
        folder: "node-cache",
        binaries: &["node-cache", "node-agent", "zone-resolver"],
        add_files: nft,
        product: true,
    },
];

impl ImageSet {
    fn recipes(self) -> impl Iterator<Item = &'static Recipe> {
        RECIPES.iter().filter(move |recipe| match self {
            Self::Cluster => !recipe.product,
            Self::Product => recipe.product,
            Self::All => true,
        })
    }
}

impl Build {
    /// Builds the images that are not there yet.
    ///
    /// # Errors
    /// When a program does not compile or an image cannot be packed.
    pub fn run(&self, programs: &Programs, progress: &Progress) -> Result<Vec<Image>> {
        let profile = if self.release { "release" } else { "dev" };
        let binaries =
            progress.step(&format!("images: compile our programs ({profile} profile)"), || self.compile())?;
        let archives = target_folder().join("images");
        fs::create_dir_all(&archives)?;
        progress.detailed_step("images: pack", || {
            let images: Vec<Image> = self
                .set
                .recipes()
                .map(|recipe| self.pack(recipe, &binaries, programs, &archives))
                .collect::<Result<_>>()?;
            let new: Vec<String> = images
                .iter()
                .filter(|image| image.is_new)
                .map(|image| format!("{} {}", image.name, megabytes(image.size)))
                .collect();
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
        cargo.current_dir(CHECKOUT).args(["build", "--locked", "--message-format=json-render-diagnostics"]);
        // With the whole workspace selected, dependencies have the same features in every build, and are compiled once.
        cargo.arg("--workspace");
        cargo.args(self.set.recipes().flat_map(|recipe| recipe.binaries).map(|name| format!("--bin={name}")));
        if self.release {
            cargo.arg("--release");
        }
        Ok(executables(&run(&mut cargo)?))
    }

    fn pack(
        &self,
        recipe: &Recipe,
        binaries: &BTreeMap<String, PathBuf>,
        programs: &Programs,
        archives: &Path,
    ) -> Result<Image> {
        let context = self.scratch.join(recipe.name);
        drop(fs::remove_dir_all(&context));
        let root = context.join("root");
        fs::create_dir_all(&root)?;
        for name in recipe.binaries {
            let built = binaries.get(*name).with_context(|| format!("cargo built no program `{name}`"))?;
            run(build_tool("strip", self.lab.as_ref())?.arg("-o").arg(root.join(name)).arg(built))?;
        }
        (recipe.add_files)(programs, &root)?;
        let containerfile = context.join("Containerfile");
        fs::copy(Path::new(CHECKOUT).join(recipe.folder).join("Containerfile"), &containerfile)
            .with_context(|| format!("{} has no Containerfile", recipe.folder))?;
        let mut content = Content::default();
        content.add(&context, "", self.lab.as_ref())?;
        let hash = hexadecimal(&content.hash.finalize(), 12);
        // The name of an archive has the hash of its content: an existing one needs no build.
        let (tag, archive, is_new) = match &self.tag {
            Some(tag) => (tag.clone(), archives.join(format!("{}.tar", recipe.name)), true),
            None => {
                let archive = archives.join(format!("{}-{hash}.tar", recipe.name));
                let is_new = !archive.exists();
                (hash, archive, is_new)
            }
        };
        let image = Image { name: recipe.name, tag, archive, size: content.size, is_new };
        if is_new {
            match self.builder {
                Builder::Buildah => self.with_buildah(&image, &context)?,
                Builder::Docker => with_docker(&image, &context, self.lab.as_ref())?,
            }
            if self.tag.is_none() {
                remove_older_archives(&image, archives)?;
            }
        }
        fs::remove_dir_all(&context)?;
        Ok(image)
    }

    fn with_buildah(&self, image: &Image, context: &Path) -> Result<()> {
        // A store of its own: nothing of the user's is touched, and nothing is left.
        let store = self.scratch.join("buildah");
        fs::create_dir_all(&store)?;
        let settings = store.join("containers.conf");
        fs::write(&settings, format!("[network]\nnetwork_config_dir = \"{}\"\n", store.join("networks").display()))?;
        let buildah = || -> Result<Command> {
            let mut buildah = build_tool("buildah", self.lab.as_ref())?;
            buildah.env("CONTAINERS_CONF", &settings);
            buildah.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
            buildah.args(["--storage-driver", "vfs"]);
            Ok(buildah)
        };
        let reference = image.reference();
        run(buildah()?
            .args(["build", "--isolation", "chroot", "--timestamp", "0", "--tag", &reference, "--file"])
            .arg(context.join("Containerfile"))
            .arg(context))?;
        let partial = image.archive.with_extension("partial");
        drop(fs::remove_file(&partial));
        run(buildah()?.args(["push", &reference]).arg(format!("oci-archive:{}:{reference}", partial.display())))?;
        run(buildah()?.args(["rmi", "--all", "--force"]))?;
        fs::rename(&partial, &image.archive)?;
        fs::remove_dir_all(&store).context("cannot remove buildah's store")
    }
}

fn with_docker(image: &Image, context: &Path, lab: Option<&Layout>) -> Result<()> {
    let reference = image.reference();
    let containerfile = context.join("Containerfile");
    run(build_tool("docker", lab)?.args(["build", "--tag", &reference, "--file"]).arg(containerfile).arg(context))?;
    let partial = image.archive.with_extension("partial");
    run(build_tool("docker", lab)?.args(["save", "--output"]).arg(&partial).arg(&reference))?;
    fs::rename(&partial, &image.archive).context("docker wrote no archive")
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

/// Hash and size of everything in a folder: names, modes, contents, targets of links.
#[derive(Default)]
struct Content {
    hash: Sha256,
    size: u64,
}

impl Content {
    fn add(&mut self, folder: &Path, name: &str, lab: Option<&Layout>) -> Result<()> {
        let mut entries: Vec<fs::DirEntry> = fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            let metadata = entry.metadata()?;
            self.hash.update(format!("{name}\0{:o}\0", metadata.permissions().mode()));
            if metadata.is_dir() {
                self.add(&entry.path(), &name, lab)?;
            } else if metadata.is_symlink() {
                self.hash.update(fs::read_link(entry.path())?.to_string_lossy().as_bytes());
            } else {
                self.size += metadata.len();
                // coreutils hash 150 MB in a moment; the same code in this profile would take many seconds.
                let sum = run(build_tool("sha256sum", lab)?.arg("--binary").arg(entry.path()))?;
                self.hash.update(sum.split(' ').next().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Installs busybox, with a link for each of its tools.
fn busybox(_: &Programs, root: &Path) -> Result<()> {
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::copy("/bin/busybox", bin.join("busybox"))?;
    let tools = run(Command::new("/bin/busybox").arg("--list"))?;
    for tool in tools.lines().filter(|tool| *tool != "busybox") {
        symlink("busybox", bin.join(tool))?;
    }
    Ok(())
}

fn coredns(programs: &Programs, root: &Path) -> Result<()> {
    fs::copy(programs.path("coredns"), root.join("coredns")).context("cannot copy coredns").map(drop)
}

/// Installs nft and its libraries at the paths where it looks for them.
fn nft(_: &Programs, root: &Path) -> Result<()> {
    let output = run(Command::new("ldd").arg("/usr/sbin/nft"))?;
    let libraries = libraries(&output);
    if libraries.is_empty() {
        bail!("ldd names no library of /usr/sbin/nft: {}", output.trim());
    }
    for file in libraries.iter().copied().chain(["/usr/sbin/nft"]) {
        let copy = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("a file without a folder")?)?;
        fs::copy(file, copy).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

/// Returns the paths in the output of ldd: `libx.so.1 => /lib/libx.so.1 (0x…)` and `/lib64/ld-linux.so.2 (0x…)`.
fn libraries(output: &str) -> Vec<&str> {
    output.split_ascii_whitespace().filter(|word| word.starts_with('/')).collect()
}

/// Returns a table of images: names, sizes, archives.
#[must_use]
pub fn table(images: &[Image]) -> String {
    let mut lines = format!("{:<46} {:>9}   ARCHIVE\n", "IMAGE", "SIZE");
    for image in images {
        let size = megabytes(image.size);
        lines += &format!("{:<46} {size:>9}   {}\n", image.reference(), image.archive.display());
    }
    lines
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_the_same_content_is_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || {
            let mut content = Content::default();
            content.add(folder.path(), "", None).unwrap();
            hexadecimal(&content.hash.finalize(), 12)
        };
        fs::write(folder.path().join("one"), "1").unwrap();
        let before = hash();
        assert_eq!(before, hash());
        fs::set_permissions(folder.path().join("one"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(before, hash());
        let runnable = hash();
        symlink("one", folder.path().join("two")).unwrap();
        assert_ne!(runnable, hash());
    }

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let output = "\tlinux-vdso.so.1 (0x1)\n\tlibnft.so.1 => /lib/x/libnft.so.1 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(output), ["/lib/x/libnft.so.1", "/lib64/ld.so.2"]);
    }

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ask\"},\"executable\":\"/t/ask\"}\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\nnoise\n";
        assert_eq!(executables(messages), BTreeMap::from([("ask".to_owned(), PathBuf::from("/t/ask"))]));
    }
}
