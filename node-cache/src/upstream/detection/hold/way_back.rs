//! Way back from a ceiling: steps while they are clean, or doubling after silence.

use std::time::Duration;

use super::{Context, Hold, LATE_SETTLE_TIME, MIN_WAIT, NAMING_QUERIES, Next, Plan, RAMP_TIME, UNCHANGED_LOSS};

/// Share of the ceiling before a step that it falls back to after a loss smaller than this.
const FAILED_STEP_SHARE: f64 = 0.97;
const SMALL_LOSS: f64 = 0.15;
/// Loss of a step below which a second look decides, when so many control queries were answered and none was lost.
const DOUBTFUL_LOSS: f64 = 0.05;
const DOUBTING_CONTROLS: u32 = 9;
/// Ceiling, as a multiple of the demand, above which all traffic is back.
const ENOUGH: f64 = 1.1;
/// Ceilings at rest in a row that left loss, after which a ceiling is not the cure.
const MAX_LOWERED_AT_REST: u32 = 6;
/// Longest wait before the ceiling is raised.
const MAX_WAIT: Duration = Duration::from_secs(12);
/// First step up as a share of what is missing; each further one is twice as large a share. Of those behind one limit
/// the one that has least takes the largest steps.
const STEP_SHARE: f64 = 0.1;
/// Ceiling, as a multiple of the demand, that steps lead to.
const MISSING_FROM: f64 = 1.3;
const STEP_TIME: Duration = Duration::from_secs(4);
/// Control queries answered in a row after which the share of names that nobody answers may be learned anew.
const LEARNING_CONTROLS: u32 = 200;
const LEARNING_RATE: f64 = 0.3;

impl Hold {
    fn is_enough(&self, demand: f64) -> bool {
        self.ceiling.is_none_or(|ceiling| ceiling >= ENOUGH * demand)
    }

    pub(super) fn wait_for_step(&mut self, context: &mut Context<'_>) -> Next {
        let (now, baseline) = (context.now, *context.baseline);
        let is_end = now >= self.until;
        if self.interval.is_lossy_at_rest(baseline, is_end) {
            let loss = self.interval.loss(baseline).share;
            if self.lowered == 0 {
                self.loss = loss;
            } else if self.lowered >= MAX_LOWERED_AT_REST && loss >= UNCHANGED_LOSS * self.loss {
                if self.is_interval_late(baseline) {
                    let carried = self.interval.carried(baseline);
                    *self = Self { retry_time: self.retry_time, ..Self::act(carried, true, now) };
                } else {
                    self.give_up(loss, baseline, now);
                }
                return Next::Held;
            }
            self.lower(context);
            self.clean = self.ceiling.unwrap_or_default();
            self.wait_after_loss(context);
        } else if self.is_enough(context.demand) {
            return Next::Returning;
        } else if is_end {
            if self.answered_controls >= LEARNING_CONTROLS && self.interval.sent() >= NAMING_QUERIES {
                *context.baseline += LEARNING_RATE * (self.interval.share() - baseline);
            }
            self.raise(0, context);
        }
        Next::Held
    }

    pub(super) fn wait_after_loss(&mut self, context: &Context<'_>) {
        let is_late = self.is_interval_late(*context.baseline);
        self.begin(Plan::Wait, self.wait.mul_f64(context.jitter), context.now);
        if is_late {
            self.interval.restart(context.now + LATE_SETTLE_TIME);
        }
    }

    fn raise(&mut self, index: u32, context: &Context<'_>) {
        let ceiling = self.ceiling.unwrap_or_default();
        (self.clean, self.lowered, self.is_in_doubt) = (ceiling, 0, false);
        let share = STEP_SHARE * f64::from(1_u32 << index.min(8));
        let missing = (MISSING_FROM * context.demand - ceiling).max(0.0);
        let step = share.min(1.0) * missing;
        self.ceiling = Some(ceiling + step);
        self.begin(Plan::Step(index), STEP_TIME.mul_f64(context.jitter), context.now);
    }

    /// Returns whether the loss of a step may be that of names that nobody answers: it is small, and no control query
    /// is part of it.
    fn may_be_chance(&self, baseline: f64) -> bool {
        let controls = self.interval.controls();
        let is_small = self.interval.loss(baseline).share < DOUBTFUL_LOSS;
        is_small && controls.overdue == 0 && controls.answered >= DOUBTING_CONTROLS
    }

    pub(super) fn climb(&mut self, index: u32, context: &mut Context<'_>) -> Next {
        let is_end = context.now >= self.until;
        if self.interval.is_lossy(*context.baseline, is_end) {
            if !self.is_in_doubt && self.may_be_chance(*context.baseline) {
                self.is_in_doubt = true;
                self.begin(Plan::Step(index), STEP_TIME.mul_f64(context.jitter), context.now);
                return Next::Held;
            }
            self.lower(context);
            // The ceiling before the step was clean, so that it is not much too high, unless the limit has fallen.
            let baseline = *context.baseline;
            let is_small = self.interval.loss(baseline).share < SMALL_LOSS && !self.is_interval_late(baseline);
            let least = if is_small { FAILED_STEP_SHARE * self.clean } else { 0.0 };
            self.ceiling = self.ceiling.map(|ceiling| ceiling.max(least).min(self.clean));
            self.lowered = 0;
            self.wait = self.wait.max((self.wait * 2).min(MAX_WAIT));
            self.wait_after_loss(context);
        } else if is_end {
            if self.is_enough(context.demand) {
                return Next::Returning;
            }
            if index > 0 {
                // More has room than before the limit: a step that fails by chance is not to cost a long wait.
                self.wait = self.wait.min(MIN_WAIT);
            }
            self.raise(index + 1, context);
        }
        Next::Held
    }

    pub(super) fn double(&mut self, context: &mut Context<'_>) -> Next {
        // Without a query nothing has been shown.
        let is_end = context.now >= self.until && (self.interval.sent() > 0 || context.demand < 1.0);
        if self.interval.is_lossy(*context.baseline, false) {
            self.lower(context);
            self.wait_after_loss(context);
        } else if is_end {
            if self.is_enough(context.demand) {
                return Next::Returning;
            }
            self.clean = self.ceiling.unwrap_or_default();
            self.ceiling = Some(2.0 * self.clean);
            self.begin(Plan::Ramp, RAMP_TIME, context.now);
        }
        Next::Held
    }
}
