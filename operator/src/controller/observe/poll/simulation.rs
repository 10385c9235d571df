//! Simulations of the schedule: clusters of many pods, of which some do not answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::schedule::{Class, Schedule, Standing, takes_no_longer};

/// Time in which a pod answers, in milliseconds.
const LATENCY: u64 = 20;
/// Time after which a poll without an answer is given up.
const TIMEOUT: u64 = 2_000;

/// Pods that are polled, by number, at a time in milliseconds.
struct Cluster {
    schedule: Schedule<u32, ()>,
    now: u64,
    pods: BTreeMap<u32, Pod>,
    /// Polls in flight by the time at which they end.
    in_flight: BTreeSet<(u64, u32)>,
    /// Starts of polls within the last second.
    last_second: VecDeque<u64>,
    most_in_a_second: usize,
    most_in_flight: usize,
    /// Times at which the polls of each pod began.
    polls: BTreeMap<u32, Vec<u64>>,
}

#[derive(Clone, Copy)]
struct Pod {
    role: Class,
    /// Whether canaries are compared with the pod.
    is_compared: bool,
    is_dark: bool,
    /// Whether the pod refuses its revision.
    refuses: bool,
    asked: u32,
    in_force: Option<u32>,
}

impl Pod {
    fn new(role: Class) -> Self {
        Self { role, is_compared: false, is_dark: false, refuses: false, asked: 1, in_force: None }
    }

    fn running(role: Class) -> Self {
        Self { in_force: Some(1), ..Self::new(role) }
    }

    fn standing(&self) -> Standing {
        let is_behind = self.in_force != Some(self.asked);
        Standing { role: self.role, is_compared: self.is_compared, is_behind, asked: self.asked }
    }
}

impl Cluster {
    fn new(pods: impl IntoIterator<Item = Pod>) -> Self {
        Self::with_interval(Duration::from_secs(5), pods)
    }

    fn with_interval(interval: Duration, pods: impl IntoIterator<Item = Pod>) -> Self {
        let mut cluster = Self {
            schedule: Schedule::new(interval),
            now: 0,
            pods: (0..).zip(pods).collect(),
            in_flight: BTreeSet::new(),
            last_second: VecDeque::new(),
            most_in_a_second: 0,
            most_in_flight: 0,
            polls: BTreeMap::new(),
        };
        cluster.put_all();
        cluster
    }

    /// Tells the schedule of all pods, as the poller does each second.
    fn put_all(&mut self) {
        for (number, pod) in &self.pods {
            self.schedule.put(*number, (), pod.standing(), self.now);
        }
    }

    fn change(&mut self, numbers: impl IntoIterator<Item = u32>, change: impl Fn(&mut Pod)) {
        for number in numbers {
            change(self.pods.get_mut(&number).unwrap());
        }
        self.put_all();
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + 1_000 * seconds;
        while self.now < end {
            let next_second = (self.now / 1_000 + 1) * 1_000;
            while let Some((number, ())) = self.schedule.start(self.now) {
                self.record_start(number);
                let time = if self.pods[&number].is_dark { TIMEOUT } else { LATENCY };
                self.in_flight.insert((self.now + time, number));
                self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
            }
            let next_end = self.in_flight.first().map_or(u64::MAX, |(end, _)| *end);
            let next_start = self.schedule.next_start(self.now).unwrap_or(u64::MAX).max(self.now + 1);
            self.now = next_end.min(next_start).min(next_second);
            while let Some((end, number)) = self.in_flight.pop_first() {
                if end > self.now {
                    self.in_flight.insert((end, number));
                    break;
                }
                let pod = self.pods.get_mut(&number).unwrap();
                if !pod.is_dark && !pod.refuses {
                    pod.in_force = Some(pod.asked);
                }
                let pod = *pod;
                self.schedule.finish(number, !pod.is_dark, pod.standing(), self.now);
            }
            if self.now == next_second {
                self.put_all();
            }
        }
    }

    fn record_start(&mut self, number: u32) {
        self.last_second.push_back(self.now);
        while self.last_second.front().is_some_and(|start| start + 1_000 <= self.now) {
            self.last_second.pop_front();
        }
        self.most_in_a_second = self.most_in_a_second.max(self.last_second.len());
        self.polls.entry(number).or_default().push(self.now);
    }

    /// Returns the longest time without a poll of a pod since `from`, in seconds.
    fn longest_gap(&self, number: u32, from: u64) -> f64 {
        let polls = self.polls.get(&number).into_iter().flatten().copied().filter(|time| *time >= from);
        let times: Vec<u64> = [from].into_iter().chain(polls).chain([self.now]).collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default() as f64 / 1_000.0
    }

    fn polls_of(&self, number: u32, from: u64) -> usize {
        self.polls.get(&number).into_iter().flatten().filter(|time| **time >= from).count()
    }
}

/// Three canaries, 30 pods that are behind, 60 resolvers, and 4,907 others.
fn large_cluster() -> Cluster {
    let others = (0..4_907).map(|_| Pod::running(Class::Rotation));
    let canaries = [Pod::running(Class::Canary); 3].into_iter();
    let behind = (0..30).map(|_| Pod { refuses: true, ..Pod::new(Class::Rotation) });
    Cluster::new(canaries.chain(behind).chain((0..60).map(|_| Pod::running(Class::Control))).chain(others))
}

#[test]
fn no_figure_of_a_canary_is_older_than_three_seconds_while_a_third_of_5000_nodes_is_dark() {
    let mut cluster = large_cluster();
    cluster.run(90);
    let (from, others) = (cluster.now, 93..5_000);
    cluster.change(others.clone().step_by(3), |pod| pod.is_dark = true);
    // Pods that are behind are asked another revision each minute, so that they stay so.
    for asked in 2..7 {
        cluster.change(3..33, |pod| pod.asked = asked);
        let behind_from = cluster.now;
        cluster.run(50);
        for number in 3..33 {
            assert!(cluster.longest_gap(number, behind_from) < 3.0, "{number} is behind");
        }
        for number in 0..3 {
            let ages = cluster.schedule.ages(cluster.now);
            assert!(ages.by_class[Class::Canary as usize] <= 3_000, "{ages:?}");
            assert!(cluster.longest_gap(number, from) <= 3.0, "canary {number}");
        }
        for number in 33..93 {
            assert!(cluster.longest_gap(number, from) < 8.0, "control {number}");
        }
    }
    assert!(cluster.most_in_a_second <= 100, "{}", cluster.most_in_a_second);
    let gap = others.clone().filter(|number| number % 3 != 0).map(|number| cluster.longest_gap(number, from));
    let longest = gap.fold(0.0, f64::max);
    assert!(longest < 150.0, "the longest rotation takes {longest} s");
    let since = cluster.now;
    cluster.run(300);
    let most = others.step_by(3).map(|number| cluster.polls_of(number, since)).max().unwrap();
    assert!(most <= 5, "{most} polls of a dark pod in 300 s");
}

#[test]
fn pods_that_do_not_answer_take_their_own_slots_alone() {
    let dark = |role| Pod { is_dark: true, ..Pod::new(role) };
    let mut cluster = Cluster::new((0..4_000).map(|_| dark(Class::Rotation)));
    cluster.run(1);
    let canaries = (4_000..4_003).map(|number| (number, Pod::running(Class::Canary)));
    let others = (4_003..5_000).map(|number| (number, Pod { in_force: Some(1), ..dark(Class::Rotation) }));
    cluster.pods.extend(canaries.chain(others));
    cluster.put_all();
    let from = cluster.now;
    for _ in 0..120 {
        cluster.run(1);
        let ages = cluster.schedule.ages(cluster.now);
        assert!(ages.by_class[Class::Canary as usize] <= 3_000, "{ages:?}");
    }
    assert!((4_000..4_003).all(|number| cluster.longest_gap(number, from) <= 3.0));
    assert!((60..=32 + 48 + 3).contains(&cluster.most_in_flight), "{} in flight", cluster.most_in_flight);
}

#[test]
fn the_rotation_of_5000_pods_takes_a_minute() {
    let canaries = [Pod::running(Class::Canary); 3].into_iter();
    let controls = (0..60).map(|_| Pod::running(Class::Control));
    let others = (0..4_937).map(|_| Pod::running(Class::Rotation));
    let mut cluster = Cluster::new(canaries.chain(controls).chain(others));
    cluster.run(70);
    assert_eq!(cluster.polls.len(), 5_000);
    let from = cluster.now;
    cluster.run(130);
    let longest = (63..5_000).map(|number| cluster.longest_gap(number, from)).fold(0.0, f64::max);
    assert!(longest < 65.0, "{longest}");
    let polls: usize = (0..5_000).map(|number| cluster.polls_of(number, from)).sum();
    assert!((90 * 130..=96 * 130).contains(&polls), "{polls}");
}

#[test]
fn a_start_with_5000_pods_leaves_none_of_them_for_minutes() {
    // Each is behind until its first poll.
    let mut cluster = Cluster::new((0..5_000).map(|_| Pod::new(Class::Rotation)));
    cluster.run(60);
    assert_eq!(cluster.polls.len(), 5_000);
    let from = cluster.now;
    cluster.run(130);
    let longest = (0..5_000).map(|number| cluster.longest_gap(number, from)).fold(0.0, f64::max);
    assert!(longest < 65.0, "{longest}");
}

#[test]
fn a_first_round_of_5000_pods_is_known_to_take_longer_than_that_of_400() {
    let seconds = Duration::from_secs;
    assert!(takes_no_longer(400, seconds(5)) && !takes_no_longer(5_000, seconds(5)));
    assert!(takes_no_longer(5_000, seconds(60)));
}

#[test]
fn a_small_tier_is_polled_at_the_interval_and_pods_that_are_behind_each_second() {
    let mut cluster = Cluster::new((0..50).map(|_| Pod::running(Class::Rotation)));
    cluster.run(60);
    assert!((0..50).all(|number| (12..=13).contains(&cluster.polls_of(number, 0))));
    let from = cluster.now;
    cluster.change(0..10, |pod| (pod.asked, pod.refuses) = (2, true));
    cluster.run(20);
    assert!((0..10).all(|number| cluster.polls_of(number, from) >= 19));
    assert!((10..50).all(|number| cluster.polls_of(number, from) <= 5));
}

#[test]
fn a_long_interval_is_that_of_pods_at_rest_and_not_of_those_with_which_canaries_are_compared() {
    let resolver = Pod::running(Class::Control);
    let pods = [Pod { is_compared: true, ..resolver }, resolver, Pod::running(Class::Rotation)];
    let mut cluster = Cluster::with_interval(Duration::from_secs(60), pods);
    cluster.run(60);
    let polls: Vec<usize> = (0..3).map(|number| cluster.polls_of(number, 0)).collect();
    assert!((12..=13).contains(&polls[0]) && polls[1..].iter().all(|polls| (1..=2).contains(polls)), "{polls:?}");
    // Half a minute of the past of those that become controls has several polls.
    let from = cluster.now;
    cluster.change(1..3, |pod| (pod.role, pod.is_compared) = (Class::Control, true));
    cluster.run(30);
    for number in 1..3 {
        assert!(cluster.polls_of(number, from) >= 5, "{number}: {:?}", cluster.polls);
    }
    let mut cluster = Cluster::with_interval(Duration::from_secs(2), pods);
    cluster.run(60);
    assert!((0..3).all(|number| (30..=31).contains(&cluster.polls_of(number, 0))), "{:?}", cluster.polls);
}

#[test]
fn a_pod_that_refuses_its_revision_is_slow_after_a_minute_and_keeps_no_other_fast() {
    let mut cluster = Cluster::new((0..20).map(|_| Pod::running(Class::Rotation)));
    cluster.change([0], |pod| (pod.asked, pod.refuses) = (2, true));
    cluster.run(65);
    assert!((58..=63).contains(&cluster.polls_of(0, 0)), "{}", cluster.polls_of(0, 0));
    assert!((1..20).all(|number| cluster.polls_of(number, 0) <= 14));
    let from = cluster.now;
    cluster.run(60);
    assert!(cluster.polls_of(0, from) <= 13, "{}", cluster.polls_of(0, from));
    let from = cluster.now;
    cluster.change([0], |pod| pod.asked = 3);
    cluster.run(10);
    assert!(cluster.polls_of(0, from) >= 9, "another revision is another minute");
}

#[test]
fn a_storm_of_new_pods_takes_no_poll_from_canaries_and_controls_and_some_from_the_others() {
    let mut cluster = large_cluster();
    cluster.run(90);
    let from = cluster.now;
    let new = (10_000..15_000).map(|number| (number, Pod { refuses: true, ..Pod::new(Class::Rotation) }));
    cluster.pods.extend(new);
    cluster.put_all();
    cluster.run(55);
    assert!(cluster.most_in_a_second <= 100, "{}", cluster.most_in_a_second);
    assert!((0..3).all(|number| cluster.longest_gap(number, from) <= 3.0));
    assert!((33..93).all(|number| cluster.longest_gap(number, from) < 8.0));
    let others: usize = (93..5_000).map(|number| cluster.polls_of(number, from)).sum();
    assert!(others >= 55 * 8, "{others} polls of the rotation");
    cluster.run(30);
    let polled = (10_000..15_000).filter(|number| cluster.polls_of(*number, from) > 0).count();
    assert_eq!(polled, 5_000);
}

#[test]
fn more_controls_than_polls_starve_no_other_class() {
    let controls = (0..3_000).map(|_| Pod::running(Class::Control));
    let others = (0..1_000).map(|_| Pod::running(Class::Rotation));
    let mut cluster = Cluster::new(controls.chain(others).chain([Pod::running(Class::Canary)]));
    cluster.run(120);
    cluster.change(3_000..3_020, |pod| (pod.asked, pod.refuses) = (2, true));
    let from = cluster.now;
    cluster.run(50);
    assert!(cluster.longest_gap(4_000, from) <= 3.0);
    assert!((3_000..3_020).all(|number| cluster.longest_gap(number, from) < 3.0), "pods that are behind");
    let others: usize = (3_020..4_000).map(|number| cluster.polls_of(number, from)).sum();
    assert!(others >= 50 * 8, "{others} polls of the rotation");
}

#[test]
fn a_pod_that_does_not_answer_is_polled_less_and_less_and_fast_again_once_it_does() {
    let mut cluster = Cluster::new([Pod { is_dark: true, ..Pod::new(Class::Rotation) }]);
    cluster.run(120);
    let starts: Vec<u64> = cluster.polls[&0].iter().map(|time| time / 1_000).collect();
    assert_eq!(starts, [0, 2, 4, 8, 16, 32, 64], "it was expected to be in force at first");
    cluster.change([0], |pod| (pod.is_dark, pod.in_force) = (false, Some(1)));
    let from = cluster.now;
    cluster.run(90);
    assert!(cluster.polls_of(0, from) >= 5, "{:?}", cluster.polls);
}

#[test]
fn a_silent_pod_to_which_something_happens_is_polled_soon() {
    let mut cluster = Cluster::new([Pod { is_dark: true, ..Pod::running(Class::Rotation) }]);
    cluster.run(200);
    let from = cluster.now;
    cluster.schedule.hasten(0, from);
    cluster.run(10);
    assert_eq!(cluster.polls_of(0, from), 1);
    cluster.run(40);
    assert_eq!(cluster.polls_of(0, from), 1, "still silent");
}

#[test]
fn a_pod_that_is_gone_is_not_polled_and_frees_its_slot() {
    let mut cluster = Cluster::new([Pod { is_dark: true, ..Pod::new(Class::Rotation) }; 200]);
    cluster.run(1);
    assert!(!cluster.in_flight.is_empty());
    cluster.pods.clear();
    cluster.in_flight.clear();
    cluster.schedule.retain(|_| false);
    cluster.pods = (500..520).map(|number| (number, Pod::running(Class::Rotation))).collect();
    cluster.put_all();
    let from = cluster.now;
    cluster.run(5);
    assert!((500..520).all(|number| cluster.polls_of(number, from) > 0));
}
