//! Questions that a server has answered, for its probes: a server that is silent for one domain is asked for another
//! one. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::Name;
use crate::dns::codes::rtype;
use crate::dns::question::Question;

/// Most questions that are kept, each of another registered domain.
const MAX_QUESTIONS: usize = 4;
/// Most registered domains that are known to be silent since the last response.
const MAX_SILENT_DOMAINS: usize = 8;
/// Shortest interval between two recorded answers while there are fewer than [`MAX_QUESTIONS`].
const FILL_INTERVAL: Duration = Duration::from_millis(50);
/// Shortest interval between two recorded answers after that. Recording each answer would cost each miss, and let one
/// client replace all questions with its own.
const REPLACE_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest interval between two probes of a down server with one question. The servers behind it are not sent the same
/// query again and again; in between the probe asks for the root.
const SAME_QUESTION_INTERVAL: Duration = Duration::from_secs(5);

/// The last questions that a server answered with NOERROR or NXDOMAIN, and the domains that it is silent for.
#[derive(Debug, Default)]
pub(super) struct AnsweredQuestions {
    /// The oldest first.
    questions: VecDeque<AnsweredQuestion>,
    recorded_at: Option<Instant>,
    /// Registered domains of queries without a response, since the last response.
    silent_domains: VecDeque<Name>,
    /// Number of probes of a down server.
    probes: u32,
}

#[derive(Debug)]
struct AnsweredQuestion {
    question: Arc<Question>,
    domain: Name,
    probed_at: Option<Instant>,
}

impl AnsweredQuestions {
    /// Records a response at `now`; `answered` is its question when the rcode is NOERROR or NXDOMAIN.
    pub(super) fn record_response(&mut self, answered: Option<&Arc<Question>>, now: Instant) {
        self.silent_domains.clear();
        let Some(question) = answered.filter(|_| self.is_record_due(now)) else { return };
        self.recorded_at = Some(now);
        let domain = question.name.registered_domain();
        if domain == Name::root() {
            return;
        }
        let previous = self.questions.iter().position(|known| known.domain == domain);
        let probed_at = previous.and_then(|index| self.questions.remove(index)).and_then(|known| known.probed_at);
        if self.questions.len() >= MAX_QUESTIONS {
            self.questions.pop_front();
        }
        self.questions.push_back(AnsweredQuestion { question: question.clone(), domain, probed_at });
    }

    fn is_record_due(&self, now: Instant) -> bool {
        let interval = if self.questions.len() < MAX_QUESTIONS { FILL_INTERVAL } else { REPLACE_INTERVAL };
        self.recorded_at.is_none_or(|at| now >= at + interval)
    }

    /// Records a query without a response in time.
    pub(super) fn record_silence(&mut self, question: &Question) {
        let domain = question.name.registered_domain();
        if self.silent_domains.contains(&domain) {
            return;
        }
        if self.silent_domains.len() >= MAX_SILENT_DOMAINS {
            self.silent_domains.pop_front();
        }
        self.silent_domains.push_back(domain);
    }

    /// Returns the questions that show whether a silent server is down: the root, and the latest answered question,
    /// of a domain that is not silent if there is one. Where one question is all that `max` allows, that of a domain
    /// that is not silent, or else the root.
    pub(super) fn confirmation(&self, max: usize) -> Vec<Arc<Question>> {
        let is_silent = |known: &&AnsweredQuestion| self.silent_domains.contains(&known.domain);
        let mut newest_first = self.questions.iter().rev();
        let other = newest_first.find(|known| !is_silent(known));
        let answered = if max > 1 { other.or_else(|| self.questions.back()) } else { other };
        let root = Arc::new(root_question());
        answered.map(|known| known.question.clone()).into_iter().chain([root]).take(max).collect()
    }

    /// Returns the question of the next probe of a down server: in turns the root and an answered question, each of
    /// those at most once in five seconds. A server that has answered no question is asked for `fallback` in turns with
    /// the root.
    pub(super) fn next_probe(&mut self, fallback: Option<&Arc<Question>>, now: Instant) -> Arc<Question> {
        let is_turn_of_root = self.probes.is_multiple_of(2);
        self.probes = self.probes.wrapping_add(1);
        let is_due = |known: &&mut AnsweredQuestion| {
            known.probed_at.is_none_or(|at| now.saturating_duration_since(at) >= SAME_QUESTION_INTERVAL)
        };
        let question = if is_turn_of_root {
            None
        } else if self.questions.is_empty() {
            fallback.cloned()
        } else {
            let due = self.questions.iter_mut().filter(is_due).min_by_key(|known| known.probed_at);
            due.map(|known| {
                known.probed_at = Some(now);
                known.question.clone()
            })
        };
        question.unwrap_or_else(|| Arc::new(root_question()))
    }
}

/// Returns the question for the name servers of the root, which every recursive server knows.
fn root_question() -> Question {
    Question::plain(&Name::root(), rtype::NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn question(name: &str) -> Arc<Question> {
        Arc::new(Question::plain(&Name::from_text(name).unwrap(), rtype::A))
    }

    /// Returns the questions after an answer a second to each of these names.
    fn after_answers(names: &[&str], mut now: Instant) -> AnsweredQuestions {
        let mut answered = AnsweredQuestions::default();
        for name in names {
            answered.record_response(Some(&question(name)), now);
            now += SECOND;
        }
        answered
    }

    fn names(questions: &[Arc<Question>]) -> Vec<String> {
        questions.iter().map(|question| question.name.to_string()).collect()
    }

    #[test]
    fn a_silent_server_is_asked_for_the_root_and_an_answered_name_of_another_domain() {
        let now = Instant::now();
        let mut answered = after_answers(&["www.one.example", "www.two.example", "a.shop.test", "www.dead.test"], now);
        assert_eq!(names(&answered.confirmation(2)), ["www.dead.test.", "."]);
        answered.record_silence(&question("x.dead.test"));
        assert_eq!(names(&answered.confirmation(2)), ["a.shop.test.", "."]);
        assert_eq!(names(&answered.confirmation(1)), ["a.shop.test."]);
        for domain in 0..20 {
            answered.record_silence(&question(&format!("www.dead-{domain}.test")));
        }
        assert_eq!(answered.silent_domains.len(), MAX_SILENT_DOMAINS);
        answered.record_response(None, now + 5 * SECOND);
        assert_eq!(names(&answered.confirmation(2)), ["www.dead.test.", "."]);
    }

    #[test]
    fn a_server_of_one_domain_is_asked_for_what_it_answered_although_the_domain_is_silent() {
        let mut answered = after_answers(&["www.corp.example"], Instant::now());
        answered.record_silence(&question("dead.corp.example"));
        answered.record_silence(&question("www.corp.example"));
        assert_eq!(names(&answered.confirmation(2)), ["www.corp.example.", "."]);
        assert_eq!(names(&AnsweredQuestions::default().confirmation(2)), ["."]);
        assert_eq!(names(&AnsweredQuestions::default().confirmation(1)), ["."]);
    }

    #[test]
    fn each_domain_is_kept_once_and_the_oldest_makes_room() {
        let now = Instant::now();
        let answered = after_answers(&["a.one.test", "b.one.test", "two.test", ".", "3.test", "4.test", "5.test"], now);
        let kept: Vec<_> = answered.questions.iter().map(|known| known.question.name.to_string()).collect();
        assert_eq!(kept, ["two.test.", "3.test.", "4.test.", "5.test."]);
    }

    #[test]
    fn answers_in_quick_succession_are_recorded_once() {
        let now = Instant::now();
        let mut answered = AnsweredQuestions::default();
        for millis in 0..40 {
            answered.record_response(Some(&question(&format!("{millis}.test"))), now + Duration::from_millis(millis));
        }
        assert_eq!(answered.questions.len(), 1);
    }

    #[test]
    fn a_down_server_is_asked_in_turns_for_the_root_and_names_that_it_answered() {
        let now = Instant::now();
        let mut answered = after_answers(&["one.test", "two.test"], now);
        answered.record_silence(&question("dead.example"));
        let fallback = question("dead.example");
        let asked = [0, 1, 2, 3, 4, 5, 6, 7].map(|second| answered.next_probe(Some(&fallback), now + second * SECOND));
        assert_eq!(names(&asked), [".", "one.test.", ".", "two.test.", ".", ".", ".", "one.test."]);
    }

    #[test]
    fn a_server_that_has_answered_nothing_is_also_asked_for_what_a_client_asks() {
        let mut answered = AnsweredQuestions::default();
        let fallback = question("www.example");
        let asked = [Some(&fallback), Some(&fallback), None].map(|other| answered.next_probe(other, Instant::now()));
        assert_eq!(names(&asked), [".", "www.example.", "."]);
    }
}
