//! Which server is queried first: equal ones share the queries, outliers are left while others do better, and the
//! nearest of the other zones helps first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache_config::status::UpstreamState;
use node_cache_config::{Upstream, UpstreamSource};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use crate::inspection::inspect;
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, allow_loopback, config, empty_response, exchange, exchange_from, failure,
    loopback_client, query_for, wait_until, zone,
};

/// Time in which a server is left, or returns, on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which the client of a load waits.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the queries of a load.
const LOAD_INTERVAL: Duration = Duration::from_millis(10);

/// Info-codes between the tiers: budget exhausted, upstreams failed, overloaded.
const PRIVATE_CODES: [u16; 3] = [49152, 49153, 49154];
/// Part of every reason for which a server is left.
const NO_REASON: &str = "s because ";

/// Habit of a bad server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    OnlyServfail,
    AlwaysTruncates,
    Slow,
    LosesOneInTen,
    /// Three of ten names get no answer.
    SilentForNames,
    /// A resolver of the tier without budget or room, or whose upstreams fail.
    Burdened,
}

impl Habit {
    /// Returns the reaction to a query, the `number`th one.
    fn reaction(self, query: &ReceivedQuery, number: usize) -> Action {
        let mut message = query.default_response(300, 1);
        match self {
            Self::OnlyServfail => Action::Respond(empty_response(query, ResponseCode::ServFail)),
            Self::AlwaysTruncates => {
                message.metadata.truncation = !query.tcp;
                Action::Respond(message)
            }
            Self::Slow => Action::RespondAfter(Duration::from_millis(500), message),
            Self::LosesOneInTen if number.is_multiple_of(10) => Action::Ignore,
            Self::SilentForNames if is_dead(query) => Action::Ignore,
            Self::LosesOneInTen | Self::SilentForNames => Action::Respond(message),
            Self::Burdened => failure(query, PRIVATE_CODES[number % PRIVATE_CODES.len()]),
        }
    }

    /// Returns what `stats` says about a server that is left for it.
    const fn reason(self) -> &'static str {
        match self {
            Self::OnlyServfail => "it gives only errors",
            Self::AlwaysTruncates => "it truncates every response",
            Self::Slow => "it has become slow",
            Self::LosesOneInTen => "it loses queries",
            Self::SilentForNames | Self::Burdened => NO_REASON,
        }
    }
}

/// Returns whether a name is one of those that nobody answers.
fn is_dead(query: &ReceivedQuery) -> bool {
    query.name().to_ascii().trim_end_matches('.').ends_with(['0', '1', '2'])
}

/// Server with a habit that it can give up, which counts its queries.
struct Resolver {
    authority: Authority,
    is_bad: Arc<AtomicBool>,
    queries: Arc<AtomicUsize>,
}

impl Resolver {
    async fn start(habit: Habit) -> Self {
        Self::start_with(habit, Arc::default()).await
    }

    /// Starts a server that has the habit at the same moment as all others with this flag.
    async fn start_with(habit: Habit, is_bad: Arc<AtomicBool>) -> Self {
        let queries = Arc::new(AtomicUsize::new(0));
        let (bad, count) = (is_bad.clone(), queries.clone());
        let script = move |query: &ReceivedQuery| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            match bad.load(Ordering::Relaxed) {
                true => habit.reaction(query, number),
                false => Action::Respond(query.default_response(300, 1)),
            }
        };
        Self { authority: Authority::start(script).await, is_bad, queries }
    }

    fn set_bad(&self, is_bad: bool) {
        self.is_bad.store(is_bad, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

/// Queries for names of ever new domains, a hundred a second until this is dropped.
struct Load(JoinHandle<()>);

impl Load {
    fn start(tier: &Tier) -> Self {
        let address = tier.address;
        Self(tokio::spawn(async move {
            let mut ticks = interval(LOAD_INTERVAL);
            for number in 0.. {
                ticks.tick().await;
                let query = query_for(&format!("www.n{number}.example{number}"), RecordType::A);
                tokio::spawn(
                    async move { exchange_from(loopback_client(address), address, &query, CLIENT_TIMEOUT).await },
                );
            }
        }))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts the cache of a node whose own zone has these resolvers.
fn node(resolvers: &[&Resolver]) -> Tier {
    let addresses: Vec<_> = resolvers.iter().map(|resolver| resolver.authority.address).collect();
    Tier::node_on("127.0.0.1".parse().unwrap(), &addresses)
}

fn state(tier: &Tier, resolver: &Resolver) -> UpstreamState {
    let upstreams = tier.resolver.snapshot().unwrap().upstreams();
    upstreams.iter().find(|upstream| upstream.address == resolver.authority.address).unwrap().state
}

async fn wait_for_state(tier: &Tier, resolver: &Resolver, states: &[UpstreamState], habit: Habit) {
    let condition = format!("{habit:?}: {states:?}");
    wait_until(&condition, TIMEOUT, async || states.contains(&state(tier, resolver))).await;
}

/// Waits until a resolver is left, and `stats` gives the reason. A server whose responses take long besides, over TCP
/// on a slow machine, is left by its score alone: hardly a query reaches it, and so it is never judged.
async fn wait_until_left(tier: &Tier, bad: &Resolver, good: &Resolver, habit: Habit) {
    wait_until(&format!("{habit:?}: it is left"), TIMEOUT, async || {
        if state(tier, bad) == UpstreamState::Ejected {
            let stats = inspect(tier, "stats").await;
            assert!(stats.contains(&format!("s because {}", habit.reason())), "{habit:?}: {stats}");
            return true;
        }
        let (of_bad, of_good) = (bad.count(), good.count());
        wait_for_queries(good, 50).await;
        bad.count() - of_bad <= (good.count() - of_good) / 20
    })
    .await;
}

/// Waits until the resolver has got this many queries more.
async fn wait_for_queries(resolver: &Resolver, queries: usize) {
    let before = resolver.count();
    wait_until("it gets queries", TIMEOUT, async || resolver.count() >= before + queries).await;
}

/// Waits until a hundred queries go to one of two resolvers, and to the other one hedges at most.
async fn wait_until_queried_alone(queried: &Resolver, other: &Resolver, habit: Habit) {
    wait_until(&format!("{habit:?}: one of two is queried alone"), TIMEOUT, async || {
        let of_other = other.count();
        wait_for_queries(queried, 100).await;
        other.count() - of_other <= 30
    })
    .await;
}

#[tokio::test]
async fn two_equal_resolvers_share_the_queries() {
    let (one, other) = (Resolver::start(Habit::Slow).await, Resolver::start(Habit::Slow).await);
    let tier = node(&[&one, &other]);
    let mut round = 0;
    // A machine that stands still makes a server look slow for some seconds.
    wait_until("each gets 45 to 55 % of 2,000 queries", TIMEOUT, async || {
        round += 1;
        let (of_one, of_other) = (one.count(), other.count());
        join_all((0..8).map(async |client| {
            for number in 0..250 {
                exchange(tier.address, &query_for(&format!("n{number}.client{client}.r{round}"), RecordType::A)).await;
            }
        }))
        .await;
        let (of_one, of_other) = (one.count() - of_one, other.count() - of_other);
        (45..=55).contains(&(100 * of_one / (of_one + of_other)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_does_worse_than_another_one_is_left_and_returns() {
    let habits = [Habit::OnlyServfail, Habit::AlwaysTruncates, Habit::LosesOneInTen];
    join_all(habits.map(async |habit| {
        let (bad, good) = (Resolver::start(habit).await, Resolver::start(habit).await);
        let tier = node(&[&bad, &good]);
        let _load = Load::start(&tier);
        wait_for_queries(&bad, 150).await;
        bad.set_bad(true);
        wait_until_left(&tier, &bad, &good, habit).await;
        assert_eq!(state(&tier, &good), UpstreamState::Up, "{habit:?}");
        wait_until(&format!("{habit:?}: it gets hardly a query"), TIMEOUT, async || {
            let (of_bad, of_good) = (bad.count(), good.count());
            wait_for_queries(&good, 100).await;
            bad.count() - of_bad <= (good.count() - of_good) / 10
        })
        .await;
        bad.set_bad(false);
        wait_for_state(&tier, &bad, &[UpstreamState::Returning, UpstreamState::Up], habit).await;
        wait_for_queries(&bad, 20).await;
        wait_for_state(&tier, &bad, &[UpstreamState::Up], habit).await;
    }))
    .await;
}

#[tokio::test]
async fn a_resolver_that_has_become_slow_gets_hardly_a_query_until_it_is_fast_again() {
    let (slow, fast) = (Resolver::start(Habit::Slow).await, Resolver::start(Habit::Slow).await);
    let tier = node(&[&slow, &fast]);
    let _load = Load::start(&tier);
    wait_for_queries(&slow, 50).await;
    slow.set_bad(true);
    // The first slow response decides.
    wait_until("the slow one gets hardly a query", TIMEOUT, async || {
        let (of_slow, of_fast) = (slow.count(), fast.count());
        wait_for_queries(&fast, 50).await;
        slow.count() - of_slow <= (fast.count() - of_fast) / 10
    })
    .await;
    slow.set_bad(false);
    wait_until("it gets as many as before", TIMEOUT, async || {
        let (of_slow, of_fast) = (slow.count(), fast.count());
        wait_for_queries(&fast, 50).await;
        slow.count() - of_slow > (fast.count() - of_fast) / 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_resolvers_do_is_no_reason_to_leave_one() {
    let habits = [Habit::OnlyServfail, Habit::AlwaysTruncates, Habit::Slow, Habit::SilentForNames];
    join_all(habits.map(async |habit| {
        let one = Resolver::start(habit).await;
        let other = Resolver::start_with(habit, one.is_bad.clone()).await;
        let tier = node(&[&one, &other]);
        let _load = Load::start(&tier);
        wait_for_queries(&one, 150).await;
        one.set_bad(true);
        let before = [one.count(), other.count()];
        wait_until(&format!("{habit:?}: both get queries"), TIMEOUT, async || {
            sleep(Duration::from_millis(100)).await;
            let stats = inspect(&tier, "stats").await;
            assert!(!stats.contains(habit.reason()), "{habit:?}: {stats}");
            let counts = [one.count() - before[0], other.count() - before[1]];
            counts.iter().sum::<usize>() >= 500 && counts.iter().all(|count| *count >= 100)
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn a_resolver_that_says_why_it_has_no_answer_is_not_left() {
    let (burdened, good) = (Resolver::start(Habit::Burdened).await, Resolver::start(Habit::Burdened).await);
    let tier = node(&[&burdened, &good]);
    let _load = Load::start(&tier);
    wait_for_queries(&good, 50).await;
    burdened.set_bad(true);
    for _ in 0..10 {
        wait_for_queries(&burdened, 20).await;
        let stats = inspect(&tier, "stats").await;
        assert!(!stats.contains(NO_REASON), "{stats}");
    }
    assert_eq!([&burdened, &good].map(|resolver| state(&tier, resolver)), [UpstreamState::Up; 2]);
}

#[tokio::test]
async fn a_fallback_gets_no_query_though_it_does_better_than_the_upstreams() {
    let (first, second) = (Resolver::start(Habit::OnlyServfail).await, Resolver::start(Habit::OnlyServfail).await);
    let fallback = Resolver::start(Habit::OnlyServfail).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = |resolver: &Resolver| Upstream::from(resolver.authority.address);
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream(&first), upstream(&second)]);
    config.resolver.fallback = vec![upstream(&fallback)];
    allow_loopback(&mut config);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    let _load = Load::start(&tier);
    wait_for_queries(&first, 50).await;
    first.set_bad(true);
    wait_for_state(&tier, &first, &[UpstreamState::Ejected], Habit::OnlyServfail).await;
    wait_for_queries(&second, 100).await;
    second.set_bad(true);
    let queries = || first.count() + second.count();
    let before = queries();
    wait_until("both fail", TIMEOUT, async || queries() >= before + 200).await;
    assert_eq!(fallback.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_upstream_is_queried_after_the_second_while_it_is_left_and_first_again_later() {
    join_all([Habit::OnlyServfail, Habit::AlwaysTruncates, Habit::Slow, Habit::LosesOneInTen].map(async |habit| {
        let (first, second) = (Resolver::start(habit).await, Resolver::start(habit).await);
        let tier = Tier::forwarding_to(&[first.authority.address, second.authority.address]).await;
        let _load = Load::start(&tier);
        wait_for_queries(&first, 100).await;
        assert!(second.count() <= 30, "hedges at most: {}", second.count());
        first.set_bad(true);
        wait_for_state(&tier, &first, &[UpstreamState::Ejected], habit).await;
        let stats = inspect(&tier, "stats").await;
        assert!(stats.contains(&format!("s because {}", habit.reason())), "{habit:?}: {stats}");
        wait_until_queried_alone(&second, &first, habit).await;
        first.set_bad(false);
        wait_for_state(&tier, &first, &[UpstreamState::Returning, UpstreamState::Up], habit).await;
        wait_for_state(&tier, &first, &[UpstreamState::Up], habit).await;
        wait_until_queried_alone(&first, &second, habit).await;
    }))
    .await;
}

#[tokio::test]
async fn a_resolver_that_is_lame_for_a_domain_is_left_for_that_domain_only() {
    let answered = |query: &ReceivedQuery| Action::Respond(query.default_response(300, 1));
    let lame = Authority::start(move |query| match query.name().to_ascii().to_lowercase().ends_with("lame.test.") {
        true => Action::Respond(empty_response(query, ResponseCode::Refused)),
        false => answered(query),
    })
    .await;
    let good = Authority::start(answered).await;
    let tier = Tier::node_on("127.0.0.1".parse().unwrap(), &[lame.address, good.address]);
    let mut number = 0;
    wait_until("it is lame for the domain", TIMEOUT, async || {
        number += 1;
        let query = query_for(&format!("n{number}.lame.test"), RecordType::A);
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
        inspect(&tier, "explain www.lame.test").await.contains("up, lame for this domain")
    })
    .await;
    lame.clear_queries();
    for number in 0..50 {
        let names = [format!("m{number}.lame.test"), format!("m{number}.example")];
        for name in names {
            assert_eq!(exchange(tier.address, &query_for(&name, RecordType::A)).await.answers.len(), 1);
        }
    }
    let queries = lame.queries();
    let of_domain = queries.iter().filter(|query| query.name().to_ascii().to_lowercase().contains("lame")).count();
    assert!(of_domain <= 5, "hedges at most: {of_domain}");
    assert!(queries.len() - of_domain >= 10, "other names go there as before: {}", queries.len());
    assert!(!inspect(&tier, "explain www.example").await.contains("lame"));
}

#[tokio::test]
async fn of_the_other_zones_the_nearest_one_helps_first() {
    let own = Authority::start(|_| Action::Ignore).await;
    let after = |millis| {
        move |query: &ReceivedQuery| Action::RespondAfter(Duration::from_millis(millis), query.default_response(300, 1))
    };
    let far = Authority::start(after(80)).await;
    let near = Authority::start(after(2)).await;
    let middle = Authority::start(after(30)).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let named = ["zone-a", "zone-b", "zone-c", "zone-d"].into_iter().zip([&own, &far, &near, &middle]);
    config.zones = named.map(|(name, server)| zone(name, server.address)).collect();
    // The first order of the zones is random: on several nodes it is not right by chance.
    for node in 0..4 {
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        let ask = async |number| {
            let query = query_for(&format!("n{number}.node{node}.example"), RecordType::A);
            exchange(tier.address, &query).await
        };
        let mut number = 0;
        wait_until("the own zone is down", TIMEOUT, async || {
            number += 1;
            ask(number).await;
            let upstreams = tier.resolver.snapshot().unwrap().upstreams();
            upstreams.iter().any(|upstream| upstream.address == own.address && !upstream.healthy)
        })
        .await;
        // Each of the others has been queried by then, or is within the next seconds.
        wait_until("the nearest zone comes first", TIMEOUT, async || {
            near.clear_queries();
            for _ in 0..20 {
                number += 1;
                ask(number).await;
            }
            near.queries().len() >= 20
        })
        .await;
        [&far, &near, &middle].iter().for_each(|server| server.clear_queries());
        for _ in 0..20 {
            number += 1;
            ask(number).await;
        }
        let (near, middle, far) = (near.queries().len(), middle.queries().len(), far.queries().len());
        assert!(near >= 20 && far + middle <= near, "hedges at most: {near}, {middle} and {far}");
    }
}
