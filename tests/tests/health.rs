//! Health of a tier as Argo CD, Flux and Helm see it, on tiers that the operator's own tests record.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use dnstier_tests::require;
use serde_json::Value;

/// Recorded tiers, the health that Argo CD shows, and the status of kstatus.
const EXPECTED: [(&str, &str, &str); 19] = [
    ("pending", "Progressing", "InProgress"),
    ("starting", "Progressing", "InProgress"),
    ("ready", "Healthy", "Current"),
    ("changed", "Progressing", "InProgress"),
    ("rolling-out", "Progressing", "InProgress"),
    ("controls-failing", "Progressing", "InProgress"),
    ("paused", "Suspended", "InProgress"),
    ("address-in-use", "Degraded", "Failed"),
    ("rolling-back", "Progressing", "InProgress"),
    ("judged-worse", "Degraded", "Failed"),
    ("revision-refused", "Degraded", "Failed"),
    ("not-in-force", "Degraded", "Failed"),
    ("pod-crashed", "Degraded", "Failed"),
    ("wrong-answers", "Degraded", "Failed"),
    ("pods-not-running", "Degraded", "Failed"),
    ("crd-too-old", "Degraded", "Current"),
    ("field-contested", "Degraded", "Current"),
    ("upstream-unreachable", "Degraded", "Current"),
    ("invalid", "Degraded", "Failed"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn recorded(name: &str) -> Value {
    let path = repository().join(format!("tests/fixtures/tiers/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Returns a value as an expression of Lua.
fn to_lua(value: &Value) -> String {
    // Escapes of JSON and Lua are alike but for these of control characters, which no recorded tier has.
    let quote = |text: &str| Value::from(text).to_string();
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quote(text),
        Value::Array(items) => format!("{{{}}}", items.iter().map(to_lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("[{}] = {}", quote(key), to_lua(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Runs the health check of Argo CD, which has the version 5.1 of Lua, and returns health and message.
fn argo_cd(tier: &Value) -> (String, String) {
    let check = repository().join("docs/argo-cd-health.lua");
    let check = std::fs::read_to_string(check).unwrap();
    let program = format!(
        "obj = {}\nlocal health = (function()\n{check}\nend)()\nprint(health.status)\nprint(health.message)",
        to_lua(tier)
    );
    let output = Command::new("lua5.1").args(["-e", &program]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (health, message) = text.trim_end().split_once('\n').unwrap();
    (health.to_owned(), message.to_owned())
}

/// Returns the status that kstatus computes of a resource which it does not know: `status/generic.go` and
/// `status/status.go` of its package.
fn kstatus(tier: &Value) -> &'static str {
    let observed = &tier["status"]["observedGeneration"];
    if !observed.is_null() && *observed != tier["metadata"]["generation"] {
        return "InProgress";
    }
    let none = Vec::new();
    let conditions = tier["status"]["conditions"].as_array().unwrap_or(&none);
    let is = |condition: &Value, type_: &str| condition["type"] == type_ && condition["status"] == "True";
    for condition in conditions {
        if is(condition, "Reconciling") {
            return "InProgress";
        }
        if is(condition, "Stalled") {
            return "Failed";
        }
    }
    match conditions.iter().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] != "True" => "InProgress",
        _ => "Current",
    }
}

#[test]
fn argo_cd_shows_the_health_of_every_recorded_tier() {
    require!(require::program("lua5.1"));
    for (name, expected, _) in EXPECTED {
        let (health, message) = argo_cd(&recorded(name));
        assert_eq!(health, expected, "{name}: {message}");
        assert!(message.len() > 10, "{name}: {message}");
    }
    let (_, message) = argo_cd(&recorded("judged-worse"));
    assert!(message.starts_with("JudgedWorse: ") && message.contains('%'), "{message}");
}

#[test]
fn kstatus_waits_for_every_roll_out_and_fails_where_somebody_has_to_act() {
    for (name, _, expected) in EXPECTED {
        assert_eq!(kstatus(&recorded(name)), expected, "{name}");
    }
}

#[test]
fn every_recorded_tier_is_expected_to_have_a_health_and_the_page_tells_it() {
    let page = std::fs::read_to_string(repository().join("docs/with-argo-cd-flux-and-helm.md")).unwrap();
    for file in std::fs::read_dir(repository().join("tests/fixtures/tiers")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let Some((_, argo_cd, kstatus)) = EXPECTED.iter().find(|(expected, ..)| *expected == name) else {
            panic!("nobody knows how {name} should look");
        };
        let row = format!("| `{argo_cd}` | `{kstatus}` |");
        assert!(page.contains(&row), "the page has no row that ends with {row}, as {name} has");
    }
}
