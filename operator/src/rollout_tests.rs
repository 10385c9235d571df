//! Roll-outs by the whole controller in front of a fake cluster.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::fake_api::FakeRequest;
use crate::fake_pods::Fault;
use crate::rollout_world::{DAEMON_SETS, RECORD, RECORDS, TIERS, World, settings_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_change_goes_to_resolvers_then_to_the_first_nodes_then_in_waves_and_is_rolled_out() {
    let mut world = World::start(&[2, 1], settings_of("5s")).await;
    world.change(json!({"resolvers": {"upstreams": [{"addresses": ["192.0.2.53"]}]}}));
    let mut steps: Vec<(String, String)> = Vec::new();
    world.run(2).await;
    let target = world.target();
    assert_ne!(target, world.first);
    assert_eq!(world.rolled_out().0, "False");
    assert_eq!(world.seen(&target), Vec::<String>::new(), "the status is written before the first pod is told");
    for _ in 0..300 {
        let record = world.record();
        let zone = record["zone"].as_str().unwrap_or_default().to_owned();
        let step = (world.step(), zone);
        if steps.last() != Some(&step) {
            steps.push(step);
        }
        if world.rolled_out().0 == "True" {
            break;
        }
        let is_stable = world.stable()["resolver"] != json!(null) && world.record()["proven"]["id"] == target;
        let has_upstream = world.stable()["resolver"].to_string().contains("192.0.2.53");
        assert_eq!(has_upstream, is_stable, "stable is the target with the last step and not before");
        world.pass().await;
    }
    let expected = [
        ("Resolver", "a"),
        ("ResolverZone", "a"),
        ("Resolver", "b"),
        ("ResolverZone", "b"),
        ("Canary", ""),
        ("Wave", "a"),
        ("Done", ""),
    ];
    let steps: Vec<(&str, &str)> = steps.iter().map(|(step, zone)| (step.as_str(), zone.as_str())).collect();
    assert_eq!(
        steps.iter().filter(|(step, _)| !["Start", "Finish"].contains(step)).copied().collect::<Vec<_>>(),
        expected
    );
    assert_eq!(world.rolled_out().1, "RolledOut");
    assert_eq!(world.status()["rollout"]["step"], "Done");
    assert_eq!(world.status()["revision"], json!({"current": target, "target": target}));
    world.run(2).await;
    for (type_, status) in [("Ready", "True"), ("Progressing", "False"), ("Degraded", "False"), ("Stalled", "")] {
        assert_eq!(world.condition(type_).0, status, "{type_}: {:?}", world.condition(type_));
    }
    assert_eq!(world.seen(&target).len(), 7);
    let tier = &world.cluster.list(TIERS)[0];
    let generation = &tier["metadata"]["generation"];
    let conditions = tier["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["observedGeneration"] == *generation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_out_goes_on_while_the_watch_of_tiers_is_silent_and_no_status_is_written_twice() {
    let mut world = World::start(&[2, 1], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    assert_eq!(world.step(), "Start", "no status that announces it was delivered");
    world.silence_tiers(true);
    world.run_until("all pods run it", |world| world.rolled_out().1 == "RolledOut").await;
    world.run(5).await;
    assert_eq!(world.record()["proven"]["id"], json!(target));
    let is_status = |request: &&FakeRequest| request.path().ends_with("/dnstiers/default/status");
    let requests = world.cluster.requests();
    let mut written: Vec<&Value> = requests.iter().filter(is_status).map(|request| &request.body["status"]).collect();
    let number = written.len();
    written.dedup();
    assert_eq!(written.len(), number);
    world.silence_tiers(false);
    world.run(2).await;
    assert_eq!(world.rolled_out().1, "RolledOut");
}

/// Rolls out a change of the nodes that has a fault, and returns the reason and the sentence for which it was stopped.
async fn stop(world: &mut World, fault: Fault) -> (String, String) {
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(fault));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.run(2).await;
    let (status, reason, sentence) = world.rolled_out();
    assert_eq!(status, "False", "{sentence}");
    let seen = world.seen(&target);
    assert!(seen.iter().all(|key| ["a0", "b0"].contains(&key.as_str())), "{fault:?}: one node of each zone: {seen:?}");
    for (name, _) in world.pods.names() {
        assert_eq!(world.pods.asked(&name).as_ref(), Some(&world.first), "{name} is back");
    }
    for type_ in ["Degraded", "Stalled"] {
        let condition = world.condition(type_);
        assert_eq!((condition.0.as_str(), condition.1.as_str()), ("True", reason.as_str()));
        assert!(condition.2.contains(&sentence), "{condition:?}");
    }
    assert_eq!(world.condition("Reconciling").0, "");
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    assert_ne!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    (reason, sentence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_a_node_refuses_goes_no_further_than_one_node_of_a_zone_and_is_taken_back() {
    let mut world = World::start(&[3, 2], settings_of("5s")).await;
    let (reason, sentence) = stop(&mut world, Fault::Refused).await;
    assert_eq!(reason, "RevisionRefused");
    assert!(sentence.contains("zones: it is bad"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_whose_pods_do_worse_is_taken_back_with_the_figures() {
    let mut world = World::start(&[3, 2], settings_of("30s")).await;
    let (reason, sentence) = stop(&mut world, Fault::Servfail).await;
    assert_eq!(reason, "JudgedWorse");
    assert!(sentence.contains("SERVFAIL") && sentence.contains('%'), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_whose_probes_get_other_answers_or_none_is_taken_back() {
    for (fault, expected) in [(Fault::WrongAnswers, "WrongAnswers"), (Fault::DeadRoute, "JudgedWorse")] {
        let probes = json!([{"name": "www.example", "type": "A", "compare": "Answers"}]);
        let mut world = World::start(&[3, 2], json!({"soak": "5s", "waveSize": 1, "probes": probes})).await;
        assert_eq!(world.stable()["nodeCache"]["probes"], json!([{"name": "www.example", "type": "A"}]));
        let (reason, sentence) = stop(&mut world, fault).await;
        assert_eq!(reason, expected);
        let name = if fault == Fault::DeadRoute { "probes of " } else { "www.example A" };
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_with_which_processes_end_is_taken_back() {
    let mut world = World::start(&[3, 2], settings_of("5s")).await;
    assert_eq!(stop(&mut world, Fault::Crash).await.0, "PodCrashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_pods_do_not_take_over_is_taken_back_after_three_further_tellings() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(Fault::Deaf));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.run(2).await;
    assert_eq!(world.rolled_out().1, "NotInForce");
    assert_eq!(world.seen(&target), ["a0", "a1"], "another node takes the place of the first one once");
    let told = |request: &FakeRequest| {
        let annotations = &request.body["metadata"]["annotations"];
        (annotations["dnstier.io/revision"] == *target)
            .then(|| annotations["dnstier.io/told"].as_str().unwrap().split(' ').next().unwrap().to_owned())
    };
    let requests = world.cluster.requests();
    let of_first = requests.iter().filter(|request| request.path().contains("/cache-a0-"));
    assert_eq!(of_first.filter_map(told).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_was_taken_back_is_tried_again_when_the_annotation_says_so() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(Fault::Refused));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.pods.set_fault(&target, "", None);
    world.run(20).await;
    assert_eq!(world.step(), "Stopped");
    world.annotate("dnstier.io/retry-rollout", "1");
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    assert_eq!(world.condition("Stalled").0, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_the_pods_where_they_are_and_is_told() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.change(json!({"rollout": {"paused": true}}));
    let new = world.pods.add_node_pod("a", "a9").await;
    world.run(40).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Canary", vec!["a0".to_owned()]));
    assert_eq!(world.pods.asked(&new), Some(world.first.clone()), "new pods get the proven state");
    let (old, _) = world.pods.node_pods().into_iter().find(|(_, node)| node == "a0").unwrap();
    world.pods.delete(&old);
    let again = world.pods.add_node_pod("a", "a0").await;
    world.run(3).await;
    assert_eq!(world.pods.asked(&again), Some(target.clone()), "a node that has gone first stays one");
    assert_eq!(world.rolled_out().1, "Paused");
    assert_eq!(world.condition("Reconciling").1, "Paused");
    world.change(json!({"rollout": {"paused": false}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.pods.asked(&new), Some(target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_a_wave_that_is_made_again_in_a_pause_gets_the_proven_state() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("a wave has it", |world| world.seen(&target) == ["a0", "a1"]).await;
    world.change(json!({"rollout": {"paused": true}}));
    let (old, _) = world.pods.node_pods().into_iter().find(|(_, node)| node == "a1").unwrap();
    world.pods.delete(&old);
    let again = world.pods.add_node_pod("a", "a1").await;
    world.run(20).await;
    assert_eq!((world.step().as_str(), world.pods.asked(&again)), ("Wave", Some(world.first.clone())));
    world.change(json!({"rollout": {"paused": false}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.pods.asked(&again), Some(target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_is_not_proven_while_the_only_node_pod_is_replaced() {
    let mut world = World::start(&[1], settings_of("5s")).await;
    let (old, _) = world.pods.node_pods().remove(0);
    world.pods.begin_delete(&old);
    let target = world.change_nodes(600).await;
    world.run(30).await;
    let waits = format!("Revision {target} waits for a node that is ready.");
    assert_eq!((world.step().as_str(), world.rolled_out().2.as_str()), ("Canary", waits.as_str()));
    world.pods.delete(&old);
    world.run(30).await;
    assert_eq!((world.step().as_str(), world.rolled_out().2.as_str()), ("Canary", waits.as_str()));
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    world.pods.add_node_pod("a", "a0").await;
    world.run_until("it goes first", |world| world.seen(&target) == ["a0"]).await;
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_should_have_no_node_pod_ends_its_roll_out() {
    let mut world = World::start(&[1], settings_of("5s")).await;
    let (pod, _) = world.pods.node_pods().remove(0);
    world.pods.delete(&pod);
    let name = world.cluster.list(DAEMON_SETS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    world.cluster.merge(DAEMON_SETS, &name, json!({"status": {"desiredNumberScheduled": 0}}));
    let target = world.change_nodes(600).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.record()["proven"]["id"], json!(target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_back_although_the_revisions_cannot_be_written_and_none_gets_one_that_is_not_there() {
    let mut world = World::start(&[3, 2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first nodes have it", |world| world.seen(&target) == ["a0", "b0"]).await;
    world.is_refusing_revisions.store(true, Ordering::Relaxed);
    world.change(json!({"nodeCache": {"cache": {"maxTtl": null}}}));
    let count = |world: &World| {
        let names = world.pods.node_pods().into_iter();
        names.filter(|(name, _)| world.pods.asked(name).as_ref() == Some(&world.first)).count()
    };
    world.run_until("all pods are back", |world| count(world) == 5).await;
    assert_eq!(world.condition("Degraded").1, "ApplyFailed");
    let other = world.change_nodes(700).await;
    world.run(30).await;
    assert_eq!(world.seen(&other), Vec::<String>::new());
    world.is_refusing_revisions.store(false, Ordering::Relaxed);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!((world.target(), world.seen(&other).len()), (other, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_spec_supersedes_and_untouched_pods_never_see_the_old_target() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let old = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&old) == ["a0"]).await;
    let new = world.change_nodes(700).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), new);
    assert_eq!(world.seen(&old), ["a0"]);
    assert_eq!(world.seen(&new), ["a0", "a1", "a2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_lost_is_made_again_and_the_roll_out_goes_on() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.cluster.delete(RECORDS, RECORD);
    // The watch tells that it is gone once the own write is forgotten.
    world.replace_process().await;
    world.pass().await;
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_not_the_leader_any_more_tells_nobody() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    world.is_fenced.store(true, Ordering::Relaxed);
    world.change(json!({"nodeCache": {"cache": {"maxTtl": "600s"}}}));
    let (requests, status) = (world.cluster.requests().len(), world.status());
    world.run(20).await;
    let told = world.cluster.requests().split_off(requests);
    assert!(told.iter().any(|request| request.body["metadata"]["name"] == RECORD), "it has tried");
    assert!(told.iter().all(|request| !request.path().contains("/pods/")), "{told:#?}");
    assert_eq!(world.status(), status, "what it would say may be outdated");
    assert_eq!(world.target(), world.first);
    world.is_fenced.store(false, Ordering::Relaxed);
    world.run_until("there is another target", |world| world.target() != world.first).await;
    let target = world.target();
    // Somebody else leads from the first step on: its record is newer than the one that was read.
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.is_fenced.store(true, Ordering::Relaxed);
    world.run(30).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Canary", vec!["a0".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_replaced_in_every_step_leaves_a_roll_out_that_ends_the_same() {
    for fault in [None, Some(Fault::Refused)] {
        let mut world = World::start(&[2, 1], settings_of("5s")).await;
        let target = world.change_nodes(600).await;
        world.pods.set_fault(&target, "b0", None);
        let mut steps = 0;
        let mut step = String::new();
        for _ in 0..300 {
            if world.step() != step {
                step = world.step();
                steps += 1;
                world.replace_process().await;
            }
            if step == "Wave" && fault.is_some() {
                world.pods.set_fault(&target, "", fault);
            }
            if ["Done", "Stopped"].contains(&step.as_str()) && world.target() == target {
                break;
            }
            world.pass().await;
        }
        world.run(3).await;
        assert!(steps >= 3, "{steps}");
        let (asked, reason) = match fault {
            None => (&target, "RolledOut"),
            Some(_) => (&world.first, "RevisionRefused"),
        };
        assert_eq!(world.rolled_out().1, reason);
        let nodes = world.pods.names().into_iter().filter(|(name, _)| name.starts_with("cache"));
        for (name, _) in nodes {
            assert_eq!(world.pods.asked(&name).as_ref(), Some(asked), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_whose_pod_is_made_again_stays_one() {
    let mut world = World::start(&[3], settings_of("20s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.run(5).await;
    let (old, _) = world.pods.names().into_iter().find(|(_, node)| node == "a0").unwrap();
    world.pods.delete(&old);
    let new = world.pods.add_node_pod("a", "a0").await;
    world.run(3).await;
    assert_eq!(world.pods.asked(&new), Some(target.clone()));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_spec_is_not_rolled_out_and_what_was_on_its_way_goes_on() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.change(json!({"clusterDns": {"name": "nothing"}}));
    world.run_until("every node has it", |world| world.seen(&target) == ["a0", "a1"]).await;
    world.run(10).await;
    let (status, reason, _) = world.rolled_out();
    assert_eq!((status.as_str(), reason.as_str(), world.step().as_str()), ("False", "ClusterDnsNotFound", "Done"));
    world.change(json!({"clusterDns": {"name": "kube-dns"}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_its_label_is_found_again() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let label = "app.kubernetes.io/managed-by";
    world.cluster.merge(RECORDS, RECORD, json!({"metadata": {"labels": {label: "somebody"}}}));
    world.replace_process().await;
    let target = world.change_nodes(600).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.record()["proven"]["id"], json!(target));
    let record = world.cluster.list(RECORDS).into_iter().find(|object| object["metadata"]["name"] == RECORD).unwrap();
    assert_eq!(record["metadata"]["labels"][label], "dnstier-operator");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_pods_start_with_what_is_proven_although_the_spec_is_not_valid() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.change(json!({"clusterDns": {"name": "nothing"}}));
    world.run_until("it is proven", |world| world.record()["proven"]["id"] == json!(target)).await;
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    for object in world.cluster.list(RECORDS).iter().filter(|object| object["metadata"]["name"] != RECORD) {
        assert_eq!(object["data"]["stable.json"], object["data"][format!("{target}.json")], "{object:#}");
    }
    world.cluster.delete(RECORDS, RECORD);
    // The watch tells that it is gone once the own write is forgotten.
    world.replace_process().await;
    world.run(10).await;
    assert_eq!((world.step().as_str(), world.target()), ("Done", target.clone()));
    for (name, _) in world.pods.node_pods() {
        assert_eq!(world.pods.asked(&name).as_ref(), Some(&target), "nobody goes back");
    }
    let requests = world.cluster.requests().len();
    world.run(10).await;
    let requests = world.cluster.requests().split_off(requests);
    assert!(requests.iter().all(|request| !request.path().contains("/configmaps/")), "it is patched once");
    world.change(json!({"clusterDns": {"name": "kube-dns"}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_tells_no_pod_again_that_it_has_not_polled_yet() {
    let mut world = World::start(&[4], settings_of("30s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.run(10).await;
    world.replace_process().await;
    world.is_polling = false;
    let requests = world.cluster.requests().len();
    world.run(5).await;
    let later = world.cluster.requests().split_off(requests);
    let is_telling = |request: &&FakeRequest| !request.body["metadata"]["annotations"]["dnstier.io/told"].is_null();
    let told: Vec<&FakeRequest> = later.iter().filter(is_telling).collect();
    assert!(told.is_empty(), "{told:#?}");
    world.is_polling = true;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_pods_are_made_again_get_the_target_in_a_wave() {
    let mut world = World::start(&[3], json!({"soak": "5s", "waveSize": "100%"})).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    for (old, node) in world.pods.node_pods() {
        world.pods.delete(&old);
        world.pods.add_node_pod("a", &node).await;
    }
    world.run_until("a wave", |world| world.step() == "Wave").await;
    assert_eq!(world.record()["moved"], json!(["a1", "a2"]));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_cannot_be_told_holds_no_roll_out_up_and_follows_when_it_can() {
    for (pod, step) in [("cache-a0", "Canary"), ("cache-a2", "Wave")] {
        let mut world = World::start(&[4, 2], settings_of("5s")).await;
        world.refuse(&[pod]);
        let target = world.change_nodes(600).await;
        world.run_until("its step", |world| world.step() == step).await;
        world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
        let (_, reason, message) = world.condition("Degraded");
        assert_eq!(reason, "ApplyFailed", "{message}");
        assert!(message.contains(&format!("Pod dnstier-node/{pod}")), "{message}");
        let asked = |world: &World| {
            let nodes = world.pods.node_pods().into_iter();
            nodes.filter(|(name, _)| world.pods.asked(name).as_ref() == Some(&target)).count()
        };
        assert_eq!(asked(&world), 5, "{pod}");
        world.refuse(&[]);
        world.run_until("it follows", |world| asked(world) == 6).await;
        world.run_until("nothing is wrong", |world| world.condition("Degraded").0 == "False").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_cannot_be_told_to_go_back_does_not_keep_the_mended_spec_from_being_rolled_out() {
    let mut world = World::start(&[4, 2], settings_of("5s")).await;
    let bad = world.change_nodes(600).await;
    world.run_until("the first nodes have it", |world| world.seen(&bad) == ["a0", "b0"]).await;
    world.refuse(&["cache-a0"]);
    world.pods.set_fault(&bad, "", Some(Fault::Refused));
    world.run_until("pods go back", |world| world.step() == "RollingBack").await;
    world.change(json!({"nodeCache": {"cache": {"maxTtl": "700s"}}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 700);
    let target = world.target();
    world.refuse(&[]);
    let (pod, _) = world.pods.node_pods().into_iter().find(|(_, node)| node == "a0").unwrap();
    world.run_until("it follows", |world| world.pods.asked(&pod).as_ref() == Some(&target)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_pod_can_be_told_nothing_is_proven() {
    let mut world = World::start(&[4, 2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("a wave", |world| world.step() == "Wave").await;
    world.refuse(&["cache-"]);
    world.run(120).await;
    assert_eq!((world.step().as_str(), world.stable()["nodeCache"]["cache"]["maxTtl"] == 600), ("Wave", false));
    world.refuse(&[]);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_front_of_an_old_definition_a_change_is_rolled_out_and_a_bad_one_taken_back() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    world.is_old.store(true, Ordering::Relaxed);
    // What the newer definition kept is lost with the older one.
    world.cluster.merge(TIERS, "default", json!({"status": {"rollout": null}}));
    let target = world.change_nodes(600).await;
    assert_eq!(world.seen(&target), Vec::<String>::new());
    world.run_until("the status says so", |world| world.rolled_out().0 == "False").await;
    assert_eq!(world.seen(&target), Vec::<String>::new(), "the status is written before the first pod is told");
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.seen(&target).len(), 3);
    assert_eq!(world.status()["rollout"], Value::Null);
    let bad = world.change_nodes(700).await;
    world.pods.set_fault(&bad, "", Some(Fault::Refused));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    assert_eq!(world.seen(&bad), ["a0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_supersedes_another_is_judged_by_its_first_pods() {
    let mut world = World::start(&[3, 2], settings_of("30s")).await;
    let old = world.change_nodes(600).await;
    world.run_until("the first nodes have it", |world| world.seen(&old) == ["a0", "b0"]).await;
    world.run(10).await;
    let bad = world.change_nodes(700).await;
    world.pods.set_fault(&bad, "", Some(Fault::Servfail));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    assert_eq!(world.rolled_out().1, "JudgedWorse");
    assert_eq!(world.seen(&bad), ["a0", "b0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_finds_a_worse_share_with_the_first_wave_at_the_latest() {
    let mut world = World::start(&[4, 2], settings_of("30s")).await;
    let bad = world.change_nodes(600).await;
    world.run_until("the first nodes have it", |world| world.seen(&bad) == ["a0", "b0"]).await;
    world.replace_process().await;
    world.pods.set_fault(&bad, "", Some(Fault::Servfail));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    assert_eq!(world.rolled_out().1, "JudgedWorse");
    assert!(world.seen(&bad).len() <= 3, "one wave is one node: {:?}", world.seen(&bad));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_a_resolver_cannot_run_reaches_one_resolver_and_no_node() {
    let mut world = World::start(&[2, 1], settings_of("5s")).await;
    world.change(json!({"resolvers": {"upstreams": [{"addresses": ["192.0.2.53"]}]}}));
    world.run_until("there is another target", |world| world.target() != world.first).await;
    let target = world.target();
    world.pods.set_fault(&target, "", Some(Fault::Crash));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.run(2).await;
    assert_eq!(world.rolled_out().1, "PodCrashed");
    let seen = world.seen(&target);
    assert!(seen.len() == 1 && seen[0].starts_with("resolver-"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_judges_a_step_from_its_first_looks_on() {
    let mut world = World::start(&[3], settings_of("30s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.run(5).await;
    world.replace_process().await;
    world.pods.set_fault(&target, "", Some(Fault::Crash));
    world.run(15).await;
    assert_eq!(world.step(), "Stopped");
    assert_eq!(world.seen(&target), ["a0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_holds_nothing_up_and_follows_when_it_returns() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    world.set_ready("a1", false);
    let target = world.change_nodes(600).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    let (away, _) = world.pods.names().into_iter().find(|(_, node)| node == "a1").unwrap();
    world.set_ready("a1", true);
    world.run(3).await;
    assert_eq!(world.pods.asked(&away), Some(target));
    assert_eq!(world.rolled_out().0, "True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_that_fail_on_all_pods_hold_a_step_and_take_nothing_back() {
    let mut world = World::start(&[3], settings_of("10s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    for revision in [&world.first, &target] {
        world.pods.set_fault(revision, "", Some(Fault::DeadRoute));
    }
    world.run_until("it is held", |world| world.rolled_out().1 == "ControlsFailing").await;
    world.run(60).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Canary", vec!["a0".to_owned()]));
    assert_eq!(world.condition("Degraded").0, "False");
    for revision in [&world.first, &target] {
        world.pods.set_fault(revision, "", None);
    }
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_of_the_roll_out_say_how_many_go_how_long_they_are_watched_and_what_is_tolerated() {
    let settings = json!({"soak": "20s", "canariesPerZone": 2, "waveSize": "100%", "maxErrorIncreasePercent": 20});
    let mut world = World::start(&[5], settings).await;
    let target = world.change_nodes(600).await;
    // A tenth of the responses are worse: less than is tolerated.
    world.pods.set_fault(&target, "", Some(Fault::Servfail));
    world.run_until("the step is watched", |world| !world.record()["watchedSince"].is_null()).await;
    assert_eq!(world.seen(&target), ["a0", "a1"]);
    world.run(19).await;
    assert_eq!(world.step(), "Canary");
    world.run_until("the wave", |world| world.step() == "Wave").await;
    world.run_until("all nodes have it", |world| world.seen(&target).len() == 5).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_whose_roll_out_is_over_makes_no_request() {
    let mut world = World::start(&[2, 1], settings_of("5s")).await;
    world.run(10).await;
    let requests = world.cluster.requests().len();
    world.run(20).await;
    let requests = world.cluster.requests().split_off(requests);
    assert!(requests.is_empty(), "{requests:#?}");
}
