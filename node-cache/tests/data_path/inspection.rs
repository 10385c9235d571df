//! What a process says about its answers to whoever looks after it.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache::admin::Command;
use tokio::time::{sleep, timeout};

use crate::support::{Authority, Reply, Tier, ask, config, denial, denial_with_soa, question, route};

const LIMIT: Duration = Duration::from_secs(10);

async fn say(tier: &Tier, line: &str) -> String {
    let Ok(Command::Inspect(inspection)) = Command::from_line(line) else { panic!("{line}") };
    tier.resolver.inspect(inspection).await
}

/// The same as soon as it holds all of these: an answer goes into memory after it was sent.
async fn say_at_last(tier: &Tier, line: &str, parts: &[&str]) -> String {
    let mut said = String::new();
    let is_said = async {
        while parts.iter().any(|part| !said.contains(part)) {
            sleep(Duration::from_millis(10)).await;
            said = say(tier, line).await;
        }
    };
    let in_time = timeout(LIMIT, is_said).await;
    assert!(in_time.is_ok(), "{parts:?} are not all in\n{said}");
    said
}

#[tokio::test]
async fn explain_tells_the_route_the_servers_and_what_is_kept() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 1))).await;
    let mut config = config(authority.address);
    config.routes = vec![route("corp.example", &[authority.address])];
    let tier = Tier::on_node(&config, None).await;
    let before = say(&tier, "explain www.corp.example").await;
    assert!(before.contains("route           route/corp.example"), "{before}");
    assert!(
        before.contains(&format!("asks            {} (route/corp.example), which answers", authority.address)),
        "{before}"
    );
    assert!(before.contains("memory          nothing"), "{before}");
    let mut asked = question("WWW.corp.example", RecordType::A);
    ask(tier.address, &asked).await;
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    ask(tier.address, &asked).await;
    let from = format!("s more, then stale for 3600 s, from {}", authority.address);
    let parts = ["this question: NOERROR, 50 octets, age ", "this question with DO: NOERROR", &from];
    say_at_last(&tier, "explain www.CORP.example A", &parts).await;
    assert!(say(&tier, "explain localhost").await.contains("answered here"));
}

#[tokio::test]
async fn explain_tells_of_denials_of_names_above_and_of_failures() {
    let authority = Authority::start(|asked| match asked.name().to_ascii().to_lowercase().contains("broken") {
        true => Reply::Say(denial(asked, ResponseCode::ServFail)),
        false => Reply::Say(denial_with_soa(asked, ResponseCode::NXDomain, 300)),
    })
    .await;
    let mut config = config(authority.address);
    config.routes = vec![route("broken.example", &[authority.address])];
    let tier = Tier::on_node(&config, None).await;
    for name in ["www.com.svc.cluster.local", "www.broken.example"] {
        ask(tier.address, &question(name, RecordType::A)).await;
    }
    say_at_last(&tier, "explain mail.com.svc.cluster.local MX", &["com.svc.cluster.local.: NXDOMAIN"]).await;
    say_at_last(&tier, "explain www.broken.example", &["failure         SERVFAIL a moment ago"]).await;
    assert_eq!(say(&tier, "flush www.broken.example").await, "0 answers forgotten\n");
    assert!(!say(&tier, "explain www.broken.example").await.contains("failure"), "a failure is forgotten too");
}

#[tokio::test]
async fn flush_forgets_a_name_or_everything_below_it_and_nothing_else() {
    let authority = Authority::start(|asked| match asked.is("none.shop.example") {
        true => Reply::Say(denial_with_soa(asked, ResponseCode::NXDomain, 300)),
        false => Reply::Say(asked.usual_answer(300, 1)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let names = ["shop.example", "www.shop.example", "none.shop.example", "workshop.example"];
    for name in names {
        ask(tier.address, &question(name, RecordType::A)).await;
    }
    say_at_last(&tier, "stats", &["  answers kept    4\n"]).await;
    let dumped = say(&tier, "dump shop.example").await;
    let mut lines: Vec<&str> = dumped.lines().filter_map(|line| line.split(':').next()).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["none.shop.example. (any) [forward]", "shop.example. A [forward]", "www.shop.example. A [forward]"]
    );
    assert_eq!(say(&tier, "flush Shop.example").await, "1 answers forgotten\n");
    assert_eq!(say(&tier, "flush-below shop.example.").await, "2 answers forgotten\n");
    assert_eq!(say(&tier, "dump shop.example").await, "nothing\n");
    authority.forget();
    for name in names {
        ask(tier.address, &question(name, RecordType::A)).await;
    }
    assert_eq!((authority.asked().len(), authority.asked_for("workshop.example")), (3, 0));
}

#[tokio::test]
async fn stats_tell_how_many_questions_were_answered_from_where() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for _ in 0..3 {
        ask(tier.address, &question("www.example", RecordType::A)).await;
    }
    // A batch is counted when its answers are under way.
    let stats = say_at_last(&tier, "stats", &["  from memory     2\n", "  answers kept    1\n"]).await;
    for part in [
        "  questions       3\n",
        "  from memory     2\n",
        "  asked of others 1\n",
        "  dropped         0\n",
        "  answers kept    1\n",
    ] {
        assert!(stats.contains(part), "{part:?} is not in\n{stats}");
    }
    assert!(stats.contains(&format!("  forward         {} answers: 1 sent, 0 late\n", authority.address)), "{stats}");
}
