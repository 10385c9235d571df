//! Recipes of the images: their programs, what else is in them, and how a container starts.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::process::run;
use super::archive::Settings;
use super::debian;
use super::files::Files;

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

impl ImageSet {
    pub(super) fn recipes(self) -> impl Iterator<Item = &'static Recipe> {
        RECIPES.iter().filter(move |recipe| match self {
            Self::Cluster => !recipe.product,
            Self::Product => recipe.product,
            Self::All => true,
        })
    }
}

/// Content of an image.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    /// Programs of the workspace, each at the image's root.
    pub(super) programs: &'static [&'static str],
    /// Program that a container runs; pods may name another one.
    entrypoint: &'static str,
    /// User and group of a container; pods may name others.
    user: Option<&'static str>,
    environment: &'static [&'static str],
    pub(super) others: Others,
    product: bool,
}

/// Files of an image beside our programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    None,
    /// busybox, with a link for each of its tools.
    Busybox,
    /// CoreDNS, compiled from its pinned sources.
    CoreDns,
    /// nft, with its libraries.
    Nft,
}

const RECIPES: [Recipe; 5] = [
    // The first process of every pod in the lab.
    Recipe {
        name: "pause",
        programs: &["pause"],
        entrypoint: "/pause",
        user: None,
        environment: &[],
        others: Others::None,
        product: false,
    },
    // Pods from which tests send queries.
    Recipe {
        name: "toolbox",
        programs: &["ask", "pause"],
        entrypoint: "/pause",
        user: None,
        environment: &["PATH=/:/bin"],
        others: Others::Busybox,
        product: false,
    },
    // The cluster DNS of the lab.
    Recipe {
        name: "coredns",
        programs: &[],
        entrypoint: "/coredns",
        user: None,
        environment: &[],
        others: Others::CoreDns,
        product: false,
    },
    Recipe {
        name: "dnstier-operator",
        programs: &["dnstier-operator"],
        entrypoint: "/dnstier-operator",
        user: Some("65532:65532"),
        environment: &[],
        others: Others::None,
        product: true,
    },
    // The data plane. The pods name the program that runs, and its user.
    Recipe {
        name: "dnstier-node-cache",
        programs: &["node-cache", "node-agent", "zone-resolver"],
        entrypoint: "/node-cache",
        user: Some("65532:65532"),
        environment: &[],
        others: Others::Nft,
        product: true,
    },
];

impl Recipe {
    /// Returns the settings of a container, without labels.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            entrypoint: self.entrypoint.to_owned(),
            user: self.user.map(str::to_owned),
            environment: self.environment.iter().map(|&variable| variable.to_owned()).collect(),
            ..Settings::default()
        }
    }
}

impl Others {
    /// Adds the files; returns the paths of those that are from packages of Debian and have to be licensed.
    ///
    /// # Errors
    /// When one of them is missing.
    pub(super) fn add(self, files: &mut Files, coredns: Option<&Path>) -> Result<Vec<String>> {
        match self {
            Self::None => {}
            Self::Busybox => add_busybox(files)?,
            Self::CoreDns => files.add_program("coredns", coredns.context("CoreDNS is not compiled")?)?,
            Self::Nft => return debian::add_nft(files),
        }
        Ok(Vec::new())
    }
}

fn add_busybox(files: &mut Files) -> Result<()> {
    files.add_folder("tmp");
    // Debian's package links it to /bin or to /usr/bin.
    let busybox = fs::canonicalize("/bin/busybox").context("busybox is not installed")?;
    files.add_program("bin/busybox", &busybox)?;
    let tools = run(Command::new(&busybox).arg("--list"))?;
    for tool in tools.lines().filter(|tool| *tool != "busybox") {
        files.add_link(&format!("bin/{tool}"), "busybox");
    }
    Ok(())
}
