//! Figures of the simulation, and the limits that they keep.

use super::scenario::{FAULTS, GOOD, Scenario};
use super::world::World;
use crate::controller::judge::verdict::Outcome;

/// Ends of many changes.
#[derive(Default)]
struct Ends {
    passed: usize,
    failed: usize,
    held: usize,
    /// Seconds in force until a stop, in all.
    seconds: u64,
    /// Stops before the end of the soak.
    early: usize,
    example: Option<String>,
}

fn run(scenario: &Scenario, changes: u64) -> Ends {
    let mut ends = Ends::default();
    if std::env::var("ONLY").is_ok_and(|only| !scenario.name.contains(&only)) {
        return ends;
    }
    for seed in 0..changes {
        let (verdict, seconds) = World::new(*scenario, seed).judge();
        if std::env::var("SHOW").is_ok_and(|show| scenario.name.contains(&show)) {
            println!("{seed} {seconds} {verdict:?}");
        }
        match verdict.outcome {
            Outcome::Pass => ends.passed += 1,
            Outcome::Hold(_) => ends.held += 1,
            Outcome::Fail(_) => ends.failed += 1,
        }
        if matches!(verdict.outcome, Outcome::Fail(_)) {
            ends.seconds += seconds;
            ends.early += usize::from(seconds <= scenario.soak);
            ends.example.get_or_insert(verdict.sentence);
        }
    }
    ends
}

/// Runs all changes and prints a table in Markdown.
fn check(changes: u64) {
    println!(
        "| change | passed | stopped | within the soak | after, mean | held |\n| --- | --- | --- | --- | --- | --- |"
    );
    let print = |scenario: &Scenario, ends: &Ends| {
        let mean = ends.seconds / ends.failed.max(1) as u64;
        let Ends { passed, failed, held, early, .. } = ends;
        println!("| {} | {passed} | {failed} | {early} | {mean} s | {held} |", scenario.name);
    };
    let mut wrong = Vec::new();
    for scenario in &GOOD {
        let ends = run(scenario, changes);
        print(scenario, &ends);
        // While the controls are in trouble, nothing goes on.
        let is_held = ends.held as u64 * 100 > changes && scenario.trouble == 0.0;
        if ends.failed as u64 * 100 > changes || is_held {
            wrong.push(format!("{}: {} stopped, {} held, {:?}", scenario.name, ends.failed, ends.held, ends.example));
        }
    }
    for scenario in &FAULTS {
        let ends = run(scenario, changes);
        print(scenario, &ends);
        let is_enough = if scenario.is_route_dead { ends.passed == 0 } else { ends.passed as u64 * 100 <= changes };
        if !is_enough || ends.held > 0 {
            wrong.push(format!("{}: {} passed, {} held", scenario.name, ends.passed, ends.held));
        }
    }
    assert!(wrong.is_empty(), "of {changes} changes each: {wrong:#?}");
}

#[test]
fn good_changes_pass_and_bad_ones_are_stopped() {
    check(std::env::var("N").map_or(100, |n| n.parse().unwrap()));
}

#[test]
#[ignore = "minutes; run by make test-long"]
fn of_ten_thousand_good_changes_one_in_a_hundred_is_stopped_at_most() {
    check(10_000);
}
