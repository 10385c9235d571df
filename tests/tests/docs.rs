//! The docs name what there is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file that people read.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/reference"].map(|folder| repository().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let pages = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() > 8, "{pages:?}");
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
    assert_eq!(explained, reasons.len() + 5, "a type or reason is explained that does not exist");
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
