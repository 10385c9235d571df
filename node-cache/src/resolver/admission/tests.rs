use std::time::Duration;

use super::*;

const CLUSTER: u64 = 1;
const OUTSIDE: u64 = 2;

/// Queries in flight, and the time.
#[derive(Default)]
struct Flights {
    admission: Admission,
    places: Vec<Place>,
}

impl Flights {
    /// Creates the flights of a zone resolver with one scope.
    fn of_zone_resolver() -> Self {
        let (room, _) = Room::of_zone_resolver(256 << 20);
        let mut admission = Admission::new(room.in_flight);
        admission.set_scopes(1);
        Self { admission, places: Vec::new() }
    }

    fn admit(&mut self, origin: FlightOrigin) -> bool {
        let place = self.admission.admit(self.places.len(), || origin);
        let is_admitted = place.is_ok();
        self.places.extend(place);
        is_admitted
    }

    /// Admits queries in turns of these origins until all are refused. Returns the number of admitted ones.
    fn fill(&mut self, mut origins: impl FnMut(usize) -> Vec<FlightOrigin>) -> usize {
        let before = self.places.len();
        for turn in 0.. {
            let at_start = self.places.len();
            for origin in origins(turn) {
                self.admit(origin);
            }
            if self.places.len() == at_start {
                break;
            }
        }
        self.places.len() - before
    }

    fn release(&mut self, places: usize, end: FlightEnd, now: Instant) {
        for place in self.places.drain(..places) {
            if let Place::Shared(shares) = place {
                self.admission.release(&shares, end, now);
            }
        }
    }
}

fn origin(scope: u64, domain: &str, client: u8) -> FlightOrigin {
    let domain = (!domain.is_empty()).then(|| Name::from_text(domain).unwrap());
    let client = Some(IpAddr::from([10, 0, 0, client]));
    FlightOrigin { scope, domain, client, asked_at: Instant::now(), recovered_at: None }
}

/// Asks for names of domains that have nothing in flight, as a client that has nothing in flight.
fn admits_others(flights: &mut Flights, scope: u64) -> usize {
    (0..60).filter(|number| flights.admit(origin(scope, &format!("other{number}.example"), 250))).count()
}

#[test]
fn one_domain_leaves_half_to_others_whatever_the_number_of_clients() {
    for clients in [1, 3, 100] {
        let mut flights = Flights::default();
        let of_domain = flights.fill(|_| (0..clients).map(|client| origin(OUTSIDE, "dead.example", client)).collect());
        assert!((256..=512).contains(&of_domain), "{clients}: {of_domain}");
        assert_eq!((admits_others(&mut flights, OUTSIDE), admits_others(&mut flights, CLUSTER)), (60, 60));
    }
}

/// Takes half of the places, each for a domain of its own.
fn fill_half(flights: &mut Flights, max_in_flight: usize) {
    let mut number = 0;
    while flights.places.len() < max_in_flight / 2 {
        number += 1;
        assert!(flights.admit(origin(OUTSIDE, &format!("n{number}.com"), (number % 50) as u8)));
    }
}

#[test]
fn one_domain_gets_a_tenth_of_the_queries_in_flight_once_half_of_the_places_are_taken() {
    for (mut flights, max) in [(Flights::default(), 1024), (Flights::of_zone_resolver(), 4096)] {
        fill_half(&mut flights, max);
        let of_domain = flights.fill(|turn| vec![origin(OUTSIDE, "busy.example", turn as u8)]);
        let in_flight = flights.places.len();
        assert!(10 * of_domain <= in_flight && 10 * (of_domain + 1) > in_flight, "{of_domain} of {in_flight}");
        assert_eq!((admits_others(&mut flights, OUTSIDE), admits_others(&mut flights, CLUSTER)), (60, 60));
        let of_cluster = flights.fill(|turn| (0..100).map(|_| origin(CLUSTER, "", turn as u8)).take(1).collect());
        assert!(of_cluster > max / 20, "names of the cluster have no domain: {of_cluster}");
    }
}

#[test]
fn one_domain_keeps_the_places_that_it_took_before_and_gets_no_more() {
    let mut flights = Flights::default();
    let of_domain = flights.fill(|turn| vec![origin(OUTSIDE, "busy.example", turn as u8)]);
    assert!(of_domain > 256 && of_domain < 512, "below half it has what is free: {of_domain}");
    let mut number = 0;
    while flights.places.len() < 600 {
        number += 1;
        assert!(flights.admit(origin(OUTSIDE, &format!("n{number}.com"), (number % 50) as u8)));
    }
    assert!(!flights.admit(origin(OUTSIDE, "busy.example", 1)));
}

#[test]
fn a_zone_resolver_of_one_scope_has_4096_queries_in_flight_for_many_nodes_and_half_of_them_for_one() {
    let mut flights = Flights::of_zone_resolver();
    let of_node = flights.fill(|turn| vec![origin(OUTSIDE, &format!("n{turn}.com"), 1)]);
    assert!((2048..3072).contains(&of_node), "{of_node}");
    let of_nodes =
        flights.fill(|turn| (0..250).map(|client| origin(OUTSIDE, &format!("n{turn}-{client}.com"), client)).collect());
    let in_flight = of_node + of_nodes;
    assert!((4080..=4096).contains(&in_flight), "{in_flight}");
}

#[test]
fn clients_that_ask_for_a_new_domain_each_time_leave_room_for_clients_that_have_nothing() {
    for (clients, room) in [(1, 60), (3, 60), (8, 20)] {
        let mut flights = Flights::default();
        let of_clients = flights.fill(|turn| {
            (0..clients).map(|client| origin(OUTSIDE, &format!("n{turn}-{client}.com"), client)).collect()
        });
        assert!(of_clients >= 512, "{clients}: {of_clients}");
        let others = admits_others(&mut flights, OUTSIDE);
        assert!(others >= room, "{clients}: {others}");
        assert_eq!(admits_others(&mut flights, CLUSTER), 60);
    }
}

#[test]
fn names_of_the_cluster_are_shared_between_clients_alone() {
    let mut flights = Flights::default();
    let of_client = flights.fill(|_| vec![origin(CLUSTER, "", 1)]);
    assert!(of_client >= 512, "a node of its own gets half of all: {of_client}");
    assert_eq!(admits_others(&mut flights, CLUSTER), 60);
}

#[test]
fn every_scope_has_room_when_three_others_are_full() {
    let mut flights = Flights::default();
    flights.fill(|turn| {
        let origins = (0..60).map(|client| origin(client.into(), &format!("n{turn}-{client}.com"), client));
        origins.filter(|origin| origin.scope > OUTSIDE && origin.scope < 6).collect()
    });
    assert!(admits_others(&mut flights, CLUSTER) >= 40);
}

#[test]
fn a_domain_whose_last_queries_all_failed_gets_few_places_until_one_is_answered() {
    let now = Instant::now();
    let mut flights = Flights::default();
    let dead = || vec![origin(OUTSIDE, "dead.example", 1)];
    let of_domain = flights.fill(|_| dead());
    flights.release(of_domain, FlightEnd::Abandoned, now);
    assert_eq!(flights.fill(|_| dead()), of_domain, "queries that nobody waited for say nothing");
    flights.release(of_domain, FlightEnd::Failed, now);
    assert_eq!(flights.fill(|_| dead()), MAX_UNSHARED + MAX_OF_FAILING_DOMAIN);
    let recovered_at = Some(now + Duration::from_secs(1));
    assert!(flights.admit(FlightOrigin { recovered_at, ..origin(OUTSIDE, "dead.example", 1) }));
    assert!(flights.admit(origin(CLUSTER, "dead.example", 1)), "it fails in one scope");
    let count = flights.places.len();
    flights.release(count, FlightEnd::Answered, now);
    assert_eq!(flights.fill(|_| dead()), of_domain);
}

#[test]
fn no_more_than_1024_queries_are_in_flight_and_none_is_counted_when_all_have_ended() {
    let mut flights = Flights::default();
    flights.fill(|turn| {
        (0..250_u8).map(|number| origin(number.into(), &format!("n{turn}-{number}.com"), number)).collect()
    });
    let count = flights.places.len();
    assert!(count <= Room::NODE_CACHE.in_flight && count > Room::NODE_CACHE.in_flight * 9 / 10, "{count}");
    flights.release(count, FlightEnd::Failed, Instant::now());
    let Admission { shared, by_scope, by_domain, by_client, .. } = flights.admission;
    assert_eq!((shared, by_scope.0.len(), by_domain.0.len(), by_client.len()), (0, 0, 0, 0));
}

/// Origin of a query of an IPv6 client, for a domain of its own.
fn ipv6_origin(network: u16, host: usize, number: usize) -> FlightOrigin {
    let address = std::net::Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host as u16);
    FlightOrigin { client: Some(address.into()), ..origin(OUTSIDE, &format!("n{number}-{host}.com"), 0) }
}

#[test]
fn an_attacker_with_many_addresses_of_one_ipv6_network_leaves_what_one_client_leaves() {
    let mut flights = Flights::default();
    let of_attacker = flights.fill(|turn| (0..400).map(|host| ipv6_origin(1, host, turn)).collect());
    assert!(of_attacker <= 128 + 478, "{of_attacker}");
    assert_eq!((admits_others(&mut flights, OUTSIDE), admits_others(&mut flights, CLUSTER)), (60, 60));
}

#[test]
fn one_hostile_pod_leaves_room_for_99_others_of_its_ipv6_network() {
    let mut flights = Flights::default();
    flights.fill(|turn| vec![ipv6_origin(1, 0, turn)]);
    let others = (1..100).filter(|host| flights.admit(ipv6_origin(1, *host, 0))).count();
    assert_eq!(others, 99);
}

#[test]
fn a_refusal_names_the_share_that_is_used_up() {
    let refusal = |flights: &mut Flights, origin| flights.admission.admit(flights.places.len(), || origin).unwrap_err();
    let mut flights = Flights::default();
    flights.fill(|_| vec![origin(OUTSIDE, "dead.example", 1)]);
    assert_eq!(refusal(&mut flights, origin(OUTSIDE, "dead.example", 2)), RefusalReason::Domain);
    let count = flights.places.len();
    flights.release(count, FlightEnd::Failed, Instant::now());
    flights.fill(|_| vec![origin(OUTSIDE, "dead.example", 1)]);
    assert_eq!(refusal(&mut flights, origin(OUTSIDE, "dead.example", 2)), RefusalReason::FailingDomain);
    let mut flights = Flights::default();
    flights.fill(|turn| vec![origin(OUTSIDE, &format!("n{turn}.com"), 1)]);
    assert_eq!(refusal(&mut flights, origin(OUTSIDE, "other.com", 1)), RefusalReason::Client);
    let mut flights = Flights::default();
    flights.fill(|turn| vec![FlightOrigin { client: None, ..origin(OUTSIDE, &format!("n{turn}.com"), 0) }]);
    assert_eq!(refusal(&mut flights, origin(OUTSIDE, "other.com", 251)), RefusalReason::Scope);
    assert_eq!(
        flights.admission.admit(Room::NODE_CACHE.in_flight, || panic!("no share matters")).unwrap_err(),
        RefusalReason::Total
    );
}
