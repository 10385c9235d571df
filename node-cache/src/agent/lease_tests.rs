//! Promises of a lease, as scenarios and against random orders of events on a simulated node.

use proptest::prelude::*;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Simulated node with one address: rules are installed at once, and the kernel ends lifetimes.
struct Node {
    now: Instant,
    service: bool,
    lease: Lease,
    /// Time at which the kernel removes the address.
    expires_at: Option<Instant>,
    /// Whether the kernel has the redirect rule.
    redirected: bool,
    /// Time since which it has not.
    removed_since: Instant,
    last_success: Option<Instant>,
    inputs: LeaseInputs,
}

impl Node {
    fn new(service: bool) -> Self {
        let now = Instant::now();
        let inputs = LeaseInputs {
            desired: true,
            listening: true,
            cache_connected: true,
            served: true,
            has_ways_out: true,
            ..LeaseInputs::default()
        };
        let lease = Lease::new(now, service);
        Self {
            now,
            service,
            lease,
            expires_at: None,
            redirected: false,
            removed_since: now,
            last_success: None,
            inputs,
        }
    }

    fn on_node(&self) -> bool {
        self.expires_at.is_some_and(|at| self.now < at)
    }

    fn apply_rules(&mut self) {
        let desired = self.lease.wants_redirect();
        if self.redirected && !desired {
            self.removed_since = self.now;
        }
        self.redirected = desired;
    }

    /// Advances the time and makes a step, with the result of a self-query where the lease wants one.
    fn step(&mut self, passed: Duration, answers: Option<bool>) -> Option<Effect> {
        self.now += passed;
        let answered = answers.filter(|_| self.lease.wants_self_query()).map(|yes| yes && self.on_node());
        if answered == Some(true) {
            self.last_success = Some(self.now);
        }
        let remaining = self.expires_at.filter(|_| self.on_node()).map(|at| at - self.now);
        let inputs = LeaseInputs { remaining, answered, redirected: self.redirected, ..self.inputs };
        let effect = self.lease.step(self.now, &inputs);
        self.check(&inputs, effect);
        match effect {
            Some(Effect::Put) => self.expires_at = Some(self.now + self.lease.lifetime()),
            Some(Effect::Remove) => self.expires_at = None,
            None => {}
        }
        effect
    }

    /// Asserts what has to hold after every step.
    fn check(&self, inputs: &LeaseInputs, effect: Option<Effect>) {
        if self.lease.wants_redirect() {
            let age = self
                .last_success
                .map(|at| self.now - at)
                .expect("the redirect rule is installed without any self-query");
            assert!(age < self.lease.lifetime(), "the redirect rule is installed {age:?} after the last self-query");
            assert!(inputs.remaining.is_some(), "the redirect rule is installed without the address");
            assert!(
                inputs.desired && !inputs.foreign,
                "the redirect rule is installed for an address that is not ours"
            );
        }
        match effect {
            Some(Effect::Put) => {
                assert!(inputs.desired && !inputs.foreign);
                let is_added = inputs.remaining.is_none() || inputs.answered.is_none();
                assert!(
                    inputs.answered == Some(true) || (is_added && inputs.served && !inputs.redirected),
                    "{inputs:?}"
                );
            }
            Some(Effect::Remove) => {
                assert!(!inputs.redirected, "the address goes before the redirect rule");
                let removed_for = self.now - self.removed_since;
                assert!(removed_for >= IN_FLIGHT, "the address goes {removed_for:?} after the redirect rule");
            }
            None => {}
        }
    }

    fn run(&mut self, steps: u32, period: Duration, answers: bool) {
        for _ in 0..steps {
            self.step(period, Some(answers));
            self.apply_rules();
        }
    }

    fn captured(service: bool) -> Self {
        let mut node = Self::new(service);
        node.run(3, ms(200), true);
        assert!(node.lease.wants_redirect() && node.redirected && node.on_node());
        node
    }
}

#[test]
fn an_address_is_captured_in_the_order_rules_address_self_query_switch() {
    let mut node = Node::new(true);
    node.inputs.served = false;
    assert_eq!(node.step(ms(100), None), None, "no reply rules, no address");
    node.inputs.served = true;
    assert_eq!(node.step(ms(100), None), Some(Effect::Put));
    assert!(node.lease.wants_self_query() && !node.lease.wants_redirect(), "no self-query, no redirect rule");
    assert_eq!(node.step(ms(100), Some(false)), None);
    assert!(!node.lease.wants_redirect());
    assert_eq!(node.step(ms(100), Some(true)), Some(Effect::Put));
    assert!(node.lease.wants_redirect());
}

#[test]
fn nothing_is_put_on_the_node_while_something_is_missing() {
    type Missing = (&'static str, fn(&mut LeaseInputs));
    let missing: [Missing; 5] = [
        ("wanted", |inputs| inputs.desired = false),
        ("sockets", |inputs| inputs.listening = false),
        ("caches", |inputs| inputs.cache_connected = false),
        ("rules", |inputs| inputs.served = false),
        ("an address nobody else has", |inputs| inputs.foreign = true),
    ];
    for (input, remove) in missing {
        let mut node = Node::new(true);
        remove(&mut node.inputs);
        node.run(100, ms(200), true);
        assert!(!node.lease.holds(), "without {input}");
    }
}

#[test]
fn each_success_renews_the_lease_and_nothing_else_does() {
    let mut node = Node::captured(true);
    assert_eq!(node.step(ms(1000), Some(true)), Some(Effect::Put));
    assert_eq!(node.step(ms(500), None), None);
    assert_eq!(node.step(ms(500), Some(false)), None);
    assert!(node.lease.wants_redirect(), "one loss may be an accident");
    assert_eq!(node.step(ms(1000), Some(true)), Some(Effect::Put));
    assert_eq!(node.step(ms(1000), Some(false)), None);
    assert!(node.lease.wants_redirect(), "the successes between them count");
}

#[test]
fn two_failures_turn_the_switch_off_and_the_address_goes_with_its_lease() {
    let mut node = Node::captured(true);
    node.run(1, ms(1000), false);
    node.run(1, ms(1000), false);
    assert!(!node.redirected && node.on_node());
    node.run(16, ms(200), false);
    assert!(!node.on_node() && !node.lease.holds());
    node.run(40, ms(200), false);
    assert!(!node.redirected, "it is tried again and again, without the redirect rule");
}

#[test]
fn an_address_that_nobody_else_serves_outlasts_an_agent_that_is_slow_to_come_back() {
    for (service, is_there) in [(true, false), (false, true)] {
        let mut node = Node::captured(service);
        node.now += ms(45_000);
        assert_eq!(node.on_node(), is_there, "45 s after the agent died, service: {service}");
    }
}

#[test]
fn a_node_whose_caches_are_all_gone_gives_way_at_once() {
    let mut node = Node::captured(true);
    node.inputs.cache_connected = false;
    node.step(ms(10), None);
    assert!(!node.lease.wants_redirect());
}

#[test]
fn an_address_that_was_lost_comes_back_only_after_several_answers() {
    let mut node = Node::captured(true);
    node.run(2, ms(1000), false);
    node.run(2, ms(200), true);
    assert!(!node.redirected);
    node.run(1, ms(200), false);
    node.run(2, ms(200), true);
    assert!(!node.redirected, "they have to come one after the other");
    node.run(1, ms(200), true);
    assert!(node.redirected);
}

#[test]
fn an_agent_that_stood_still_begins_again_in_order() {
    let mut node = Node::captured(true);
    assert_eq!(node.step(ms(7000), Some(true)), None);
    assert!(!node.lease.wants_redirect() && !node.on_node());
    assert_eq!(node.step(ms(10), None), None, "the redirect rule is still in the kernel");
    node.apply_rules();
    assert_eq!(node.step(ms(10), None), Some(Effect::Put));
    node.run(1, ms(200), true);
    assert!(node.redirected);
}

#[test]
fn to_leave_is_switch_then_patience_then_address() {
    let mut node = Node::captured(true);
    node.inputs.desired = false;
    assert_eq!(node.step(ms(10), None), None);
    assert!(!node.lease.wants_redirect());
    assert_eq!(node.step(ms(600), None), None, "the redirect rule is still in the kernel");
    node.apply_rules();
    assert_eq!(node.step(ms(10), None), None);
    assert_eq!(node.step(ms(499), None), None);
    assert_eq!(node.step(ms(1), None), Some(Effect::Remove));
    assert!(!node.lease.holds());
}

#[test]
fn an_address_that_somebody_else_brings_is_given_up() {
    let mut node = Node::captured(true);
    node.inputs.foreign = true;
    node.run(8, ms(100), true);
    assert!(!node.redirected && !node.on_node() && !node.lease.holds());
    node.inputs.foreign = false;
    node.run(3, ms(200), true);
    assert!(node.redirected);
}

#[test]
fn a_first_capture_waits_for_ways_out_and_for_ever_only_where_a_service_answers() {
    for (service, captured) in [(true, false), (false, true)] {
        let mut node = Node::new(service);
        node.inputs.has_ways_out = false;
        node.run(45, ms(200), true);
        assert!(!node.redirected && node.lease.waits_for_ways_out(false));
        node.run(15, ms(200), true);
        assert_eq!(node.redirected, captured, "after ten seconds, service: {service}");
        node.inputs.has_ways_out = true;
        node.run(1, ms(200), true);
        assert!(node.redirected);
        // Ways out do not matter any more: an upstream that dies later withdraws nothing.
        node.inputs.has_ways_out = false;
        node.run(2, ms(1000), false);
        node.run(4, ms(200), true);
        assert!(node.redirected);
    }
}

#[test]
fn a_restarted_agent_goes_on_where_the_one_before_it_stopped() {
    let mut node = Node::captured(true);
    node.now += ms(1500);
    let remaining = node.expires_at.unwrap() - node.now;
    node.lease = Lease::adopted(node.now, true, remaining, node.redirected);
    assert!(node.lease.wants_redirect(), "the redirect rule stays");
    assert_eq!(node.step(ms(300), Some(true)), Some(Effect::Put));
    assert!(node.lease.wants_redirect());

    let mut silent = Node::captured(true);
    silent.lease = Lease::adopted(silent.now, true, ms(3000), true);
    silent.expires_at = Some(silent.now + ms(3000));
    silent.run(2, ms(1000), false);
    assert!(!silent.redirected, "what was taken over has to answer as well");
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Step { passed: u64, answers: Option<bool> },
    RulesApplied,
    Desired(bool),
    Foreign(bool),
    Listening(bool),
    Caches(bool),
    Served(bool),
    WaysOut(bool),
    Removed,
    Restarted,
}

fn event() -> impl Strategy<Value = Event> {
    let passed = prop_oneof![0..300_u64, 900..1100_u64, 4000..9000_u64];
    prop_oneof![
        20 => (passed, prop_oneof![Just(Some(true)), Just(Some(true)), Just(Some(false)), Just(None)])
            .prop_map(|(passed, answers)| Event::Step { passed, answers }),
        10 => Just(Event::RulesApplied),
        1 => any::<bool>().prop_map(Event::Desired),
        1 => any::<bool>().prop_map(Event::Foreign),
        1 => any::<bool>().prop_map(Event::Listening),
        1 => any::<bool>().prop_map(Event::Caches),
        1 => any::<bool>().prop_map(Event::Served),
        1 => any::<bool>().prop_map(Event::WaysOut),
        1 => Just(Event::Removed),
        1 => Just(Event::Restarted),
    ]
}

fn apply_event(node: &mut Node, event: Event) {
    match event {
        Event::Step { passed, answers } => {
            node.step(ms(passed), answers);
        }
        Event::RulesApplied => node.apply_rules(),
        Event::Desired(yes) => node.inputs.desired = yes,
        Event::Foreign(yes) => node.inputs.foreign = yes,
        Event::Listening(yes) => node.inputs.listening = yes,
        Event::Caches(yes) => node.inputs.cache_connected = yes,
        Event::Served(yes) => node.inputs.served = yes,
        Event::WaysOut(yes) => node.inputs.has_ways_out = yes,
        Event::Removed => node.expires_at = None,
        Event::Restarted => {
            let remaining = node.expires_at.filter(|_| node.on_node()).map(|at| at - node.now);
            node.lease = match remaining {
                Some(remaining) => Lease::adopted(node.now, node.service, remaining, node.redirected),
                None => Lease::new(node.now, node.service),
            };
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_promise_and_every_one_can_be_recovered_from(
        events in prop::collection::vec(event(), 0..120),
        service: bool,
    ) {
        let mut node = Node::new(service);
        for event in events {
            apply_event(&mut node, event);
        }
        node.inputs = LeaseInputs {
            desired: true,
            listening: true,
            cache_connected: true,
            served: true,
            has_ways_out: true,
            ..LeaseInputs::default()
        };
        node.run(60, ms(200), true);
        prop_assert!(node.redirected && node.on_node(), "good conditions end in a capture");
        node.inputs.desired = false;
        node.run(10, ms(200), true);
        prop_assert!(!node.redirected && !node.on_node() && !node.lease.holds(), "an address can always be withdrawn");
    }
}
