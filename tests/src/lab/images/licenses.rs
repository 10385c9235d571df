//! Licenses of what is linked into our programs: the crates, from cargo's metadata and their own folders, and Rust's
//! standard library.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::files::Files;

/// Names that files with licenses begin with, in lower case.
const NAMES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];

/// Folder of licenses in an image.
pub(super) const FOLDER: &str = "licenses";

/// Crate of others in one of our programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    /// SPDX expression.
    license: String,
    repository: String,
    folder: PathBuf,
}

/// Adds the licenses of the crates in these programs and of the standard library; returns the SPDX expressions.
///
/// `metadata` is the output of `cargo metadata`, `sysroot` the folder of the compiler.
///
/// # Errors
/// When the text of a license cannot be found.
pub(super) fn add(files: &mut Files, metadata: &str, programs: &[&str], sysroot: &Path) -> Result<Vec<String>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo's metadata is no JSON")?;
    let crates = linked_crates(&metadata, programs)?;
    files.add_data(&format!("{FOLDER}/THIRD-PARTY.txt"), notices(&crates)?);
    let library = sysroot.join("share/doc/rust/COPYRIGHT-library.html");
    let text = fs::read(&library).with_context(|| {
        format!(
            "{} has the licenses of Rust's standard library and is missing; a Rust of rustup has it",
            library.display()
        )
    })?;
    files.add_data(&format!("{FOLDER}/rust-standard-library.html"), text);
    let mut licenses: Vec<String> = crates.into_iter().map(|part| part.license).collect();
    licenses.push("Apache-2.0 OR MIT".to_owned());
    Ok(licenses)
}

/// Returns the crates of others that are linked into programs of the workspace: without macros and what only builds.
fn linked_crates(metadata: &Value, programs: &[&str]) -> Result<BTreeSet<Crate>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let has_target = |package: &Value, kind: &str, name: Option<&str>| {
        list(&package["targets"]).iter().any(|target| {
            list(&target["kind"]).iter().any(|other| other == kind) && name.is_none_or(|name| target["name"] == name)
        })
    };
    let mut waiting = Vec::new();
    for program in programs {
        let of_program = |package: &&Value| package["source"].is_null() && has_target(package, "bin", Some(program));
        let package = packages.values().find(of_program);
        waiting.push(text(&package.with_context(|| format!("no package has the program {program}"))?["id"]));
    }
    let (mut seen, mut crates) = (BTreeSet::new(), BTreeSet::new());
    while let Some(id) = waiting.pop() {
        let package = packages.get(&id).with_context(|| format!("cargo's metadata lack {id}"))?;
        if has_target(package, "proc-macro", None) || !seen.insert(id.clone()) {
            continue;
        }
        if !package["source"].is_null() {
            let license = text(&package["license"]);
            crates.insert(Crate {
                name: text(&package["name"]),
                version: text(&package["version"]),
                license: if license.is_empty() { "LicenseRef-in-its-text".to_owned() } else { normalize(&license) },
                repository: text(&package["repository"]),
                folder: Path::new(&text(&package["manifest_path"])).parent().map(Path::to_owned).unwrap_or_default(),
            });
        }
        let linked = |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let dependencies = nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default();
        waiting.extend(dependencies.iter().filter(linked).map(|dependency| text(&dependency["pkg"])));
    }
    Ok(crates)
}

/// Returns the list of crates and, once each, the texts of their licenses.
fn notices(crates: &BTreeSet<Crate>) -> Result<String> {
    let mut notices = "Crates that are linked into the programs of this image, and then the texts of their licenses.\n\
                       The texts of those under Apache-2.0 without a text of their own are that of DnsTier beside this \
                       file.\n\n"
        .to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in crates {
        let title = format!("{} {}", part.name, part.version);
        notices += &format!("{title}: {} ({})\n", part.license, part.repository);
        let found = license_files(&part.folder)?;
        if found.is_empty() && !part.license.contains("Apache-2.0") {
            bail!("{} has no file with its license, {}", part.folder.display(), part.license);
        }
        for file in found {
            let text = String::from_utf8_lossy(&fs::read(&file)?).replace('\r', "");
            texts.entry(text.trim_end().to_owned()).or_default().push(title.clone());
        }
    }
    let mut texts: Vec<(Vec<String>, String)> = texts.into_iter().map(|(text, users)| (users, text)).collect();
    texts.sort();
    for (mut users, text) in texts {
        users.dedup();
        let line = "=".repeat(80);
        notices += &format!("\n{line}\n{}:\n\n{text}\n", users.join(", "));
    }
    Ok(notices)
}

/// Returns the files with licenses in the folder of a crate and those below it, by name.
fn license_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_code = Path::new(&name).extension().is_some_and(|end| end == "rs" || end == "yml" || end == "toml");
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') {
                found.extend(license_files(&entry.path())?);
            }
        } else if NAMES.iter().any(|begin| name.starts_with(begin)) && !is_code {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the SPDX expression of everything: each license once, joined by AND.
pub(super) fn expression<'a>(licenses: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = licenses.into_iter().map(normalize).collect();
    let parts: BTreeSet<&str> = all.iter().flat_map(|license| terms(license)).collect();
    parts.into_iter().collect::<Vec<_>>().join(" AND ")
}

/// Returns an expression with its terms and alternatives in order, for example `MIT/Apache-2.0` as
/// `(Apache-2.0 OR MIT)`.
fn normalize(license: &str) -> String {
    let license = license.replace('/', " OR ");
    let normalized = terms(&license).into_iter().map(|term| {
        let inner = term.strip_prefix('(').and_then(|term| term.strip_suffix(')')).unwrap_or(term);
        if inner.contains('(') || !inner.contains(" OR ") {
            return term.to_owned();
        }
        let alternatives: BTreeSet<&str> = inner.split(" OR ").map(str::trim).collect();
        format!("({})", alternatives.into_iter().collect::<Vec<_>>().join(" OR "))
    });
    normalized.collect::<Vec<_>>().join(" AND ")
}

/// Returns the parts of an expression that AND joins outside of parentheses; an expression with OR there is one part.
fn terms(license: &str) -> Vec<&str> {
    let (mut terms, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in license.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && license[at..].starts_with(" OR ") {
            return vec![license];
        }
        if depth == 0 && license[at..].starts_with(" AND ") {
            terms.push(license[start..at].trim());
            start = at + " AND ".len();
        }
    }
    terms.push(license[start..].trim());
    terms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_license_is_named_once() {
        let licenses =
            ["MIT OR Apache-2.0", "MIT/Apache-2.0", "Apache-2.0", "(Apache-2.0 OR MIT) AND BSD-3-Clause", "MIT"];
        assert_eq!(expression(licenses), "(Apache-2.0 OR MIT) AND Apache-2.0 AND BSD-3-Clause AND MIT");
        assert_eq!(normalize("Apache-2.0 WITH LLVM-exception OR MIT"), "(Apache-2.0 WITH LLVM-exception OR MIT)");
        assert_eq!(normalize("MIT AND (Zlib OR 0BSD)"), "MIT AND (0BSD OR Zlib)");
    }

    /// Returns metadata of a workspace with one program, which uses crates in `folder`.
    fn metadata(folder: &Path) -> Value {
        let package = |name: &str, source: Value, kind: &str, license: &str| {
            json!({ "id": name, "name": name, "version": "1.0.0", "source": source, "license": license,
                    "repository": "https://example.com", "manifest_path": folder.join(name).join("Cargo.toml"),
                    "targets": [{ "name": name, "kind": [kind] }] })
        };
        let registry = json!("registry+https://example.com");
        let edge = |to: &str, kind: Value| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] });
        json!({
            "packages": [
                package("program", Value::Null, "bin", "Apache-2.0"),
                package("ours", Value::Null, "lib", "Apache-2.0"),
                package("linked", registry.clone(), "lib", "MIT"),
                package("macros", registry.clone(), "proc-macro", "MIT"),
                package("tested", registry.clone(), "lib", "MIT"),
                package("builds", registry, "lib", "MIT"),
            ],
            "resolve": { "nodes": [
                { "id": "program", "deps": [edge("ours", Value::Null), edge("macros", Value::Null)] },
                { "id": "ours", "deps": [edge("linked", Value::Null), edge("tested", json!("dev")),
                                         edge("builds", json!("build"))] },
            ] },
        })
    }

    #[test]
    fn what_is_linked_is_listed_with_its_texts_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("linked/src/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(folder.path().join("linked/LICENSE-MIT"), "the text\r\n").unwrap();
        fs::write(folder.path().join("linked/license.rs"), "code").unwrap();
        fs::write(inner.join("Copying"), "the other text").unwrap();
        let crates = linked_crates(&metadata(folder.path()), &["program"]).unwrap();
        assert_eq!(crates.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["linked"]);
        let notices = notices(&crates).unwrap();
        for text in ["linked 1.0.0: MIT (https://example.com)\n", "linked 1.0.0:\n\nthe text\n", "\nthe other text\n"] {
            assert!(notices.contains(text), "{text} is not in {notices}");
        }
        assert!(!notices.contains("code"), "{notices}");
        linked_crates(&metadata(folder.path()), &["absent"]).unwrap_err();
    }

    #[test]
    fn a_crate_without_the_text_of_its_license_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("linked")).unwrap();
        let crates = linked_crates(&metadata(folder.path()), &["program"]).unwrap();
        assert!(notices(&crates).unwrap_err().to_string().contains("no file with its license, MIT"));
    }
}
