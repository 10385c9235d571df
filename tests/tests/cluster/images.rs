//! README's commands for a cluster of the reader's own, run as they stand there: in the place of kind's nodes those of
//! the lab, in the place of a registry a folder.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use dnstier_tests::lab::{Build, CHECKOUT, Image, Progress};
use dnstier_tests::{readme, require};

use crate::lab;
use crate::tier::wait_until_ready;
use crate::tier::{NAMESPACE, NODE_NAMESPACE, NODES, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, wait_until};

/// Guard that brings the lab's own images back.
struct LabImages;

impl Drop for LabImages {
    fn drop(&mut self) {
        if let Err(error) = lab().install() {
            eprintln!("the lab's own images are not back: {error:#}");
        }
    }
}

#[test]
fn the_commands_of_the_readme_install_the_tier_with_the_images_that_they_build() {
    require!(require::lab(), require::skopeo());
    let _tier = exclusive_tier();
    let folder = tempfile::tempdir().expect("a folder");
    let archives = folder.path().join("target/images");
    // The programs of the tests' profile: those of a release take minutes, and their images are packed the same way.
    let build = Build { archives, ..Build::for_others(false, folder.path().join("scratch")) };
    let images = build.run(&Progress::silent()).expect("the images are built");
    {
        let _images = LabImages;
        kubectl(&["delete", "dnstier", "default", "--wait=true"]);
        lab().uninstall().expect("the chart goes");
        let commands = readme::commands("Use it in a cluster of your own").expect("the section");
        assert!(commands.len() >= 10, "{commands:?}");
        for command in &commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            run(&words, folder.path(), &images);
        }
        wait_until_images_are(&images);
    }
    wait_until_ready();
}

fn run(command: &[&str], folder: &Path, images: &[Image]) {
    match command {
        ["make", "images"] => assert!(images.iter().all(|image| image.archive.exists()), "{images:?}"),
        ["kind", "load", "image-archive", archive] => load_as_kind(&folder.join(archive)),
        ["skopeo", "copy", "--all", source, destination] => {
            let archive = source.strip_prefix("oci-archive:").expect("an archive");
            let image = images.iter().find(|image| image.archive == folder.join(archive)).expect("one that is built");
            assert!(destination.ends_with(&format!("/{}:{}", image.name, image.tag)), "{destination}");
            copy_with_skopeo(image, folder);
        }
        // `images.rs` shows that the chart names what was pushed.
        ["helm", "install", rest @ ..] if rest.iter().any(|word| word.contains("REGISTRY")) => {}
        ["helm", rest @ ..] => succeed(lab().helm_command(rest).current_dir(CHECKOUT)),
        ["kubectl", .., "--watch"] => wait_until_ready(),
        ["kubectl", rest @ ..] => succeed(lab().kubectl_command(rest).current_dir(CHECKOUT)),
        _ => panic!("nobody has tried this command of README: {command:?}"),
    }
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a command that can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Imports an archive on every node with the command that kind runs in its nodes.
fn load_as_kind(archive: &Path) {
    for node in NODES {
        let options = ["images", "import", "--all-platforms", "--digests", "--snapshotter=overlayfs", "-"];
        let mut ctr = lab().node(node).expect("a node").ctr_command(&options);
        let output = ctr.stdin(File::open(archive).expect("an archive")).output().expect("ctr runs");
        assert!(output.status.success(), "{}: {output:?}", archive.display());
    }
}

/// Copies an image with all platforms and asserts that its digest stays, and that its labels are read in both formats.
fn copy_with_skopeo(image: &Image, folder: &Path) {
    let copy = folder.join(image.name);
    let source = format!("oci-archive:{}", image.archive.display());
    // Without the policy of the machine, which says whose signatures are asked for.
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().expect("skopeo runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    skopeo(&["copy", "--all", &source, &format!("dir:{}", copy.display())]);
    let manifest = copy.join("manifest.json");
    let digest = skopeo(&["manifest-digest", manifest.to_str().expect("a path")]);
    assert_eq!(Some(digest.trim()), image.digest.as_deref(), "{}", image.name);
    for format in ["oci-archive", "docker-archive"] {
        let inspected = skopeo(&["inspect", &format!("{format}:{}", image.archive.display())]);
        let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
        assert_eq!(
            inspected["Labels"]["org.opencontainers.image.version"],
            image.tag.as_str(),
            "{format}: {inspected}"
        );
    }
}

/// Waits until the pods of the operator and of the tier have these images, and no others.
fn wait_until_images_are(images: &[Image]) {
    let mut expected: Vec<String> = images.iter().map(Image::reference).collect();
    expected.sort();
    wait_until("all pods have the images of README", WAIT_TIMEOUT, || {
        let output = "jsonpath={.items[*].spec.containers[*].image}";
        let namespaces = [NAMESPACE, NODE_NAMESPACE];
        let found = namespaces.map(|namespace| kubectl(&["get", "pods", "-n", namespace, "-o", output]));
        let mut found: Vec<&str> = found.iter().flat_map(|text| text.split_whitespace()).collect();
        found.sort_unstable();
        found.dedup();
        ensure(found == expected, || format!("{found:?}"))
    });
}
