//! Transitions of all fields of the schema, in an order that follows from a seed.

use serde_json::{Value, json};

use crate::path::last_name;
use crate::schema::{Field, Shape, fields};
use crate::transition::{Behaviour, Manner, Outcome, Transition};
use crate::values::{Edit, Table};

/// Objects that stay: without them a tier would have the nodes of others.
const KEPT: [&str; 4] = ["clusterDns.namespace", "clusterDns", "nodeCache.nodeSelector", "resolvers.nodeSelector"];

/// Random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below a bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or_default()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// Returns the transitions of each field, in groups that stay together. The fields that have no valid value are listed.
fn groups(table: &Table) -> (Vec<Vec<Transition>>, Vec<String>) {
    let fields = fields();
    let mut without = Vec::new();
    let mut groups: Vec<Vec<Transition>> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let mut group = match field.shape {
            Shape::Leaf => match table.valid(field) {
                Some(valid) => of_leaf(field, &valid, table, index),
                None => {
                    without.push(field.path.clone());
                    Vec::new()
                }
            },
            // Those of both affinities are alike.
            Shape::List if field.is_of_affinity() && field.path.starts_with("resolvers") => Vec::new(),
            Shape::List => of_list(field, table),
            Shape::Map => removal(field).into_iter().collect(),
            Shape::Object => Vec::new(),
        };
        group.extend(refusals(field, table, index));
        group.extend(errors(field, table, index));
        // Objects are removed while the first field of theirs is there.
        let mut around = fields[..index].iter().rev().take_while(|outer| outer.shape != Shape::Leaf);
        if field.shape == Shape::Leaf
            && let Some(outer) =
                around.find(|outer| outer.shape == Shape::Object && field.path.starts_with(&outer.path))
        {
            group.extend(removal(outer));
        }
        if table.row(&field.path).is_some_and(|row| row.fleeting) {
            group.iter_mut().for_each(|transition| transition.is_fleeting = true);
        }
        groups.push(group);
    }
    groups.extend(specials().into_iter().map(|mut group| {
        group.iter_mut().take(1).for_each(|first| first.begins_anew = true);
        group
    }));
    groups.retain(|group| !group.is_empty());
    (groups, without)
}

fn of_leaf(field: &Field, valid: &[Edit], table: &Table, index: usize) -> Vec<Transition> {
    // Fields of affinity are many and alike.
    let count = if field.is_of_affinity() { 1 } else { valid.len() };
    let chosen = valid.iter().cycle().skip(if field.is_of_affinity() { index } else { 0 }).take(count);
    let alternatives = if count < valid.len() { valid.to_vec() } else { Vec::new() };
    let to =
        |edit: &Edit| Transition { alternatives: alternatives.clone(), ..Transition::new(edit.clone(), Outcome::Rest) };
    let mut group: Vec<Transition> = chosen.map(to).collect();
    let has_absence = !field.is_of_affinity() && table.row(&field.path).is_none_or(|row| !row.fleeting);
    group.extend(removal(field).filter(|_| has_absence));
    group
}

fn of_list(field: &Field, table: &Table) -> Vec<Transition> {
    let elements = table.elements(&field.path);
    let with = table.with(&field.path);
    let to = |value: Vec<&Value>, outcome| {
        Transition::new(Edit { with: with.clone(), ..Edit::to(&field.path, json!(value)) }, outcome)
    };
    let mut group = Vec::new();
    if let [one, two, rest @ ..] = elements.as_slice() {
        // All zones are what a tier has that names none.
        let is_all = field.path == "resolvers.zones";
        group.push(to(vec![one, two], if is_all { Outcome::Reordered } else { Outcome::Rest }));
        if !field.is_of_affinity() {
            group.push(to(vec![two, one], Outcome::Reordered));
            group.push(to(rest.iter().chain([one]).collect(), Outcome::Rest));
        }
    }
    // A term without requirements is met by no node, and operators need values.
    let is_needed = field.path.contains("nodeSelectorTerms") || last_name(&field.path) == "values";
    if !field.is_required && !is_needed {
        if field.is_of_affinity() {
            group.extend(removal(field));
        } else if last_name(&field.path) != "addresses" {
            group.push(to(Vec::new(), Outcome::Rest));
        }
    }
    group
}

fn removal(field: &Field) -> Option<Transition> {
    let is_kept = field.is_required || KEPT.contains(&field.path.as_str());
    (!is_kept).then(|| Transition::new(Edit::removal(&field.path), Outcome::Rest))
}

fn refusals(field: &Field, table: &Table, index: usize) -> Vec<Transition> {
    let all = table.invalid(field);
    let count = if field.is_of_affinity() { 1 } else { all.len() };
    let chosen = all.iter().cycle().skip(index).take(count.min(all.len()));
    chosen.map(|edit| Transition::new(edit.clone(), Outcome::Refused)).collect()
}

fn errors(field: &Field, table: &Table, index: usize) -> Vec<Transition> {
    let all = table.failing(field);
    let count = if field.is_of_affinity() { 1 } else { all.len() };
    let chosen = all.iter().cycle().skip(index).take(count.min(all.len()));
    chosen.map(|edit| Transition::new(edit.clone(), Outcome::Error)).collect()
}

fn route(suffix: &str) -> Edit {
    Edit::to("routes", json!([{"suffix": suffix, "upstreams": [{"addresses": ["203.0.113.80"]}]}]))
}

fn error(edit: Edit, reason: &str, says: &str) -> Edit {
    Edit { reason: Some(reason.to_owned()), says: Some(says.to_owned()), ..edit }
}

/// Returns transitions of several fields that show what one of them decides.
fn specials() -> Vec<Vec<Transition>> {
    let rest = |edits: &[Edit], behaviour| Transition {
        edits: edits.to_vec(),
        behaviour,
        is_fleeting: true,
        ..Transition::new(edits[0].clone(), Outcome::Rest)
    };
    let fails =
        |edits: &[Edit]| Transition { edits: edits.to_vec(), ..Transition::new(edits[0].clone(), Outcome::Error) };
    let rollout = |name: &str, value: Value| Edit::to(&format!("rollout.{name}"), value);
    let required = "nodeCache.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |terms: Value| Edit::to(&format!("{required}.nodeSelectorTerms"), terms);
    let probe = Edit::to("rollout.probes", json!([{"name": "www.example"}]));
    let compared = |compare: &str| Edit::to("rollout.probes[].compare", json!(compare));
    let captured = |addresses: &[&str]| Edit::to("nodeCache.capture", json!({"addresses": addresses}));
    let strange = |compare: &str| [route("strange.example"), probe.clone(), compared(compare)];
    let judged = |suffix: &str, percent: u8| {
        [route(suffix), rollout("soak", json!("15s")), rollout("maxErrorIncreasePercent", json!(percent))]
    };
    let [worse, soak, percent] = judged("failing.example", 1);
    let tolerated = judged("also.failing.example", 60);
    let [other, name, answers] = strange("Answers");
    let held = Outcome::Held(Box::new(rollout("paused", json!(false))));
    let many: Vec<Value> = (0..250)
        .map(|number| {
            let long = "x".repeat(60);
            let network = "2001:db8:1111:2222:3333:4444";
            let addresses: Vec<String> = (1..=8).map(|end| format!("{network}:{number:x}:{end}")).collect();
            let suffix = format!("r{number}.{long}.{long}.{long}.example");
            json!({"suffix": suffix, "upstreams": [{"addresses": addresses}]})
        })
        .collect();
    vec![
        vec![rest(&[rollout("canariesPerZone", json!(2)), route("canaries.example")], Some(Behaviour::Canaries(3)))],
        vec![rest(&[rollout("canariesPerZone", json!(1)), route("canary.example")], Some(Behaviour::Canaries(2)))],
        vec![rest(&[rollout("waveSize", json!(1)), route("waves.example")], Some(Behaviour::Waves(2)))],
        vec![rest(&[rollout("waveSize", json!("100%")), route("wave.example")], Some(Behaviour::Waves(1)))],
        vec![rest(&[rollout("waveSize", json!("34%")), route("share.example")], Some(Behaviour::Waves(1)))],
        vec![rest(&[rollout("soak", json!("12s")), route("soak.example")], Some(Behaviour::Soak(12)))],
        // In this order: what fails just after a failing configuration fails no more than before. What was taken back
        // is not tried again.
        vec![fails(&[error(worse, "JudgedWorse", "SERVFAIL"), soak, percent]), rest(&tolerated, None)],
        vec![rest(&strange("Rcode"), None), fails(&[error(other, "WrongAnswers", "www.example"), name, answers])],
        vec![Transition {
            edits: vec![error(rollout("paused", json!(true)), "Paused", "paused"), route("paused.example")],
            ..Transition::new(Edit::default(), held.clone())
        }],
        vec![Transition {
            edits: vec![
                error(rollout("paused", json!(true)), "Paused", "paused"),
                Edit::to("resolvers.cache.maxTtl", json!("7m")),
            ],
            ..Transition::new(Edit::default(), held)
        }],
        vec![
            rest(&[captured(&["169.254.20.10", "169.254.20.98"])], None),
            Transition { is_fleeting: false, ..rest(&[captured(&["169.254.20.10", "169.254.20.99"])], None) },
            fails(&[error(captured(&["169.254.20.10"]), "AddressInUse", "169.254.20.99")]),
            // The driver confirms this one.
            Transition { is_fleeting: false, ..rest(&[captured(&["169.254.20.11"])], None) },
        ],
        // A term without requirements is met by no node.
        vec![fails(&[error(terms(json!([{}])), "NoNodes", "affinity")])],
        vec![fails(&[error(terms(json!([])), "NoNodes", "affinity")])],
        vec![fails(&[error(Edit::to("routes", json!(many)), "RevisionTooLarge", "routes")])],
        vec![fails(&[error(
            Edit::to("nodeCache.image", json!("registry.example/unpullable:1")),
            "PodsNotRunning",
            "ImagePullBackOff",
        )])],
        vec![fails(&[error(
            Edit::to("resolvers.image", json!("registry.example/unpullable:1")),
            "PodsNotRunning",
            "ImagePullBackOff",
        )])],
    ]
}

/// Returns the transitions of each tier.
pub(crate) fn generate(table: &Table, tiers: usize, random: &mut Random) -> Vec<Vec<Transition>> {
    let (mut groups, _) = groups(table);
    random.shuffle(&mut groups);
    groups.sort_by_key(|group| std::cmp::Reverse(group.iter().map(Transition::weight).max()));
    let mut dealt: Vec<Vec<Vec<Transition>>> = vec![Vec::new(); tiers];
    let weight = |groups: &Vec<Vec<Transition>>| groups.iter().flatten().map(Transition::weight).sum::<usize>();
    for group in groups {
        if let Some(least) = dealt.iter_mut().min_by_key(|groups| weight(groups)) {
            least.push(group);
        }
    }
    let mut each = |mut groups: Vec<Vec<Transition>>| {
        random.shuffle(&mut groups);
        let mut transitions: Vec<Transition> = groups.concat();
        for transition in &mut transitions {
            if transition.outcome == Outcome::Rest && transition.behaviour.is_none() && !transition.is_fleeting {
                transition.manner = match random.below(14) {
                    0 => Manner::Superseding,
                    1 => Manner::WithRestart,
                    _ => Manner::Plain,
                };
            }
        }
        pair(transitions, random)
    };
    dealt.into_iter().map(&mut each).collect()
}

/// Lets some transitions change two fields.
fn pair(transitions: Vec<Transition>, random: &mut Random) -> Vec<Transition> {
    let mut paired: Vec<Transition> = Vec::new();
    let is_plain = |one: &Transition| {
        let is_single = one.edits.len() == 1 && one.alternatives.is_empty();
        one.outcome == Outcome::Rest && one.manner == Manner::Plain && !one.is_fleeting && is_single
    };
    let part = |one: &Transition| one.edits[0].path.split(['.', '[']).take(2).map(str::to_owned).collect::<Vec<_>>();
    for transition in transitions {
        match paired.last_mut() {
            Some(last) if is_plain(last) && is_plain(&transition) && part(last) != part(&transition) => {
                if random.below(3) == 0 {
                    last.edits.extend(transition.edits);
                } else {
                    paired.push(transition);
                }
            }
            _ => paired.push(transition),
        }
    }
    paired
}

#[test]
fn every_field_of_the_schema_has_values() {
    let table = Table::read();
    let (groups, without) = groups(&table);
    assert_eq!(without, Vec::<String>::new(), "fields without values: add rows to values.yaml");
    assert_eq!(table.unused(&fields()), Vec::<&str>::new(), "rows of values.yaml that belong to no field");
    let edited = |path: &str| {
        let edits = groups.iter().flatten().filter(|transition| transition.outcome == Outcome::Rest);
        edits.flat_map(|transition| &transition.edits).any(|edit| edit.path == path)
    };
    let leaves = fields().into_iter().filter(|field| field.shape == Shape::Leaf);
    let missing: Vec<String> = leaves.map(|field| field.path).filter(|path| !edited(path)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn there_are_as_many_transitions_as_are_promised_and_a_seed_gives_the_same() {
    let table = Table::read();
    let all = |seed| generate(&table, 8, &mut Random::new(seed));
    let count = |is_counted: &dyn Fn(&Outcome) -> bool| {
        all(1).iter().flatten().filter(|transition| is_counted(&transition.outcome)).count()
    };
    assert!(count(&|outcome| *outcome != Outcome::Refused) >= 300);
    assert!(count(&|outcome| *outcome == Outcome::Error) >= 50);
    assert!(count(&|outcome| *outcome == Outcome::Refused) >= 200);
    let manners = |manner| all(1).iter().flatten().filter(|transition| transition.manner == manner).count();
    assert!(manners(Manner::Superseding) >= 5 && manners(Manner::WithRestart) >= 5);
    assert!(all(1).iter().flatten().any(|transition| {
        transition.edits.len() == 2 && transition.behaviour.is_none() && !transition.is_fleeting
    }));
    assert_eq!(all(1), all(1));
    assert_ne!(all(1), all(2));
}
