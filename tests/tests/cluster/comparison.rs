//! Responses of a tier compared with those of unbound and CoreDNS, to the same queries about the same zones.

use dnstier_tests::compare::Report;
use dnstier_tests::require;

use crate::lab;
use crate::tier::{LINK_LOCAL, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl_json, wait_until};

/// The provider's resolver: unbound, which is the upstream of the zones' resolvers, too.
const UNBOUND: &str = "169.254.169.253";
const QUERIES: u32 = 100_000;
/// Names of every zone of the small internet but the one with a loop of CNAMEs.
const NAMES: [&str; 24] = [
    "shop.example",
    "www.shop.example",
    "far.shop.example",
    "home.shop.example",
    "gone.shop.example",
    "mail.example",
    "mx1.mail.example",
    "_dmarc.mail.example",
    "s1._domainkey.mail.example",
    "text.big.example",
    "many.big.example",
    "wild.example",
    "any.thing.wild.example",
    "signed.example",
    "www.signed.example",
    "short.example",
    "bare.example",
    "partner.test",
    "mx.partner.test",
    "corp.test",
    "list.test",
    "v6.test",
    "10.113.0.203.in-addr.arpa",
    "example",
];

/// Names in the cluster, and names of its pods' search path that do not exist.
const CLUSTER_NAMES: [&str; 12] = [
    "kubernetes.default.svc.cluster.local",
    "toolboxes.lab.svc.cluster.local",
    "toolbox.lab.svc.cluster.local",
    "default.svc.cluster.local",
    "lab.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
    "_web._tcp.toolbox.lab.svc.cluster.local",
    "www.shop.example.lab.svc.cluster.local",
    "shop.example.svc.cluster.local",
    "shop.example.cluster.local",
    "1.0.96.10.in-addr.arpa",
];

#[test]
fn a_hundred_thousand_made_up_questions_are_answered_as_unbound_answers_them() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let report = compare(UNBOUND, &NAMES, QUERIES);
    assert!(report.same.len() >= 2 && report.same.values().all(|count| *count > 100), "{:?}", report.same);
    assert!(report.different.is_empty(), "{:?}", report.different.keys());
}

#[test]
fn a_hundred_thousand_made_up_questions_are_answered_as_coredns_answers_them_save_for_what_is_explained() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let report = compare(&coredns(), &NAMES, QUERIES);
    assert!(report.same.len() >= 2 && report.same.values().all(|count| *count > 100), "{:?}", report.same);
    assert_eq!(unexplained(&report), [""; 0]);
}

#[test]
fn questions_about_the_cluster_are_answered_as_coredns_answers_them_save_for_what_is_explained() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let coredns = coredns();
    // The NS records of the zone have changed with the tier, and are cached for half a minute.
    wait_until("both name the same servers of the cluster's zone", WAIT_TIMEOUT, || {
        let differences = unexplained(&compare(&coredns, &["cluster.local"], 500)).join(", ");
        ensure(differences.is_empty(), || differences)
    });
    assert_eq!(unexplained(&compare(&coredns, &CLUSTER_NAMES, 20_000)), [""; 0]);
}

/// Returns the differences that docs/decisions/ does not explain.
fn unexplained(report: &Report) -> Vec<&str> {
    const EXPLAINED: [&str; 4] = [
        "NXDOMAIN against NOERROR for SOA",
        "flags rd ra against aa rd ra",
        "flags rd ra against aa rd",
        "flags aa rd ra against aa rd",
    ];
    report.different.keys().map(String::as_str).filter(|kind| !EXPLAINED.contains(kind)).collect()
}

/// Returns the address of a pod of the cluster DNS.
fn coredns() -> String {
    let pods = kubectl_json(&["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"]);
    pods["items"][0]["status"]["podIP"].as_str().expect("a pod of the cluster DNS").to_owned()
}

/// Compares this tier with another server, and prints the differences.
fn compare(other: &str, names: &[&str], questions: u32) -> Report {
    let servers = format!("{LINK_LOCAL},{other}");
    let number = questions.to_string();
    let names = names.join(",");
    let command = ["/ask", "compare", "--json", "--server", &servers, "--names", &names, "--questions", &number];
    let text = lab().exec("node-a", &command).expect("a report");
    let report: Report = serde_json::from_str(text.trim()).expect("a report");
    eprintln!("{} asked, the same: {:?}", report.asked, report.same);
    for (kind, difference) in &report.different {
        eprintln!("{} times: {kind}\n{}", difference.count, difference.example);
    }
    assert!(report.asked > questions * 9 / 10, "{}", report.asked);
    report
}
