//! Progress report while a lab comes up: one line for each completed step, with the time it took; on a terminal also a
//! last line with the steps that run now, elsewhere a line every half minute.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Interval of lines about long steps where the output is no terminal.
const REMINDER_INTERVAL: Duration = Duration::from_secs(30);

/// Reporter of steps; clones share one output.
#[derive(Clone, Debug)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    silent: bool,
    terminal: bool,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// Number, description and start of each running step.
    steps: Vec<(u64, String, Instant)>,
    next: u64,
}

impl Progress {
    /// Returns a reporter to standard output.
    #[must_use]
    pub fn to_stdout() -> Self {
        Self::new(false)
    }

    /// Returns a reporter without output.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(true)
    }

    fn new(silent: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let inner = Arc::new(Inner { silent, terminal, running: Mutex::default() });
        if !silent {
            let watched = Arc::downgrade(&inner);
            std::thread::spawn(move || report_running(&watched));
        }
        Self { inner }
    }

    /// Runs `work` and reports how long it took, or that it failed.
    ///
    /// # Errors
    /// The error of `work`, with the description of the step before it.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.detailed_step(what, || work().map(|value| (value, String::new())))
    }

    /// Runs `work` like [`Self::step`], with a remark that is only known afterwards.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn detailed_step<T>(&self, what: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let started = Instant::now();
        let number = self.begin(what, started);
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok((value, remark)) => {
                let words = if remark.is_empty() { what.to_owned() } else { format!("{what}: {remark}") };
                self.end(number, &format!("{words:<88} {seconds:>7.1} s"));
                Ok(value)
            }
            Err(error) => {
                self.end(number, &format!("{:<88} {seconds:>7.1} s", format!("{what}: FAILED")));
                Err(error.context(format!("failed: {what}")))
            }
        }
    }

    /// Prints text unchanged, between the steps.
    pub fn say(&self, text: &str) {
        self.end(u64::MAX, text);
    }

    fn begin(&self, what: &str, started: Instant) -> u64 {
        let mut running = self.inner.lock();
        let number = running.next;
        running.next += 1;
        running.steps.push((number, what.to_owned(), started));
        number
    }

    fn end(&self, number: u64, line: &str) {
        let mut running = self.inner.lock();
        running.steps.retain(|(step, ..)| *step != number);
        if !self.inner.silent {
            let clear = if self.inner.terminal { "\r\x1b[K" } else { "" };
            write(&format!("{clear}{line}\n"));
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.terminal && !self.silent {
            write("\r\x1b[K");
        }
    }
}

/// Reports the running steps until all reporters are dropped.
fn report_running(inner: &Weak<Inner>) {
    let mut reminded = Instant::now();
    loop {
        sleep(Duration::from_millis(500));
        let Some(inner) = inner.upgrade() else { return };
        let running = inner.lock();
        let in_progress: Vec<String> = running
            .steps
            .iter()
            .map(|(_, what, started)| format!("{what} ({} s)", started.elapsed().as_secs()))
            .collect();
        if in_progress.is_empty() {
            continue;
        }
        if inner.terminal {
            let line: String = in_progress.join(", ").chars().take(100).collect();
            write(&format!("\r\x1b[K… {line}"));
        } else if reminded.elapsed() >= REMINDER_INTERVAL {
            reminded = Instant::now();
            let is_long = running.steps.iter().any(|(.., started)| started.elapsed() >= REMINDER_INTERVAL);
            if is_long {
                write(&format!("… {}\n", in_progress.join(", ")));
            }
        }
    }
}

/// Progress is optional: an output without a reader fails nothing.
fn write(text: &str) {
    let mut output = std::io::stdout().lock();
    drop(output.write_all(text.as_bytes()).and_then(|()| output.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_hands_on_its_value_and_names_itself_in_its_error() {
        let progress = Progress::silent();
        assert_eq!(progress.step("count", || Ok(3)).unwrap(), 3);
        let error = progress.step("count", || -> Result<()> { anyhow::bail!("no fingers") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "failed: count: no fingers");
        assert!(progress.inner.lock().steps.is_empty());
    }
}
