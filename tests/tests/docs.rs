//! The docs name what there is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file that people read.
fn pages() -> Vec<PathBuf> {
    let folders =
        ["", "docs", "docs/decisions", "docs/benchmarks", "docs/reference"].map(|folder| repository().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let pages = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        for link in read(&page).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let outside = target.starts_with("http") || target.is_empty();
            let there = page.parent().is_some_and(|folder| folder.join(target).exists());
            assert!(outside || there, "{} names {target}, which does not exist", page.display());
        }
    }
}

#[test]
fn every_reason_of_a_condition_is_explained() {
    let code = read(&repository().join("crds/src/conditions.rs"));
    let (_, reasons) = code.split_once("reasons! {").unwrap();
    let reasons = reasons.lines().take_while(|line| *line != "}").map(str::trim);
    let reasons: Vec<_> = reasons.filter(|line| !line.starts_with("//")).filter_map(|l| l.strip_suffix(',')).collect();
    assert!(reasons.len() > 10, "{reasons:?}");
    let page = read(&repository().join("docs/conditions.md"));
    for reason in &reasons {
        assert!(page.contains(&format!("| `{reason}` |")), "docs/conditions.md does not explain {reason}");
    }
    let explained = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(explained, reasons.len() + 7, "a type or reason is explained that does not exist");
}

/// Returns the paths of all fields of the spec, from the generated reference.
fn fields_of_spec() -> Vec<String> {
    let reference = read(&repository().join("docs/reference/api.md"));
    let mut section = String::new();
    let mut fields = Vec::new();
    for line in reference.lines() {
        if line.starts_with('#') {
            line.trim_start_matches(['#', ' ']).clone_into(&mut section);
        } else if let Some(field) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next())
            && section.starts_with("spec")
        {
            fields.push(format!("{section}.{field}").trim_start_matches("spec.").to_owned());
        }
    }
    fields
}

#[test]
fn every_field_of_the_spec_tells_what_its_change_moves() {
    let page = read(&repository().join("docs/what-a-change-moves.md"));
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let fields = fields_of_spec();
    assert!(fields.len() > 60, "{fields:?}");
    let is_in = |field: &str, row: &str| {
        field.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    for field in &fields {
        // An object whose fields have rows of their own needs none.
        let is_told = rows.iter().any(|row| is_in(field, row) || is_in(row, field));
        assert!(is_told, "docs/what-a-change-moves.md does not tell what {field} moves");
    }
    for row in rows {
        assert!(fields.iter().any(|field| field == row), "{row} is no field of the spec");
    }
}

#[test]
fn every_file_that_the_docs_place_exists() {
    let page = read(&repository().join("docs/architecture.md"));
    let (mut folder, mut count) = (PathBuf::new(), 0);
    for line in page.lines() {
        if let Some((_, rest)) = line.split_once("** (`") {
            folder = repository().join(rest.split('`').next().unwrap_or_default());
        }
        let Some(cell) = line.strip_prefix("| ").and_then(|row| row.split(" | ").nth(1)) else { continue };
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs")).collect();
        let inside = named.first().and_then(|first| Path::new(first).parent()).map(Path::to_owned).unwrap_or_default();
        count += named.len();
        for name in named {
            let there = folder.join(name).exists() || folder.join(&inside).join(name).exists();
            assert!(there, "docs/architecture.md names {name}, which is not in {}", folder.display());
        }
    }
    assert!(count > 30, "only {count} files were found in the page");
}

/// Pages whose claims are shown by tests, and the folders to which the files that they name belong.
const PAGES_WITH_TESTS: [&str; 2] = ["docs/what-a-packet-cannot-do.md", "SECURITY.md"];
const FOLDERS_OF_TESTS: [&str; 4] = ["", "node-cache", "node-cache/src", "node-cache/tests/data_path"];

/// Returns the texts in back quotes of a page, in their order.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns whether a text in back quotes is the name of a test: a promise of several words, and no metric.
fn is_test_name(text: &str) -> bool {
    let is_identifier =
        text.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    is_identifier && text.matches('_').count() >= 3 && !text.starts_with("dnstier_")
}

#[test]
fn every_test_that_a_claim_names_is_in_the_file_that_it_names() {
    let (mut missing, mut count) = (Vec::new(), 0);
    for page in PAGES_WITH_TESTS {
        let text = read(&repository().join(page));
        let mut file = None;
        for line in text.lines() {
            // A file stands before its tests in the same row or paragraph.
            if line.is_empty() || line.starts_with('|') {
                file = None;
            }
            for word in quoted(line) {
                if word.ends_with(".rs") {
                    let paths = FOLDERS_OF_TESTS.iter().map(|folder| repository().join(folder).join(word));
                    file = paths.into_iter().find(|path| path.is_file()).map(|path| read(&path));
                    missing.extend(file.is_none().then(|| format!("{page}: no file {word}")));
                } else if is_test_name(word) {
                    count += 1;
                    let is_there = file.as_ref().is_some_and(|file| file.contains(&format!("fn {word}(")));
                    missing.extend((!is_there).then(|| format!("{page}: {word}")));
                }
            }
        }
    }
    assert!(count > 80, "only {count} names of tests were found");
    assert!(missing.is_empty(), "not in the file that is named before it:\n{}", missing.join("\n"));
}

#[test]
fn every_claim_about_packets_names_a_test() {
    let page = read(&repository().join(PAGES_WITH_TESTS[0]));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let claims: Vec<_> = rows.filter(|row| !row.ends_with("| test |")).collect();
    assert!(claims.len() > 40, "only {} claims were found", claims.len());
    for claim in claims {
        assert!(quoted(claim).any(is_test_name), "no test shows this: {claim}");
    }
}

/// Right of the operator: its place, resource, name of the object (empty for every one) and verbs.
type Right = [String; 4];

/// Lines of templates that say where rights hold, and the words of the threat model for it.
const PLACES: [(&str, &str); 5] = [
    ("kind: ClusterRole", "cluster"),
    ("namespace: default", "namespace `default`"),
    ("namespace: {{ .Values.nodeNamespace.name }}", "namespace of the node pods"),
    ("namespace: {{ .Release.Namespace }}", "the release's namespace"),
    ("namespace: {{ . }}", "`clusterDnsNamespaces` (`kube-system`)"),
];

/// Returns the rights that the chart gives.
fn given_rights() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for file in std::fs::read_dir(repository().join("charts/dnstier/templates")).unwrap() {
        let path = file.unwrap().path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rbac-")) {
            continue;
        }
        let (mut place, mut resources, mut name) = (None, Vec::new(), String::new());
        for line in read(&path).lines().map(str::trim) {
            let list = |key: &str| line.strip_prefix(key)?.strip_prefix(": [")?.strip_suffix(']');
            if let Some((_, told)) = PLACES.iter().find(|(start, _)| *start == line) {
                place = Some(*told);
            } else if line.starts_with("kind: ") {
                place = None;
            } else if line.starts_with("- apiGroups: ") {
                resources.clear();
                name.clear();
            } else if let Some(all) = list("resources") {
                resources = all.split(", ").map(str::to_owned).collect();
            } else if let Some(one) = list("resourceNames") {
                one.clone_into(&mut name);
            } else if let Some(verbs) = list("verbs") {
                let place = place.unwrap_or_else(|| panic!("{}: {verbs} in an unknown place", path.display()));
                let right = |resource: &String| [place, resource.as_str(), name.as_str(), verbs].map(str::to_owned);
                rights.extend(resources.iter().map(right));
            }
        }
    }
    rights
}

/// Returns the rights that the threat model tells.
fn told_rights() -> BTreeSet<Right> {
    let page = read(&repository().join("SECURITY.md"));
    let (_, section) = page.split_once("\n### Rights of the operator\n").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut rights = BTreeSet::new();
    // The first two rows are the header.
    for row in rows.skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[place, resources, verbs] = cells.as_slice() else { panic!("a row without three cells: {row}") };
        // What is in parentheses explains.
        let resources = resources.split(" (").next().unwrap_or_default();
        let (resources, name) = resources.split_once(" of the name ").unwrap_or((resources, ""));
        let name = quoted(name).next().unwrap_or_default();
        rights.extend(quoted(resources).map(|resource| [place, resource, name, verbs].map(str::to_owned)));
    }
    rights
}

#[test]
fn the_threat_model_tells_the_rights_that_the_operator_has_and_no_others() {
    let (given, told) = (given_rights(), told_rights());
    assert!(given.len() > 20, "only {} rights were found", given.len());
    let untold: Vec<_> = given.difference(&told).collect();
    assert!(untold.is_empty(), "SECURITY.md does not tell these rights: {untold:#?}");
    let others: Vec<_> = told.difference(&given).collect();
    assert!(others.is_empty(), "SECURITY.md tells rights that the chart does not give: {others:#?}");
}

/// Every Rust file that is ours.
fn rust_files() -> Vec<PathBuf> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                collect(&path, files);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for folder in ["crds", "fuzz", "node-cache", "operator", "tests"] {
        collect(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 200, "{}", files.len());
    files
}

#[test]
fn every_room_has_its_place_on_the_architecture_page() {
    let page = read(&repository().join("docs/architecture.md"));
    for root in ["node-cache/src", "operator/src"] {
        let root = repository().join(root);
        for file in rust_files().iter().filter(|file| file.starts_with(&root)) {
            let room = file.strip_prefix(&root).unwrap().parent().unwrap().to_str().unwrap();
            let known = room.is_empty() || room == "bin" || room.ends_with("tests") || page.contains(room);
            assert!(known, "docs/architecture.md does not name {room} of {}", root.display());
        }
    }
}

/// Openings of a docstring that name no subject: on hover they mean nothing.
const BANNED_OPENINGS: [&str; 18] = [
    "The same",
    "It",
    "Its",
    "That",
    "This",
    "These",
    "Those",
    "They",
    "He",
    "What",
    "Who",
    "Whom",
    "Whose",
    "Whoever",
    "Nobody",
    "Somebody",
    "Everybody",
    "Anybody",
];

#[test]
fn no_docstring_opens_without_its_subject() {
    let mut found = Vec::new();
    for file in rust_files() {
        let mut is_inside = false;
        for (number, line) in read(&file).lines().enumerate() {
            let doc = ["/// ", "//! "].into_iter().find_map(|start| line.trim_start().strip_prefix(start));
            let opens = |opening: &&&str| {
                doc.and_then(|doc| doc.strip_prefix(**opening))
                    .is_some_and(|rest| rest.starts_with([' ', ',', '.', ':', '\'']))
            };
            if !is_inside && BANNED_OPENINGS.iter().any(|opening| opens(&opening)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
            is_inside = doc.is_some() || ["///", "//!"].contains(&line.trim());
        }
    }
    assert!(found.is_empty(), "name the subject first:\n{}", found.join("\n"));
}

#[test]
fn no_description_of_a_field_opens_without_its_subject() {
    let reference = read(&repository().join("docs/reference/api.md"));
    let rows = reference.lines().filter(|line| line.starts_with("| `"));
    let descriptions: Vec<&str> = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()).collect();
    assert!(descriptions.len() > 80, "{descriptions:?}");
    for description in descriptions {
        let opening = description.split([' ', ',', '.', ':', '\'']).next().unwrap_or_default();
        assert!(!BANNED_OPENINGS.contains(&opening), "name the subject first: {description}");
    }
}

#[test]
fn no_line_is_wider_than_the_formatter_allows() {
    let settings = read(&repository().join("rustfmt.toml"));
    let width = settings.lines().find_map(|line| line.strip_prefix("max_width = ")).unwrap().parse().unwrap();
    let mut found = Vec::new();
    for file in rust_files() {
        let text = read(&file);
        let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > width);
        found.extend(wide.map(|(number, _)| format!("{}:{}", file.display(), number + 1)));
    }
    assert!(found.is_empty(), "wider than {width} columns:\n{}", found.join("\n"));
}
