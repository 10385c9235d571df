//! What a tier says beside what unbound says to the same questions about the same zones.

use dnstier_tests::compare::Report;

use crate::lab;
use crate::tier::{LINK_LOCAL, turn};

/// The provider's resolver: unbound, which the resolvers of the zones ask too.
const UNBOUND: &str = "169.254.169.253";
const QUESTIONS: u32 = 100_000;
/// Names of every zone of the small internet but the one whose aliases go in a circle.
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

#[test]
fn a_hundred_thousand_made_up_questions_are_answered_as_unbound_answers_them() {
    let _turn = turn();
    let (servers, questions) = (format!("{LINK_LOCAL},{UNBOUND}"), QUESTIONS.to_string());
    let names = NAMES.join(",");
    let command = ["/ask", "compare", "--json", "--server", &servers, "--names", &names, "--questions", &questions];
    let text = lab().exec("node-a", &command).expect("a report");
    let report: Report = serde_json::from_str(text.trim()).expect("a report");
    eprintln!("{} asked, the same: {:?}", report.asked, report.same);
    for (what, difference) in &report.different {
        eprintln!("{} times: {what}\n{}", difference.count, difference.example);
    }
    assert!(report.asked > QUESTIONS * 9 / 10, "{}", report.asked);
    assert!(report.same.len() >= 2 && report.same.values().all(|count| *count > 100), "{:?}", report.same);
    assert!(report.different.is_empty(), "{:?}", report.different.keys());
}
