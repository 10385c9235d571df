//! Retry budget of a group of servers: a tenth of its first sends and the share of them that is known to be lost, saved
//! up for one second of them at the most. Pure: the time is a parameter.
//!
//! Where names or a whole upstream are silent, retries help nobody and multiply the load. So they are a share of it,
//! whatever fails. A retry that is answered while the sends before it are not gives its token back: loss that is known
//! is repaired for nothing. After silence that ends at 15 % of first sends: above, it may be a limit, which answers a
//! part of the retries, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Hundredths of a token that a retry takes.
const TOKEN: u64 = 100;
/// Hundredths of a token that a first send adds: retries are 10 % of first sends.
const PER_FIRST_SEND: u64 = 10;
/// Most hundredths that a first send adds where loss is known, which is at most a half.
const MAX_FOR_LOSS: u64 = 50;
/// Two-hundredths of a token that may be given back for a first send: retries are 25 % of first sends at the most. Loss
/// of 10 % each way takes 23 %.
const RETURNED_PER_FIRST_SEND: u64 = 30;
/// Hundredths of a token that may always be saved up, so that a quiet process can retry: ten retries.
const MIN_BURST: u64 = 10 * TOKEN;
/// Time in which one token is added up to [`MIN_BURST`] without any send.
const QUIET_REFILL_INTERVAL: Duration = Duration::from_secs(1);
/// Time whose first sends are the burst: as many tokens as there were first sends in it.
const BURST_PERIOD: Duration = Duration::from_secs(1);

/// Retry budget of a group. A first send costs one relaxed addition; the rest is done for a retry, and once a second.
#[derive(Debug, Default)]
pub(in crate::upstream) struct RetryBudget {
    first_sends: AtomicU64,
    account: Mutex<Account>,
}

/// Tokens of a budget, in hundredths.
#[derive(Debug)]
struct Account {
    tokens: u64,
    /// Tokens that may be given back, in two-hundredths of a token.
    returnable: u64,
    /// Hundredths of a token that a first send adds because its loss is known.
    for_loss: u64,
    burst: u64,
    /// First sends whose tokens are added.
    credited: u64,
    /// Start of the current period, with the first sends before it; `None` before the first use.
    period: Option<(Instant, u64)>,
    refilled_at: Option<Instant>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            tokens: MIN_BURST,
            returnable: 2 * MIN_BURST,
            for_loss: 0,
            burst: MIN_BURST,
            credited: 0,
            period: None,
            refilled_at: None,
        }
    }
}

impl RetryBudget {
    /// Counts the first send of a query.
    pub(in crate::upstream) fn count_first_send(&self) {
        self.first_sends.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a token for a retry, if there is one.
    pub(in crate::upstream) fn take(&self, now: Instant) -> bool {
        self.take_above(0, now)
    }

    /// Takes a token for a hedge, which leaves half of the burst to retries.
    pub(in crate::upstream) fn take_hedge(&self, now: Instant) -> bool {
        let reserve = self.account().burst / 2;
        self.take_above(reserve, now)
    }

    /// Gives tokens back: retries that took them were answered, and the sends before them had a bad response.
    pub(in crate::upstream) fn give_back(&self, tokens: u8) {
        let mut account = self.account();
        account.tokens = account.burst.min(account.tokens + u64::from(tokens) * TOKEN);
    }

    /// Gives tokens back like [`Self::give_back`] where the sends before the retries were silent: for 15 % of first
    /// sends at the most.
    pub(in crate::upstream) fn give_back_for_silence(&self, tokens: u8) {
        let mut account = self.account();
        let given_back = (u64::from(tokens) * TOKEN).min(account.returnable / 2);
        account.returnable -= 2 * given_back;
        account.tokens = account.burst.min(account.tokens + given_back);
    }

    /// Takes tokens again that were given back too early: a send before the retry was answered late.
    pub(in crate::upstream) fn take_again(&self, tokens: u8) {
        let mut account = self.account();
        account.tokens = account.tokens.saturating_sub(u64::from(tokens) * TOKEN);
    }

    /// Adds the tokens of the first sends up to `now`. `known_loss` is the share of the first sends to come that is
    /// lost at any rate. Called once a second, so that the burst follows the load.
    pub(in crate::upstream) fn refill(&self, known_loss: f64, now: Instant) {
        let first_sends = self.first_sends.load(Ordering::Relaxed);
        let mut account = self.account();
        account.refill(first_sends, now);
        account.for_loss = ((known_loss * TOKEN as f64) as u64).min(MAX_FOR_LOSS);
    }

    fn take_above(&self, reserve: u64, now: Instant) -> bool {
        let first_sends = self.first_sends.load(Ordering::Relaxed);
        let mut account = self.account();
        account.refill(first_sends, now);
        let has_token = account.tokens >= reserve + TOKEN;
        if has_token {
            account.tokens -= TOKEN;
        }
        has_token
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn refill(&mut self, first_sends: u64, now: Instant) {
        let (started, before) = *self.period.get_or_insert((now, first_sends));
        let elapsed = now.saturating_duration_since(started);
        if elapsed >= BURST_PERIOD {
            let sends = u128::from(first_sends.saturating_sub(before));
            let of_a_period = sends * BURST_PERIOD.as_millis() / elapsed.as_millis();
            self.burst = MIN_BURST.max(u64::try_from(of_a_period).unwrap_or(u64::MAX / TOKEN) * TOKEN);
            self.period = Some((now, first_sends));
        }
        let added = first_sends.saturating_sub(self.credited);
        self.credited = first_sends;
        self.tokens = self.burst.min(self.tokens + added * (PER_FIRST_SEND + self.for_loss));
        self.returnable = (2 * self.burst).min(self.returnable + added * RETURNED_PER_FIRST_SEND);
        let refilled_at = *self.refilled_at.get_or_insert(now);
        let intervals = now.saturating_duration_since(refilled_at).as_secs() / QUIET_REFILL_INTERVAL.as_secs();
        if intervals > 0 {
            self.refilled_at = Some(now);
            self.tokens = self.tokens.max(MIN_BURST.min(self.tokens + intervals * TOKEN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a budget for so many seconds with this load. Each first send is followed by as many tries to retry. Returns
    /// the number of retries.
    fn run(budget: &RetryBudget, start: Instant, seconds: u64, rate: u64, tries: u64) -> u64 {
        let mut retries = 0;
        for send in 0..seconds * rate {
            let now = start + Duration::from_micros(send * 1_000_000 / rate);
            if send % rate == 0 {
                budget.refill(0.0, now);
            }
            budget.count_first_send();
            retries += (0..tries).filter(|_| budget.take(now)).count() as u64;
        }
        retries
    }

    #[test]
    fn retries_are_a_tenth_of_first_sends_whatever_fails() {
        for rate in [50, 300, 8_000] {
            let retries = run(&RetryBudget::default(), Instant::now(), 60, rate, 2);
            let share = retries as f64 / (60 * rate) as f64;
            assert!((0.1..=0.1 + 1.2 / rate as f64 + 0.004).contains(&share), "{rate}/s: {share}");
        }
    }

    #[test]
    fn known_loss_adds_as_many_retries_and_no_more_than_half_of_the_first_sends() {
        for (known_loss, expected) in [(0.1, 0.2), (0.3, 0.4), (1.0, 0.6)] {
            let budget = RetryBudget::default();
            let start = Instant::now();
            let mut retries = 0;
            for send in 0..60_000_u64 {
                let now = start + Duration::from_millis(send);
                if send % 1_000 == 0 {
                    budget.refill(known_loss, now);
                }
                budget.count_first_send();
                retries += (0..2).filter(|_| budget.take(now)).count();
            }
            let share = retries as f64 / 60_000.0;
            assert!((expected - 0.002..expected + 0.005).contains(&share), "{known_loss}: {share}");
        }
    }

    #[test]
    fn one_second_of_first_sends_is_saved_up_and_no_more() {
        for rate in [300, 8_000] {
            let budget = RetryBudget::default();
            let start = Instant::now();
            run(&budget, start, 30, rate, 0);
            let now = start + Duration::from_secs(30);
            budget.refill(0.0, now);
            let burst = (0..10 * rate).filter(|_| budget.take(now)).count() as u64;
            assert!((rate - 1..=rate).contains(&burst), "{burst} at {rate}/s");
        }
    }

    #[test]
    fn a_quiet_process_can_retry_and_gets_a_token_a_second_back() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        let burst = (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(burst, 10);
        assert!(!budget.take(now + Duration::from_millis(900)));
        assert!(budget.take(now + Duration::from_secs(1)) && !budget.take(now + Duration::from_secs(1)));
        budget.refill(0.0, now + Duration::from_secs(3600));
        let burst = (0..100).filter(|_| budget.take(now + Duration::from_secs(3600))).count();
        assert_eq!(burst, 10, "after an hour");
    }

    #[test]
    fn a_burst_shrinks_with_the_load() {
        let budget = RetryBudget::default();
        let start = Instant::now();
        run(&budget, start, 30, 1_000, 0);
        let later = start + Duration::from_secs(30);
        run(&budget, later, 2, 20, 0);
        budget.refill(0.0, later + Duration::from_secs(2));
        let burst = (0..1_000).filter(|_| budget.take(later + Duration::from_secs(2))).count();
        assert!((20..=21).contains(&burst), "{burst}");
    }

    #[test]
    fn hedges_leave_half_of_the_burst_to_retries() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| budget.take_hedge(now)).count(), 5);
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 5);
    }

    /// Returns how many of these tries to retry get a token, one for each of `first_sends`, which are all answered.
    fn answered_retries(budget: &RetryBudget, first_sends: u32, every: u32, now: Instant) -> u32 {
        let mut retries = 0;
        for send in 0..first_sends {
            budget.count_first_send();
            if send % every == 0 && budget.take(now) {
                budget.give_back_for_silence(1);
                retries += 1;
            }
        }
        retries
    }

    #[test]
    fn retries_that_repair_loss_cost_nothing_up_to_a_quarter_of_first_sends() {
        let now = Instant::now();
        assert_eq!(answered_retries(&RetryBudget::default(), 10_000, 5, now), 2_000, "loss of a fifth");
        let retries = answered_retries(&RetryBudget::default(), 10_000, 1, now);
        assert!((2_490..=2_530).contains(&retries), "a limit that answers all retries: {retries}");
    }

    #[test]
    fn retries_that_repair_bad_responses_cost_nothing() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        assert!((0..1_000).all(|_| {
            let has_token = budget.take(now);
            budget.give_back(1);
            has_token
        }));
        budget.give_back(u8::MAX);
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 10, "never more than the burst");
    }

    #[test]
    fn retries_that_were_too_early_take_their_tokens() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        (0..1_000).for_each(|_| {
            if budget.take(now) {
                budget.give_back(1);
                budget.take_again(1);
            }
        });
        assert!(!budget.take(now));
    }
}
