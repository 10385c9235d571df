//! What a process says about its answers to whoever looks after it.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache::control::Command;
use tokio::time::{sleep, timeout};

use crate::support::{Authority, Reply, Tier, ask, config, denial, denial_with_soa, question, route};

const LIMIT: Duration = Duration::from_secs(10);

async fn say(tier: &Tier, line: &str) -> String {
    let Ok(Command::Answers(inspection)) = Command::from_line(line) else { panic!("{line}") };
    tier.resolver.inspect(inspection).await
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
    let after = say(&tier, "explain www.CORP.example A").await;
    let from = format!("s more, then stale for 3600 s, from {}", authority.address);
    for part in ["this question: NOERROR, 50 octets, came ", "this question with DO: NOERROR", &from] {
        assert!(after.contains(part), "{part:?} is not in\n{after}");
    }
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
    let denied = say(&tier, "explain mail.com.svc.cluster.local MX").await;
    assert!(denied.contains("com.svc.cluster.local.: NXDOMAIN"), "{denied}");
    let failed = say(&tier, "explain www.broken.example").await;
    assert!(failed.contains("failure         SERVFAIL a moment ago"), "{failed}");
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
    let is_counted = async || say(&tier, "stats").await.contains("  from memory     2\n");
    timeout(LIMIT, async {
        while !is_counted().await {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let stats = say(&tier, "stats").await;
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
