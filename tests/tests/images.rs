//! Images for others: README, the chart and the build name the same ones, and every checkout builds the same ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use dnstier_tests::lab::{Build, CHECKOUT, Progress, published_images};
use dnstier_tests::{readme, require};

/// Section of README about a cluster of the reader's own.
const SECTION: &str = "Use it in a cluster of your own";

/// Returns the references of all images in what the chart renders with these arguments.
fn rendered_images(arguments: &[&str]) -> BTreeSet<String> {
    let mut helm = Command::new(require::helm().unwrap());
    // Without the CustomResourceDefinition, whose descriptions have images as examples.
    helm.args([
        "template",
        "dnstier",
        "charts/dnstier",
        "--namespace",
        "dnstier-system",
        "--set",
        "crds.install=false",
    ]);
    helm.args(arguments);
    let output = helm.current_dir(CHECKOUT).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let rendered = String::from_utf8(output.stdout).unwrap();
    let words = rendered.split(|letter: char| letter.is_whitespace() || "\"'".contains(letter));
    // With a tag: the admission policy has the repository alone.
    let is_image =
        |word: &&str| word.rsplit_once('/').is_some_and(|(_, name)| name.starts_with("dnstier-") && name.contains(':'));
    words.filter(is_image).map(str::to_owned).collect()
}

#[test]
fn the_charts_default_values_name_the_images_that_are_built() {
    require!(require::helm());
    let built: BTreeSet<String> = published_images().into_iter().map(|(reference, _)| reference).collect();
    assert_eq!(built.len(), 2);
    assert_eq!(rendered_images(&[]), built);
}

#[test]
fn the_readme_loads_every_archive_that_is_built_and_no_other() {
    let commands = readme::commands(SECTION).unwrap();
    assert_eq!(commands[0], ["make", "images"], "they are built first");
    let built: BTreeSet<String> =
        published_images().into_iter().map(|(_, archive)| format!("target/images/{archive}")).collect();
    let loaded = commands.iter().filter(|words| words[0] == "kind").map(|words| words[3].clone());
    assert_eq!(loaded.collect::<BTreeSet<_>>(), built);
    let pushed = commands.iter().filter(|words| words[0] == "skopeo");
    let pushed = pushed.map(|words| words[3].strip_prefix("oci-archive:").unwrap().to_owned());
    assert_eq!(pushed.collect::<BTreeSet<_>>(), built);
}

#[test]
fn the_readme_installs_the_chart_with_the_images_that_it_pushes() {
    require!(require::helm());
    let commands = readme::commands(SECTION).unwrap();
    let pushed = commands.iter().filter(|words| words[0] == "skopeo");
    let pushed: BTreeSet<String> =
        pushed.map(|words| words[4].strip_prefix("docker://REGISTRY/").unwrap().to_owned()).collect();
    let built = published_images().into_iter().map(|(reference, _)| reference.split_once('/').unwrap().1.to_owned());
    assert_eq!(pushed, built.collect(), "under the names and tags that they were built with");
    for registry in ["registry.example", "registry.example:5000/dns/tier"] {
        let installs = |words: &&Vec<String>| words[..2] == ["helm", "install"] && words.join(" ").contains("REGISTRY");
        let install = commands.iter().find(installs).expect("a command for a registry");
        let arguments: Vec<String> = install.iter().map(|word| word.replace("REGISTRY", registry)).collect();
        let settings: Vec<&str> = arguments.iter().map(String::as_str).skip_while(|word| *word != "--set").collect();
        let expected = pushed.iter().map(|name| format!("{registry}/{name}")).collect();
        assert_eq!(rendered_images(&settings), expected);
    }
}

/// Copies the files under version control, with their changes, into a folder.
fn copy_checkout(to: &Path) {
    let listed = Command::new("git").args(["-c", "safe.directory=*", "ls-files", "-z"]).current_dir(CHECKOUT).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let files: Vec<&str> = listed.split_terminator('\0').collect();
    assert!(files.len() > 100, "{files:?}");
    for file in files {
        let source = Path::new(CHECKOUT).join(file);
        if source.exists() {
            std::fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
            std::fs::copy(source, to.join(file)).unwrap();
        }
    }
}

fn contains(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
#[ignore = "compiles all programs twice; `make test-long` runs it"]
fn two_checkouts_build_the_same_images() {
    let home = std::env::var("HOME").unwrap();
    let digests = ["one", "another-one-in-a-folder/with a longer path"].map(|name| {
        let folder = tempfile::tempdir().unwrap();
        let checkout = folder.path().canonicalize().unwrap().join(name);
        copy_checkout(&checkout);
        let target = checkout.join("target");
        let build = Build {
            archives: target.join("images"),
            checkout: checkout.clone(),
            target: target.clone(),
            ..Build::for_others(true, folder.path().join("scratch"))
        };
        let images = build.run(&Progress::to_stdout()).unwrap();
        let program = |folder: std::fs::DirEntry| std::fs::read(folder.path().join("image/dnstier-operator")).ok();
        let program = std::fs::read_dir(&target).unwrap().find_map(|folder| program(folder.unwrap())).unwrap();
        for path in [checkout.to_str().unwrap(), &format!("{home}/.cargo"), &format!("{home}/.rustup")] {
            assert!(!contains(&program, path), "{path} is in the operator");
        }
        images.into_iter().map(|image| (image.name, image.digest.unwrap())).collect::<Vec<_>>()
    });
    println!("{digests:?}");
    assert_eq!(digests[0], digests[1]);
}
