//! One question to one server, with everything that may take: again over TCP when the answer is too long or its name is in
//! another case, again without EDNS when the server cannot read it. What comes of it is told to the race and remembered for the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use node_cache_config::Protocol;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Server;
use super::exchange::{self, Form, Outcome};
use crate::packet::Response;
use crate::packet::question::Question;

/// How long a server that lost the case of a name has to answer over TCP.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// What is told to the race, with the number of the attempt.
#[derive(Debug)]
pub(super) enum Event {
    /// No answer yet, but it would be time for one. It may still come.
    Late,
    /// An answer, good or bad.
    Answered(usize, Response),
    /// There will be no answer.
    Over,
}

/// How long a server has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it is slower than usual, and the race goes on beside it.
    pub(super) usual: Duration,
    /// Until it counts as failing, and the race goes on again.
    pub(super) failing: Duration,
}

impl Patience {
    /// No server is slower than usual before it fails.
    pub(super) const fn until_failing(failing: Duration) -> Self {
        Self { usual: failing, failing }
    }
}

/// Sends `question` to `server`. When its patience is over, or it is told that nobody listens there, the race goes on, while
/// the answer is still waited for until `deadline`.
pub(super) async fn attempt(
    number: usize,
    server: Arc<Server>,
    question: Question,
    patience: Patience,
    deadline: Instant,
    events: mpsc::Sender<Event>,
) {
    server.count_sent();
    let started = Instant::now();
    let unreachable = Notify::new();
    let mut work = std::pin::pin!(ask(&server, &question, &unreachable));
    let mut counted = false;
    let outcome = 'asked: {
        for (patience, fails) in [(patience.usual, patience.usual >= patience.failing), (patience.failing, true)] {
            let gone = tokio::select! {
                outcome = &mut work => break 'asked Some(outcome),
                () = sleep_until(started + patience) => false,
                () = unreachable.notified() => true,
            };
            if fails || gone {
                counted = true;
                server.failed(&question);
            }
            // The race may be over; then nobody needs to hear of it, here and below.
            let _ = events.send(Event::Late).await;
            if counted {
                break;
            }
        }
        timeout_at(deadline, work).await.ok()
    };
    let event = match outcome {
        Some(Ok(response)) => {
            server.answered(started.elapsed());
            Event::Answered(number, response)
        }
        Some(Err(error)) => {
            tracing::debug!("{}: {error}", server.address());
            if !counted {
                server.failed(&question);
            }
            Event::Over
        }
        None => Event::Over,
    };
    let _ = events.send(event).await;
}

async fn ask(server: &Server, question: &Question, unreachable: &Notify) -> io::Result<Response> {
    let mut form = Form { edns: true, mixed_case: server.keeps_case() };
    let mut over_tcp = server.protocol() == Protocol::Tcp;
    let mut case_lost = false;
    loop {
        let outcome = if case_lost {
            match timeout(CONFIRMATION, exchange::tcp(server.connection(), question, form, server.tap())).await {
                Ok(Ok((outcome, case_kept))) => {
                    // Only what nobody can forge tells that it was this server which lost the case.
                    if !case_kept {
                        server.lost_case();
                    }
                    outcome
                }
                // It cannot be asked over TCP. Whoever forged the answer has to guess everything once more.
                Ok(Err(_)) | Err(_) => {
                    (form.mixed_case, case_lost) = (false, false);
                    continue;
                }
            }
        } else if over_tcp {
            exchange::tcp(server.connection(), question, form, server.tap()).await?.0
        } else {
            exchange::udp(server.sockets(), question, form, unreachable, server.tap()).await?
        };
        match outcome {
            Outcome::Answered(response) => return Ok(response),
            Outcome::Truncated => over_tcp = true,
            Outcome::CaseLost => case_lost = true,
            // For this question only: a forged complaint must not cost the server its EDNS.
            Outcome::Unreadable => form.edns = false,
        }
    }
}
