//! Text of `explain ADDRESS`: how an upstream is, and what was detected about its limits.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Instant;

use node_cache_config::status::{DetectionStatus, EpisodeStatus};

use super::Resolver;
use super::inspect::{habits_text, health_text, write_line};
use crate::upstream::Server;

/// Second of now, from which times are shown as ages.
const NOW: u64 = 1 << 40;
/// Heads of the columns of an episode.
const COLUMNS: [&str; 7] = ["second", "offered", "sent", "answered", "late", "refused", "stale"];

impl Resolver {
    /// Returns the text about the upstreams with this address.
    pub(super) fn explain_upstream(&self, address: IpAddr, port: Option<u16>) -> String {
        let Some(snapshot) = self.snapshot() else { return "there is no configuration yet\n".to_owned() };
        let servers = snapshot.servers();
        let is_meant = |server: &Server| {
            let of_server = server.address();
            of_server.ip() == address && port.is_none_or(|port| port == of_server.port())
        };
        let mut text = String::new();
        for (scope, server) in servers.iter().filter(|(_, server)| is_meant(server)) {
            write_upstream(&mut text, scope, server);
        }
        if text.is_empty() {
            let mut addresses: Vec<String> = servers.iter().map(|(_, server)| server.address().to_string()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            text = format!("{address} is no upstream; these are: {}\n", addresses.join(", "));
        }
        text
    }
}

fn write_upstream(text: &mut String, scope: &str, server: &Server) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} ({scope})", server.address());
    let p95 = server.p95().map(|p95| format!(", p95 {:.1} ms", 1000.0 * p95.as_secs_f64())).unwrap_or_default();
    write_line(text, "health", format!("{}{p95}{}", health_text(server), habits_text(server)));
    let (sent, timeouts, in_flight) = (server.sent(), server.timeouts(), server.attempts_in_flight());
    write_line(text, "queries", format!("{sent} sent, {timeouts} timeouts, {in_flight} in flight"));
    if let Some(rate) = server.budget_rate() {
        write_line(text, "budget", format!("{rate} packets/s of this process"));
    }
    let now = Instant::now();
    match server.detection_status(|at| NOW - now.saturating_duration_since(at).as_secs()) {
        Some(detection) => write_detection(text, &detection),
        None => write_line(text, "limits", "not detected: this is a server of the tier, or a fallback"),
    }
}

fn write_detection(text: &mut String, detection: &DetectionStatus) {
    let ceiling = detection.ceiling.map(|ceiling| format!(", at most {ceiling} packets/s")).unwrap_or_default();
    let traffic = if detection.has_enough_traffic { "" } else { ", too few queries to find a limit" };
    write_line(text, "limits", format!("{}{ceiling}{traffic}", detection.state));
    write_line(text, "refused", detection.refused);
    write_line(text, "late", detection.late);
    if let Some(throttle) = &detection.throttle {
        let (answered, offered) = (throttle.answered, throttle.offered);
        let told = format!("{}: {answered} of {offered} queries/s, {} s ago", throttle.state, NOW - throttle.since);
        write_line(text, "told", told);
    }
    for episode in &detection.episodes {
        write_episode(text, episode);
    }
}

fn write_episode(text: &mut String, episode: &EpisodeStatus) {
    let length = match episode.ended {
        Some(ended) => format!("lasted {} s", ended.saturating_sub(episode.started)),
        None => "goes on".to_owned(),
    };
    write_line(text, "episode", format!("began {} s ago, {length}", NOW - episode.started));
    let heads = COLUMNS.map(|column| format!("{column:>9}")).concat();
    let _ = writeln!(text, "  {heads}  state");
    for (second, index) in episode.seconds.iter().zip(0_i64..) {
        let counts = [second.offered, second.sent, second.answered, second.late, second.refused, second.stale];
        let counts = counts.map(|count| format!("{count:>9}")).concat();
        let _ = writeln!(text, "  {:>9}{counts}  {}", index - i64::from(episode.before), second.state);
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::SecondStatus;

    use super::*;

    #[test]
    fn an_episode_is_a_table_whose_columns_are_aligned() {
        let second =
            |offered, state: &str| SecondStatus { offered, state: state.to_owned(), ..SecondStatus::default() };
        let seconds = vec![second(900, "well"), second(2_650, "suspected"), second(2_651, "limited")];
        let episode = EpisodeStatus { started: NOW - 60, ended: None, before: 2, seconds };
        let mut text = String::new();
        write_episode(&mut text, &episode);
        let expected = [
            "  episode         began 60 s ago, goes on",
            "     second  offered     sent answered     late  refused    stale  state",
            "         -2      900        0        0        0        0        0  well",
            "         -1     2650        0        0        0        0        0  suspected",
            "          0     2651        0        0        0        0        0  limited",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
