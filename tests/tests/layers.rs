//! The layers of the data plane: which room may import which, and no files that import each other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One source file of a crate.
struct Source {
    /// Path of its module, such as `["upstream", "pool", "hedge"]`; empty for `lib.rs`.
    module: Vec<String>,
    /// Paths that it imports or names, resolved from the root of the crate. Test modules are left out.
    imports: BTreeSet<Vec<String>>,
}

/// Returns the source files below `root`, which holds a `lib.rs`. Files of tests are left out.
fn sources(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(root, &mut files);
    assert!(files.len() > 5, "{}", root.display());
    files.sort();
    let sources = files.iter().map(|file| {
        let path = file.strip_prefix(root).unwrap().with_extension("");
        let mut module: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        Source { imports: imports(text, &module), module }
    });
    sources.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "bin" {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|end| end == "rs") && name != "tests" && !name.ends_with("_tests") {
            files.push(path);
        }
    }
}

/// Returns the paths that a text names with `crate::` or `super::`, wherever they stand but in comments.
fn imports(text: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut imports = BTreeSet::new();
    for child in code.split("mod ").skip(1).filter_map(|rest| rest.split_once(';')).map(|(name, _)| name) {
        let path = format!("{child}::");
        let starts =
            |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        code.match_indices(&path)
            .filter(|(at, _)| starts(*at))
            .for_each(|(at, _)| expand(&code[at..], module, &mut imports));
    }
    for (start, keyword) in [("crate::", "crate"), ("super::", "super")] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            let is_visibility = before.ends_with("pub(in ");
            if is_visibility || before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = if keyword == "crate" { Vec::new() } else { module.to_vec() };
            let mut rest = &code[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            expand(rest.strip_prefix("crate::").unwrap_or(rest), &base, &mut imports);
        }
    }
    imports
}

/// Adds each path of a use tree, such as `a::{b, c::d}`.
fn expand(tree: &str, base: &[String], imports: &mut BTreeSet<Vec<String>>) {
    let tree = tree.trim_start();
    if let Some(list) = tree.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                '}' | ',' if depth == 0 => {
                    expand(&list[start..at], base, imports);
                    start = at + 1;
                    if character == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let end = tree.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(tree.len());
    let mut path = base.to_vec();
    if end > 0 && &tree[..end] != "self" {
        path.push(tree[..end].to_owned());
    }
    match tree[end..].strip_prefix("::") {
        Some(rest) => expand(rest, &path, imports),
        None => {
            imports.insert(path);
        }
    }
}

/// Returns the room of a path: the longest entry of the table that it begins with.
fn room<'a>(path: &[String], rooms: &'a BTreeMap<String, BTreeSet<String>>) -> Option<&'a str> {
    let room = (1..=path.len().min(2)).rev().find_map(|length| rooms.get_key_value(&path[..length].join("/")));
    room.map(|(room, _)| room.as_str())
}

/// Reads the table of layers: for each room the rooms that it may import.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let (_, section) = page.split_once("## Layers of the data plane").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut layers = BTreeMap::new();
    for row in rows {
        let (room, allowed) = row.split_once("` |").unwrap();
        let allowed = allowed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(layers.insert(room.to_owned(), allowed).is_none(), "{room} has two rows");
    }
    layers
}

#[test]
fn rooms_of_the_data_plane_import_only_what_the_table_of_layers_allows() {
    let layers = layers();
    assert!(layers.len() > 15, "{layers:?}");
    let known = |name: &String| layers.contains_key(name);
    assert!(layers.values().flatten().all(known), "the table allows a room that it does not list");
    let mut used = BTreeSet::new();
    for source in sources(&repository().join("node-cache/src")) {
        if source.module.is_empty() {
            continue;
        }
        let file = source.module.join("::");
        let own = room(&source.module, &layers).unwrap_or_else(|| panic!("{file} is in no room of the table"));
        for import in &source.imports {
            let Some(other) = room(import, &layers).filter(|other| *other != own) else { continue };
            let allowed = layers[own].contains(other);
            assert!(allowed, "{file} imports {}: {own} may not import {other}", import.join("::"));
            used.insert((own.to_owned(), other.to_owned()));
        }
    }
    for (own, allowed) in &layers {
        for other in allowed {
            assert!(used.contains(&(own.clone(), other.clone())), "{own} is allowed {other} and does not import it");
        }
    }
}

#[test]
fn the_table_of_layers_has_no_cycle() {
    let mut layers = layers();
    while !layers.is_empty() {
        let bottom: Vec<String> =
            layers.iter().filter(|(_, allowed)| allowed.is_empty()).map(|(room, _)| room.clone()).collect();
        assert!(!bottom.is_empty(), "these rooms import each other: {:?}", layers.keys());
        layers.retain(|room, _| !bottom.contains(room));
        layers.values_mut().for_each(|allowed| allowed.retain(|room| !bottom.contains(room)));
    }
}

/// A file and its parent's `mod.rs` belong together: the parent names its parts, and methods of one type may be spread
/// over them. Between all other files imports point in one direction.
#[test]
fn no_files_import_each_other() {
    for root in ["node-cache/src", "operator/src", "node-cache/bench/src", "node-cache/config/src", "crds/src"] {
        let sources = sources(&repository().join(root));
        let modules: BTreeSet<&Vec<String>> = sources.iter().map(|source| &source.module).collect();
        let file_of =
            |path: &[String]| (0..=path.len()).rev().map(|n| path[..n].to_vec()).find(|m| modules.contains(m));
        let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for source in &sources {
            for import in &source.imports {
                let target = file_of(import).unwrap_or_default();
                let related = source.module.starts_with(&target) || target.starts_with(&source.module);
                if !related {
                    edges.entry(source.module.clone()).or_default().insert(target);
                }
            }
        }
        // A file that imports nothing that is left, or that nothing left imports, is part of no cycle.
        loop {
            let before = edges.values().map(BTreeSet::len).sum::<usize>();
            let imported: BTreeSet<Vec<String>> = edges.values().flatten().cloned().collect();
            edges.retain(|file, targets| !targets.is_empty() && imported.contains(file));
            let left: BTreeSet<Vec<String>> = edges.keys().cloned().collect();
            edges.values_mut().for_each(|targets| targets.retain(|target| left.contains(target)));
            if edges.values().map(BTreeSet::len).sum::<usize>() == before {
                break;
            }
        }
        let cycle: Vec<String> = edges.keys().map(|file| file.join("::")).collect();
        assert!(cycle.is_empty(), "{root}: there is a cycle of imports among {}", cycle.join(", "));
    }
}
