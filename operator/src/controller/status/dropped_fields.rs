//! Fields of a status that the API server does not keep: the installed CustomResourceDefinition (CRD) is older than the
//! operator and does not know them. The operator needs no right to read the CRD for this.

use dnstier_crds::conditions::Reason;
use serde_json::Value;

use crate::controller::finding::Finding;
use crate::controller::text::join_some;

/// End of the word of a refusal that names a field, as in `.status.rollout: field not declared in schema`.
const UNDECLARED: &str = ": field not declared in schema";

/// Returns the paths that a refused apply names as unknown, as `status.rollout`.
pub(super) fn undeclared(refusal: &str) -> Vec<String> {
    let mut parts: Vec<&str> = refusal.split(UNDECLARED).collect();
    parts.pop();
    let last_words = parts.iter().filter_map(|part| part.split_whitespace().last());
    last_words.map(|path| path.trim_start_matches(['(', '.']).to_owned()).collect()
}

/// Removes the fields at these paths, in every item of a list on the way.
pub(super) fn remove(object: &mut Value, paths: &[String]) {
    for path in paths {
        let keys: Vec<&str> = without_selectors(path);
        remove_at(object, &keys);
    }
}

/// Returns the keys of a path, without selectors of items: `zones[name="a.b"].nodes` is `zones` and `nodes`.
fn without_selectors(path: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (key, tail) = rest.split_at(end);
        if !key.is_empty() {
            keys.push(key);
        }
        rest = match tail.strip_prefix('[') {
            Some(selector) => selector.split_once(']').map_or("", |(_, tail)| tail),
            None => tail.strip_prefix('.').unwrap_or_default(),
        };
    }
    keys
}

fn remove_at(object: &mut Value, keys: &[&str]) {
    match (object, keys) {
        (Value::Array(items), keys) => items.iter_mut().for_each(|item| remove_at(item, keys)),
        (Value::Object(fields), [key]) => drop(fields.remove(*key)),
        (Value::Object(fields), [key, rest @ ..]) => {
            if let Some(inner) = fields.get_mut(*key) {
                remove_at(inner, rest);
            }
        }
        _ => {}
    }
}

/// Returns the paths of the fields that were sent and are not in what was kept, each once. The path
/// `status.zones[].nodes` stands for that of any item.
pub(super) fn dropped(sent: &Value, kept: &Value, path: &str) -> Vec<String> {
    let mut fields: Vec<String> = match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            let fields = sent.iter().flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => dropped(value, kept, &path),
                    None => vec![path],
                }
            });
            fields.collect()
        }
        (Value::Array(sent), Value::Array(kept)) => {
            sent.iter().zip(kept).flat_map(|(sent, kept)| dropped(sent, kept, &format!("{path}[]"))).collect()
        }
        _ => Vec::new(),
    };
    fields.sort();
    fields.dedup();
    fields
}

/// Returns the finding about fields that are not kept; `None` without any.
pub(super) fn finding(dropped: &[String]) -> Option<Finding> {
    let message = format!(
        "The installed CustomResourceDefinition dnstiers.dnstier.io is older than the operator and drops {}: upgrade \
         it with `helm template dnstier charts/dnstier --set crds.install=true --show-only templates/crd.yaml | \
         kubectl apply --server-side --force-conflicts -f -`, from the chart of the operator's version.",
        join_some(dropped)
    );
    (!dropped.is_empty()).then(|| Finding::new(Reason::CrdTooOld, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_an_apply_may_not_have_are_read_from_its_refusal() {
        let one = "failed to create typed patch object (/default; dnstier.io/v1alpha1, Kind=DnsTier): .status.rollout: \
                   field not declared in schema";
        assert_eq!(undeclared(one), ["status.rollout"]);
        let two = "failed to create typed patch object (/default; dnstier.io/v1alpha1, Kind=DnsTier): errors:\n  \
                   .status.rollout: field not declared in schema\n  .status.zones[name=\"a.b\"].localPercent: field \
                   not declared in schema";
        assert_eq!(undeclared(two), ["status.rollout", "status.zones[name=\"a.b\"].localPercent"]);
        assert!(undeclared("etcdserver: request timed out").is_empty());
    }

    #[test]
    fn what_an_old_definition_does_not_know_is_left_out_also_in_lists() {
        let mut status =
            json!({"status": {"rollout": {"step": "Done"}, "zones": [{"name": "a.b", "new": 1, "old": 2}]}});
        remove(&mut status, &["status.rollout".to_owned(), "status.zones[name=\"a.b\"].new".to_owned()]);
        assert_eq!(status, json!({"status": {"zones": [{"name": "a.b", "old": 2}]}}));
    }

    #[test]
    fn fields_that_are_sent_and_not_kept_are_dropped_and_others_are_nobodys_business() {
        let sent = json!({"nodes": {"ready": 1, "away": 0}, "rollout": {"step": "Done"}, "zones": []});
        let kept = json!({"nodes": {"ready": 1}, "zones": [], "operator": {"namespace": "a"}});
        assert_eq!(dropped(&sent, &kept, "status"), ["status.nodes.away", "status.rollout"]);
        let zones = |item: Value| json!({"zones": [item, item]});
        let dropped_of_items = dropped(&zones(json!({"name": "a", "new": 1})), &zones(json!({"name": "a"})), "status");
        assert_eq!(dropped_of_items, ["status.zones[].new"], "once");
        assert!(dropped(&sent, &sent, "status").is_empty());
    }

    #[test]
    fn the_command_that_helps_is_named() {
        let finding = finding(&["status.rollout".to_owned()]).unwrap();
        assert_eq!(finding.reason, Reason::CrdTooOld);
        for part in ["drops status.rollout", "--show-only templates/crd.yaml", "kubectl apply --server-side"] {
            assert!(finding.message.contains(part), "{}", finding.message);
        }
        assert_eq!(super::finding(&[]), None);
    }
}
