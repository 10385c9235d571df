//! The chart on a real cluster: what it renders is accepted, its own test passes, an upgrade brings a newer CRD.

use std::path::Path;
use std::process::Command;

use dnstier_tests::require;

use crate::lab;
use crate::tier::{CHART, NAMESPACE, exclusive_tier, kubectl, wait_until_ready};

const RELEASE: &str = "dnstier";

#[test]
fn what_the_chart_renders_is_accepted_strictly() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let values = helm(&["get", "values", RELEASE, "-n", NAMESPACE, "-o", "yaml"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), values).expect("the values are written");
    let rendered = helm(&["template", RELEASE, CHART, "-n", NAMESPACE, "-f", path(file.path()), "--skip-tests"]);
    let dry_run = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    let accepted = lab().kubectl_with_input(&dry_run, &rendered).expect("every object is accepted");
    assert!(accepted.lines().count() >= 8, "{accepted}");
}

#[test]
fn the_charts_own_test_passes() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let report = helm(&["test", RELEASE, "-n", NAMESPACE, "--timeout", "120s"]);
    assert!(report.contains("Succeeded"), "{report}");
}

#[test]
fn an_upgrade_brings_the_new_crd() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let columns = || {
        kubectl(&[
            "get",
            "crd",
            "dnstiers.dnstier.io",
            "-o",
            "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}",
        ])
    };
    let now = columns();
    assert!(now.contains("Phase") || now.contains("PHASE"), "{now}");

    // An older chart, whose CRD had no column for the phase.
    let old = tempfile::tempdir().expect("a directory");
    let copied = Command::new("cp").args(["-r", CHART, path(old.path())]).status().expect("cp runs");
    assert!(copied.success());
    let chart = old.path().join("dnstier");
    let crd = chart.join("files/dnstiers.yaml");
    std::fs::write(&crd, without_column(&std::fs::read_to_string(&crd).expect("the CRD"), "phase")).expect("written");
    helm(&["upgrade", RELEASE, path(&chart), "-n", NAMESPACE, "--reuse-values", "--wait"]);
    assert!(!columns().to_lowercase().contains("phase"), "the older chart is in force: {}", columns());

    lab().install().expect("the upgrade");
    assert_eq!(columns(), now);
    wait_until_ready();
}

/// Removes the printer column of a name from the CRD.
fn without_column(crd: &str, name: &str) -> String {
    let mut value: serde_json::Value = serde_saphyr::from_str(crd).expect("YAML");
    let columns = value["spec"]["versions"][0]["additionalPrinterColumns"].as_array_mut().expect("columns");
    columns.retain(|column| !column["name"].as_str().is_some_and(|column| column.eq_ignore_ascii_case(name)));
    serde_saphyr::to_string(&value).expect("YAML")
}

fn helm(arguments: &[&str]) -> String {
    lab().helm(arguments).unwrap_or_else(|error| panic!("helm {}: {error:#}", arguments.join(" ")))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
