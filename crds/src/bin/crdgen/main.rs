//! Generates the CustomResourceDefinition and the API reference from the Rust types.
//!
//! `crdgen` writes both files into the repository, `crdgen yaml` and `crdgen reference` print one of them.

#![forbid(unsafe_code)]

mod reference;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use dnstier_crds::v1alpha1::definition;

/// Generated file of the repository.
struct Generated {
    path: &'static str,
    content: fn() -> io::Result<String>,
}

const YAML: Generated = Generated { path: "charts/dnstier/files/dnstiers.yaml", content: yaml };
const REFERENCE: Generated =
    Generated { path: "docs/reference/api.md", content: || Ok(reference::render(&definition())) };

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => [YAML, REFERENCE].iter().try_for_each(Generated::write),
        Some("yaml") => YAML.print(),
        Some("reference") => REFERENCE.print(),
        Some(other) => Err(io::Error::other(format!("{other:?} is not yaml or reference"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Generated {
    fn file(&self) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(self.path)
    }

    fn write(&self) -> io::Result<()> {
        let file = self.file();
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(file, (self.content)()?)
    }

    fn print(&self) -> io::Result<()> {
        io::stdout().write_all((self.content)()?.as_bytes())
    }
}

fn yaml() -> io::Result<String> {
    let mut text = serde_saphyr::to_string(&definition()).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(format!("# Generated from crds/src/v1alpha1 by `make crds`.\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_those_that_the_types_give() {
        for generated in [YAML, REFERENCE] {
            let committed = std::fs::read_to_string(generated.file()).unwrap_or_default();
            let is_up_to_date = committed == (generated.content)().unwrap();
            assert!(is_up_to_date, "{} is not up to date; run `make crds`", generated.path);
        }
    }
}
