//! Path of a field in a spec: `routes[].upstreams[].port`, with `[]` for the first element of a list and `{}` for an
//! entry of a map.

use serde_json::{Map, Value, json};

/// Step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Name(String),
    Element,
    Entry,
}

/// Splits a path.
pub(crate) fn segments(path: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    for part in path.split('.') {
        let mut rest = part;
        let name = rest.split(['[', '{']).next().unwrap_or_default();
        segments.push(Segment::Name(name.to_owned()));
        rest = &rest[name.len()..];
        while let Some(after) = rest.get(2..) {
            segments.push(if rest.starts_with("[]") { Segment::Element } else { Segment::Entry });
            rest = after;
        }
    }
    segments
}

/// Returns whether a path is, or ends with, another one.
pub(crate) fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// Returns the last name of a path.
pub(crate) fn last_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default().trim_end_matches(['[', ']', '{', '}'])
}

/// Returns the path of the object around the last name of a path; empty for a field of the spec itself.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Returns the value at a path; `entry` is the key where the path ends in a map.
pub(crate) fn get<'a>(root: &'a Value, path: &str, entry: &str) -> Option<&'a Value> {
    let mut value = root;
    for segment in segments(path) {
        value = match segment {
            Segment::Name(name) => value.get(name)?,
            Segment::Element => value.get(0)?,
            Segment::Entry => value.get(entry)?,
        };
    }
    Some(value)
}

/// Sets or removes the value at a path. What is missing on the way is made of `sample`, which is asked by its path.
pub(crate) fn set(
    root: &mut Value,
    path: &str,
    entry: &str,
    value: Option<Value>,
    sample: &dyn Fn(&str) -> Option<Value>,
) {
    let segments = if path.is_empty() { Vec::new() } else { segments(path) };
    put(root, "", &segments, entry, value, sample);
}

fn put(
    here: &mut Value,
    path: &str,
    segments: &[Segment],
    entry: &str,
    value: Option<Value>,
    sample: &dyn Fn(&str) -> Option<Value>,
) {
    let Some((segment, rest)) = segments.split_first() else {
        *here = value.unwrap_or_default();
        return;
    };
    if *segment == Segment::Element {
        let child = format!("{path}[]");
        if here.as_array().is_none_or(Vec::is_empty) {
            *here = json!([sample(&child).unwrap_or_else(|| json!({}))]);
        }
        return put(&mut here[0], &child, rest, entry, value, sample);
    }
    let (key, child) = match segment {
        Segment::Name(name) if path.is_empty() => (name.as_str(), name.clone()),
        Segment::Name(name) => (name.as_str(), format!("{path}.{name}")),
        _ => (entry, format!("{path}{{}}")),
    };
    if !here.is_object() {
        *here = json!({});
    }
    let Some(fields) = here.as_object_mut() else { return };
    if rest.is_empty() {
        match value {
            Some(value) => drop(fields.insert(key.to_owned(), value)),
            None => drop(fields.remove(key)),
        }
        return;
    }
    if value.is_none() && !fields.contains_key(key) {
        return;
    }
    let next = fields.entry(key.to_owned()).or_insert_with(|| {
        sample(&child).unwrap_or_else(|| if rest[0] == Segment::Element { json!([]) } else { Map::new().into() })
    });
    put(next, &child, rest, entry, value, sample);
}

#[test]
fn a_value_is_set_and_removed_wherever_it_is() {
    let sample = |path: &str| (path == "routes[]").then(|| json!({"suffix": "one.example"}));
    let mut spec = json!({});
    set(&mut spec, "routes[].upstreams[].port", "", Some(json!(53)), &sample);
    set(&mut spec, "nodeCache.podLabels{}", "team", Some(json!("dns")), &sample);
    let expected = json!({
        "routes": [{"suffix": "one.example", "upstreams": [{"port": 53}]}], "nodeCache": {"podLabels": {"team": "dns"}},
    });
    assert_eq!(spec, expected);
    assert_eq!(get(&spec, "nodeCache.podLabels{}", "team"), Some(&json!("dns")));
    set(&mut spec, "routes[].upstreams", "", None, &sample);
    set(&mut spec, "resolvers.affinity.nodeAffinity", "", None, &sample);
    assert_eq!(spec, json!({"routes": [{"suffix": "one.example"}], "nodeCache": {"podLabels": {"team": "dns"}}}));
    assert!(ends_with("a.b[].c", "b[].c") && !ends_with("a.xb[].c", "b[].c"));
    assert_eq!((last_name("a.b[].c{}"), parent("a.b[].c{}"), parent("a")), ("c", "a.b[]", ""));
}
