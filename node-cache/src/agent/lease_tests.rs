//! What a lease promises, once as stories and once against every order of events that a small node can produce.

use proptest::prelude::*;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A node where rules come into force at once and the kernel keeps time, with one address.
struct Reconciler {
    now: Instant,
    service: bool,
    lease: Lease,
    /// When the kernel takes the address away.
    gone_at: Option<Instant>,
    /// The switch as the kernel has it, and since when it is off.
    switched: bool,
    off_since: Instant,
    last_success: Option<Instant>,
    seen: LeaseInputs,
}

impl Reconciler {
    fn new(service: bool) -> Self {
        let now = Instant::now();
        let seen = LeaseInputs {
            wanted: true,
            listening: true,
            caches: true,
            served: true,
            names: true,
            ..LeaseInputs::default()
        };
        let lease = Lease::new(now, service);
        Self { now, service, lease, gone_at: None, switched: false, off_since: now, last_success: None, seen }
    }

    fn on_node(&self) -> bool {
        self.gone_at.is_some_and(|at| self.now < at)
    }

    fn apply_rules(&mut self) {
        let wanted = self.lease.wants_switch();
        if self.switched && !wanted {
            self.off_since = self.now;
        }
        self.switched = wanted;
    }

    /// Lets time pass and makes a step. A self-query is made if it is of use.
    fn step(&mut self, passed: Duration, answers: Option<bool>) -> Option<Effect> {
        self.now += passed;
        let answered = answers.filter(|_| self.lease.wants_answer()).map(|yes| yes && self.on_node());
        if answered == Some(true) {
            self.last_success = Some(self.now);
        }
        let left = self.gone_at.filter(|_| self.on_node()).map(|at| at - self.now);
        let seen = LeaseInputs { left, answered, switched: self.switched, ..self.seen };
        let effect = self.lease.step(self.now, &seen);
        self.check(&seen, effect);
        match effect {
            Some(Effect::Put) => self.gone_at = Some(self.now + self.lease.lifetime()),
            Some(Effect::Remove) => self.gone_at = None,
            None => {}
        }
        effect
    }

    /// What has to hold after every step.
    fn check(&self, seen: &LeaseInputs, effect: Option<Effect>) {
        if self.lease.wants_switch() {
            let age = self.last_success.map(|at| self.now - at).expect("the switch is on without any self-query");
            assert!(age < self.lease.lifetime(), "the switch is on {age:?} after the last self-query");
            assert!(seen.left.is_some(), "the switch is on without the address");
            assert!(seen.wanted && !seen.foreign, "the switch is on for an address that is not ours");
        }
        match effect {
            Some(Effect::Put) => {
                assert!(seen.wanted && !seen.foreign);
                let enters = seen.left.is_none() || seen.answered.is_none();
                assert!(seen.answered == Some(true) || (enters && seen.served && !seen.switched), "{seen:?}");
            }
            Some(Effect::Remove) => {
                assert!(!seen.switched, "the address goes before the switch");
                let off = self.now - self.off_since;
                assert!(off >= IN_FLIGHT, "the address goes {off:?} after the switch");
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
        assert!(node.lease.wants_switch() && node.switched && node.on_node());
        node
    }
}

#[test]
fn an_address_is_captured_in_the_order_rules_address_self_query_switch() {
    let mut node = Reconciler::new(true);
    node.seen.served = false;
    assert_eq!(node.step(ms(100), None), None, "no reply rules, no address");
    node.seen.served = true;
    assert_eq!(node.step(ms(100), None), Some(Effect::Put));
    assert!(node.lease.wants_answer() && !node.lease.wants_switch(), "no self-query, no switch");
    assert_eq!(node.step(ms(100), Some(false)), None);
    assert!(!node.lease.wants_switch());
    assert_eq!(node.step(ms(100), Some(true)), Some(Effect::Put));
    assert!(node.lease.wants_switch());
}

#[test]
fn nothing_is_put_on_the_node_while_something_is_missing() {
    type Missing = (&'static str, fn(&mut LeaseInputs));
    let missing: [Missing; 5] = [
        ("wanted", |seen| seen.wanted = false),
        ("sockets", |seen| seen.listening = false),
        ("caches", |seen| seen.caches = false),
        ("rules", |seen| seen.served = false),
        ("an address nobody else has", |seen| seen.foreign = true),
    ];
    for (what, take_away) in missing {
        let mut node = Reconciler::new(true);
        take_away(&mut node.seen);
        node.run(100, ms(200), true);
        assert!(!node.lease.holds(), "without {what}");
    }
}

#[test]
fn each_success_renews_the_lease_and_nothing_else_does() {
    let mut node = Reconciler::captured(true);
    assert_eq!(node.step(ms(1000), Some(true)), Some(Effect::Put));
    assert_eq!(node.step(ms(500), None), None);
    assert_eq!(node.step(ms(500), Some(false)), None);
    assert!(node.lease.wants_switch(), "one loss may be an accident");
    assert_eq!(node.step(ms(1000), Some(true)), Some(Effect::Put));
    assert_eq!(node.step(ms(1000), Some(false)), None);
    assert!(node.lease.wants_switch(), "the successes between them count");
}

#[test]
fn two_failures_turn_the_switch_off_and_the_address_goes_with_its_lease() {
    let mut node = Reconciler::captured(true);
    node.run(1, ms(1000), false);
    node.run(1, ms(1000), false);
    assert!(!node.switched && node.on_node());
    node.run(16, ms(200), false);
    assert!(!node.on_node() && !node.lease.holds());
    node.run(40, ms(200), false);
    assert!(!node.switched, "it is tried again and again, with the switch off");
}

#[test]
fn an_address_that_nobody_else_serves_outlasts_an_agent_that_is_slow_to_come_back() {
    for (service, there) in [(true, false), (false, true)] {
        let mut node = Reconciler::captured(service);
        node.now += ms(45_000);
        assert_eq!(node.on_node(), there, "45 s after the agent died, service: {service}");
    }
}

#[test]
fn a_node_whose_caches_are_all_gone_gives_way_at_once() {
    let mut node = Reconciler::captured(true);
    node.seen.caches = false;
    node.step(ms(10), None);
    assert!(!node.lease.wants_switch());
}

#[test]
fn an_address_that_was_lost_comes_back_only_after_several_answers() {
    let mut node = Reconciler::captured(true);
    node.run(2, ms(1000), false);
    node.run(2, ms(200), true);
    assert!(!node.switched);
    node.run(1, ms(200), false);
    node.run(2, ms(200), true);
    assert!(!node.switched, "they have to come one after the other");
    node.run(1, ms(200), true);
    assert!(node.switched);
}

#[test]
fn an_agent_that_stood_still_begins_again_in_order() {
    let mut node = Reconciler::captured(true);
    assert_eq!(node.step(ms(7000), Some(true)), None);
    assert!(!node.lease.wants_switch() && !node.on_node());
    assert_eq!(node.step(ms(10), None), None, "the switch is still on in the kernel");
    node.apply_rules();
    assert_eq!(node.step(ms(10), None), Some(Effect::Put));
    node.run(1, ms(200), true);
    assert!(node.switched);
}

#[test]
fn to_leave_is_switch_then_patience_then_address() {
    let mut node = Reconciler::captured(true);
    node.seen.wanted = false;
    assert_eq!(node.step(ms(10), None), None);
    assert!(!node.lease.wants_switch());
    assert_eq!(node.step(ms(600), None), None, "the switch is still on in the kernel");
    node.apply_rules();
    assert_eq!(node.step(ms(10), None), None);
    assert_eq!(node.step(ms(499), None), None);
    assert_eq!(node.step(ms(1), None), Some(Effect::Remove));
    assert!(!node.lease.holds());
}

#[test]
fn an_address_that_somebody_else_brings_is_given_up() {
    let mut node = Reconciler::captured(true);
    node.seen.foreign = true;
    node.run(8, ms(100), true);
    assert!(!node.switched && !node.on_node() && !node.lease.holds());
    node.seen.foreign = false;
    node.run(3, ms(200), true);
    assert!(node.switched);
}

#[test]
fn a_first_capture_waits_for_names_and_for_ever_only_where_a_service_answers() {
    for (service, captured) in [(true, false), (false, true)] {
        let mut node = Reconciler::new(service);
        node.seen.names = false;
        node.run(45, ms(200), true);
        assert!(!node.switched && node.lease.waits_for_names(false));
        node.run(15, ms(200), true);
        assert_eq!(node.switched, captured, "after ten seconds, service: {service}");
        node.seen.names = true;
        node.run(1, ms(200), true);
        assert!(node.switched);
        // Names do not matter any more: an upstream that dies later withdraws nothing.
        node.seen.names = false;
        node.run(2, ms(1000), false);
        node.run(4, ms(200), true);
        assert!(node.switched);
    }
}

#[test]
fn a_restarted_agent_goes_on_where_the_one_before_it_stopped() {
    let mut node = Reconciler::captured(true);
    node.now += ms(1500);
    let left = node.gone_at.unwrap() - node.now;
    node.lease = Lease::taken_over(node.now, true, left, node.switched);
    assert!(node.lease.wants_switch(), "the switch is never off");
    assert_eq!(node.step(ms(300), Some(true)), Some(Effect::Put));
    assert!(node.lease.wants_switch());

    let mut silent = Reconciler::captured(true);
    silent.lease = Lease::taken_over(silent.now, true, ms(3000), true);
    silent.gone_at = Some(silent.now + ms(3000));
    silent.run(2, ms(1000), false);
    assert!(!silent.switched, "what was taken over has to answer as well");
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Step { passed: u64, answers: Option<bool> },
    RulesApplied,
    Wanted(bool),
    Foreign(bool),
    Listening(bool),
    Caches(bool),
    Served(bool),
    Names(bool),
    Removed,
    Restarted,
}

fn event() -> impl Strategy<Value = Event> {
    let passed = prop_oneof![0..300_u64, 900..1100_u64, 4000..9000_u64];
    prop_oneof![
        20 => (passed, prop_oneof![Just(Some(true)), Just(Some(true)), Just(Some(false)), Just(None)])
            .prop_map(|(passed, answers)| Event::Step { passed, answers }),
        10 => Just(Event::RulesApplied),
        1 => any::<bool>().prop_map(Event::Wanted),
        1 => any::<bool>().prop_map(Event::Foreign),
        1 => any::<bool>().prop_map(Event::Listening),
        1 => any::<bool>().prop_map(Event::Caches),
        1 => any::<bool>().prop_map(Event::Served),
        1 => any::<bool>().prop_map(Event::Names),
        1 => Just(Event::Removed),
        1 => Just(Event::Restarted),
    ]
}

fn happen(node: &mut Reconciler, event: Event) {
    match event {
        Event::Step { passed, answers } => {
            node.step(ms(passed), answers);
        }
        Event::RulesApplied => node.apply_rules(),
        Event::Wanted(yes) => node.seen.wanted = yes,
        Event::Foreign(yes) => node.seen.foreign = yes,
        Event::Listening(yes) => node.seen.listening = yes,
        Event::Caches(yes) => node.seen.caches = yes,
        Event::Served(yes) => node.seen.served = yes,
        Event::Names(yes) => node.seen.names = yes,
        Event::Removed => node.gone_at = None,
        Event::Restarted => {
            let left = node.gone_at.filter(|_| node.on_node()).map(|at| at - node.now);
            node.lease = match left {
                Some(left) => Lease::taken_over(node.now, node.service, left, node.switched),
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
        let mut node = Reconciler::new(service);
        for event in events {
            happen(&mut node, event);
        }
        node.seen = LeaseInputs { wanted: true, listening: true, caches: true, served: true, names: true, ..LeaseInputs::default() };
        node.run(60, ms(200), true);
        prop_assert!(node.switched && node.on_node(), "good conditions end in a capture");
        node.seen.wanted = false;
        node.run(10, ms(200), true);
        prop_assert!(!node.switched && !node.on_node() && !node.lease.holds(), "an address can always be withdrawn");
    }
}
