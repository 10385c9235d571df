//! Requirements that tests have of the machine. A test whose requirement is not met is skipped.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context;

use crate::lab::{self, Programs, Progress};

/// Environment variable that turns a skipped test into a failed one. `make test` sets it.
const REQUIRE_ALL: &str = "DNSTIER_TESTS_REQUIRE_ALL";

/// Skips the calling test unless the machine meets these requirements. First line of a test.
#[macro_export]
macro_rules! require {
    ($($requirement:expr),+) => {
        $(if let Err(missing) = $requirement {
            fn here() {}
            $crate::require::skip(std::any::type_name_of_val(&here), &missing);
            return;
        })+
    };
}

/// Reports a test as skipped, or fails it where `make test` runs it.
///
/// `here` is the type name of a function inside the test. The line goes to standard error directly: the test harness
/// shows nothing that a passing test prints.
///
/// # Panics
/// When `DNSTIER_TESTS_REQUIRE_ALL` is set.
pub fn skip(here: &str, missing: &str) {
    let test = here.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_crate, path)| path);
    let line = format!("skipped: {test}: {missing}");
    assert!(!all(), "{line} ({REQUIRE_ALL} is set)");
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn all() -> bool {
    std::env::var_os(REQUIRE_ALL).is_some()
}

/// Requires a machine on which a lab can be brought up.
///
/// # Errors
/// With everything that is missing, in one line. The machine is examined once.
pub fn lab() -> Result<(), String> {
    static MACHINE: OnceLock<Result<(), String>> = OnceLock::new();
    let examine = || lab::check_machine().map_err(|error| one_line(&format!("{error:#}")));
    MACHINE.get_or_init(examine).clone()
}

/// Returns the path of the pinned Helm. It is compiled where `make test` runs the test; elsewhere it must be there
/// already.
///
/// # Errors
/// When Helm is not there.
pub fn helm() -> Result<PathBuf, String> {
    static HELM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    HELM.get_or_init(|| lab_program("helm")).clone()
}

/// Returns the path of the pinned CoreDNS, compiled as [`helm`] is.
///
/// # Errors
/// When CoreDNS is not there.
pub fn coredns() -> Result<PathBuf, String> {
    static COREDNS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    COREDNS.get_or_init(|| lab_program("coredns")).clone()
}

/// Returns the pinned etcd and Kubernetes, compiled as [`helm`] is.
///
/// # Errors
/// When a program of the control plane is not there.
pub fn control_plane() -> Result<Programs, String> {
    for program in ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"] {
        lab_program(program)?;
    }
    program("setpriv")?;
    Programs::locate().map_err(|error| one_line(&format!("{error:#}")))
}

/// Returns the pinned kwok, which plays nodes and kubelets, and the control plane with its scheduler, compiled as
/// [`helm`] is.
///
/// # Errors
/// When one of the programs is not there.
pub fn kwok() -> Result<Programs, String> {
    for program in ["kube-scheduler", "kwok"] {
        lab_program(program)?;
    }
    control_plane()
}

/// Requires skopeo, which copies images.
///
/// # Errors
/// When it is not installed.
pub fn skopeo() -> Result<(), String> {
    let is_there = std::path::Path::new("/usr/bin/skopeo").exists();
    is_there.then_some(()).ok_or_else(|| "needs skopeo, of the package of this name".to_owned())
}

/// Requires a program in `PATH`.
///
/// # Errors
/// When there is none.
pub fn program(name: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if is_found { Ok(()) } else { Err(format!("needs the program {name}, which is not in PATH")) }
}

fn lab_program(name: &str) -> Result<PathBuf, String> {
    let find = || {
        let programs = Programs::locate()?;
        if all() {
            programs.build_one(name, &Progress::to_stdout())?;
        }
        let path = programs.path(name);
        path.exists()
            .then_some(path)
            .with_context(|| format!("`make test` compiles it, and so does `lab program {name}`"))
    };
    find().map_err(|error| format!("needs {name}: {}", one_line(&format!("{error:#}"))))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_part_of_a_machine_is_said_in_one_line() {
        assert_eq!(one_line("\nOne is missing.\nTwo is missing."), "One is missing. Two is missing.");
    }
}
