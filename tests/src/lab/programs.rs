//! Go programs of the lab, compiled from pinned sources into a cache of the user's that all labs share.
//!
//! The name of a program's folder depends on everything that decides the result: the module's `go.mod` and `go.sum`,
//! the flags and the version of Go. A program appears there only when it is complete, so a kill costs its compilation
//! at most.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::layout::Layout;
use super::process::{build_tool, run};
use super::progress::Progress;

/// Folder of the checkout, fixed when this program was compiled.
pub const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Folder of `tests/programs` with the programs that are built from it.
struct Module {
    folder: &'static str,
    /// Programs and their packages, those that a lab needs first before the others.
    programs: &'static [(&'static str, &'static str)],
    /// Whether a lab needs the programs.
    is_of_lab: bool,
}

const MODULES: [Module; 6] = [
    Module {
        folder: "kubernetes",
        is_of_lab: true,
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    },
    Module { folder: "etcd", is_of_lab: true, programs: &[("etcd", "go.etcd.io/etcd/server/v3")] },
    Module {
        folder: "containerd",
        is_of_lab: true,
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
    Module { folder: "coredns", is_of_lab: true, programs: &[("coredns", "github.com/coredns/coredns")] },
    Module { folder: "helm", is_of_lab: true, programs: &[("helm", "helm.sh/helm/v4/cmd/helm")] },
    Module { folder: "kwok", is_of_lab: false, programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")] },
];

/// Paths of the programs.
#[derive(Clone, Debug)]
pub struct Programs {
    lab: Option<Layout>,
    folders: BTreeMap<&'static str, PathBuf>,
}

impl Programs {
    /// Returns where the programs are or will be.
    ///
    /// # Errors
    /// When Go is missing or a module's files cannot be read.
    pub fn locate() -> Result<Self> {
        let go = run(Command::new("go").arg("version")).context("Go is needed to name what it compiles")?;
        let mut folders = BTreeMap::new();
        for module in &MODULES {
            folders.insert(module.folder, cache()?.join(format!("{}-{}", module.folder, module.fingerprint(&go)?)));
        }
        Ok(Self { lab: None, folders })
    }

    /// Makes a compilation of the programs part of a lab, so that it ends with the lab.
    #[must_use]
    pub(crate) fn for_lab(self, layout: &Layout) -> Self {
        Self { lab: Some(layout.clone()), ..self }
    }

    /// Returns the path of a program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        let module = MODULES.iter().find(|module| module.programs.iter().any(|(name, _)| *name == program));
        let folder = module.and_then(|module| self.folders.get(module.folder));
        folder.map_or_else(|| PathBuf::from(program), |folder| folder.join(program))
    }

    /// Returns the path of a program as an argument.
    #[must_use]
    pub fn argument(&self, program: &str) -> String {
        self.path(program).display().to_string()
    }

    /// Returns the names of a lab's programs that are not compiled yet.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let all = MODULES.iter().filter(|module| module.is_of_lab).flat_map(|module| module.programs);
        all.map(|(program, _)| *program).filter(|program| !self.path(program).exists()).collect()
    }

    /// Compiles all missing programs of a lab, one after the other.
    ///
    /// # Errors
    /// When a compilation fails.
    pub fn build(&self, progress: &Progress) -> Result<()> {
        let missing = self.missing();
        self.build_selected(progress, |name| missing.contains(&name))
    }

    /// Compiles one program if it is missing, without a cluster.
    ///
    /// # Errors
    /// When the lab has no such program, or the compilation fails.
    pub fn build_one(&self, program: &str, progress: &Progress) -> Result<()> {
        let mut names = MODULES.iter().flat_map(|module| module.programs);
        anyhow::ensure!(names.any(|(name, _)| *name == program), "the lab has no program `{program}`");
        self.build_selected(progress, |name| name == program)
    }

    fn build_selected(&self, progress: &Progress, is_selected: impl Fn(&str) -> bool) -> Result<()> {
        let mut names = MODULES.iter().flat_map(|module| module.programs).map(|(name, _)| *name);
        if !names.any(|name| is_selected(name) && !self.path(name).exists()) {
            return Ok(());
        }
        fs::create_dir_all(cache()?)?;
        let lock = fs::File::create(cache()?.join("lock"))?;
        progress.step("programs: nobody else compiles them", || lock.lock().context("cannot lock the cache"))?;
        for module in &MODULES {
            let folder = self.folders.get(module.folder).context("a module without a folder")?;
            for (program, package) in module.programs {
                if is_selected(program) && !folder.join(program).exists() {
                    progress.step(&format!("programs: compile {program} {}", module.version()?), || {
                        module.build(package, &folder.join(program), self.lab.as_ref())
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl Module {
    fn sources(&self) -> PathBuf {
        Path::new(CHECKOUT).join("tests/programs").join(self.folder)
    }

    /// Returns the version of the first program's module, from `go.mod`.
    fn version(&self) -> Result<String> {
        let text = fs::read_to_string(self.sources().join("go.mod"))?;
        let package = self.programs.first().map_or("", |(_, package)| *package);
        required_version(&text, package).with_context(|| format!("{}: no version of {package}", self.folder))
    }

    /// Returns the linker flags: no symbols, and for Kubernetes the version that its parts report.
    fn linker_flags(&self) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        if self.folder == "kubernetes" {
            let version = self.version()?;
            let minor = version.split('.').nth(1).unwrap_or_default();
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                flags += &format!(
                    " -X {package}.gitVersion={version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}"
                );
            }
        }
        Ok(flags)
    }

    /// Returns 12 hexadecimal digits of a hash of everything that decides the result of a build.
    fn fingerprint(&self, go: &str) -> Result<String> {
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.sources().join(file);
            hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        hash.update(self.linker_flags()?);
        hash.update(go);
        Ok(hexadecimal(&hash.finalize(), 12))
    }

    fn build(&self, package: &str, program: &Path, lab: Option<&Layout>) -> Result<()> {
        let partial = program.with_extension("partial");
        fs::create_dir_all(program.parent().context("a program without a folder")?)?;
        let mut go = build_tool("go", lab)?;
        go.current_dir(self.sources()).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly -buildvcs=false");
        go.args(["build", "-trimpath", "-ldflags", &self.linker_flags()?, "-o"]).arg(&partial).arg(package);
        run(&mut go)?;
        fs::rename(&partial, program).with_context(|| format!("cannot write {}", program.display()))
    }
}

/// Returns the version that `go.mod` requires of the module of `package`: the longest matching path.
fn required_version(go_mod: &str, package: &str) -> Option<String> {
    let requirements = go_mod.lines().filter(|line| !line.contains("=>")).filter_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_ascii_whitespace();
        Some((words.next()?, words.next().filter(|version| version.starts_with('v'))?))
    });
    let matching = requirements.filter(|(module, _)| package.starts_with(module));
    matching.max_by_key(|(module, _)| module.len()).map(|(_, version)| version.to_owned())
}

/// Returns the folder of compiled programs: outside the checkout, per user.
///
/// # Errors
/// When the user has no home.
pub(super) fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(caches.context("neither XDG_CACHE_HOME nor HOME is set")?.join("dnstier/lab"))
}

/// Returns the first `digits` hexadecimal digits of a hash.
#[must_use]
pub(super) fn hexadecimal(hash: &[u8], digits: usize) -> String {
    hash.iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(digits)
        .filter_map(|n| char::from_digit(n.into(), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_pinned_modules() {
        for module in &MODULES {
            let version = module.version().unwrap();
            assert!(version.starts_with('v'), "{}: {version}", module.folder);
        }
    }

    #[test]
    fn the_longest_module_path_names_the_version() {
        let text = "require (\n\ta.io/x v1.0.0 // indirect\n\ta.io/x/y v2.0.0\n)\nreplace a.io/x/y => a.io/z v9.0.0\n";
        assert_eq!(required_version(text, "a.io/x/y/cmd/z").as_deref(), Some("v2.0.0"));
    }

    #[test]
    fn a_hash_is_written_in_hexadecimal() {
        assert_eq!(hexadecimal(&[0x0a, 0xff, 0x10], 5), "0aff1");
    }
}
